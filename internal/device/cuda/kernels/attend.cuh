// attend is exact attention over survivors: a flash decode whose items of work are read from a queue that the device filled, so that a graph stays valid whatever the budgets.
// whole is the same over whole sequences, whose items follow from their lengths, and ringed reads them through rings of copies. Four warps share an item, sixteen tokens at a time each; the last to finish of a unit's items
// joins them. 128 threads.
#pragma once
#include "histogram.cuh"
#include "running.cuh"
#include "whole.cuh"

constexpr int MAX_PARTS = 128;  // of a unit

template <int D, bool WHOLE, bool RING> struct AttendShared {
  static constexpr int STAGED = WHOLE ? 1 : D <= 128 ? 1024 : 512;  // survivors whose places are looked up at once
  float sums[RING ? 1 : TEAM][HEADS][D];  // or they are where the rings were
  float top[TEAM][HEADS], weight[TEAM][HEADS];
  int4 item;
  int ticket, last;
  float held[HEADS];
  uint2 staged[2][STAGED];  // of exactly read survivors and of the others: token | heads << 24, and its row
};

template <int D, bool WHOLE, bool RING> __device__ void attend_items(const Params &p, int GP) {
  typedef AttendShared<D, WHOLE, RING> Shared;
  SHARED_MEMORY(Shared, sh);
  constexpr int STAGED = Shared::STAGED;
  DYNAMIC_MEMORY(memory);
  float(*const sums)[HEADS][D] = RING ? (float(*)[HEADS][D])memory : sh.sums;
  wait_for_previous();
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, j = lane % 4, r = lane / 4, G = p.group;
  const size_t cap = (size_t)p.maxBlocks * BLOCK;
  // Thread 0 asks for the next item while the warps of this one are joined: not sooner, or the last items would wait for blocks that are not done.
  int ticket = blockIdx.x;
  const int items = WHOLE ? 0 : p.control[0];
  Items ofWhole;
  auto look = [&] {
    if constexpr (WHOLE) return ofWhole.find(p, __shfl_sync(~0u, ticket, 0), lane);
    else return ticket < items ? p.items[min(ticket, p.maxItems - 1)] : make_int4(-1, 0, 0, 0);
  };
  int4 item = make_int4(-1, 0, 0, 0);
  if (warp == 0) item = look();
  for (;;) {
    __syncthreads();
    if (threadIdx.x == 0) sh.item = item;
    __syncthreads();
    if (sh.item.x < 0) break;
    const int unit = sh.item.x, rank = sh.item.y, part = sh.item.z, s = unit / p.kvHeads, h = unit % p.kvHeads;
    const int n = p.lens[s], blocks = (n + BLOCK - 1) / BLOCK;
    // Where the part stands among those of all ranks.
    const int2 count = WHOLE ? make_int2(-1, p.window > 0 ? min(n, p.window) : n) : lane < p.ranks ? p.counts[unit * RANKS + lane] : make_int2(0, 0);
    const bool dense = WHOLE || __shfl_sync(~0u, count.x, 0) < 0;
    if (WHOLE && part == 0 && threadIdx.x == 0) p.counts[unit * RANKS] = count;
    const int ranks = dense ? 1 : p.ranks, ofRank = lane < ranks ? parts_of(p, count) : 0;
    const int allParts = __reduce_add_sync(~0u, ofRank), parts = __shfl_sync(~0u, ofRank, rank);
    const int place = __shfl_sync(~0u, before(ofRank, lane), rank) + part;
    const int skipped = dense && p.window > 0 ? max(n - p.window, 0) : 0;  // tokens out of sight
    const int exact = dense ? n - skipped : __shfl_sync(~0u, count.x, rank), others = dense ? 0 : __shfl_sync(~0u, count.y, rank);
    const int firstToken = blocks * rank / ranks * BLOCK, endToken = blocks * (rank + 1) / ranks * BLOCK;
    const int *table = p.table + s * p.tableStride;
    const u32 *list = p.list + unit * cap;
    auto cut = [&](int count, int i) { return i == parts ? count : (int)((long long)((count + 15) / 16) * i / parts) * 16; };

    auto row_of = [&](u32 entry) {
      const u32 t = entry & 0xffffff;
      return ((u32)table[t / BLOCK] * p.kvHeads + h) * BLOCK + t % BLOCK;
    };
    // stage looks survivors [lo,hi) up, so that the warps wait for that together and once, and asks for what will be read of them.
    auto stage = [&](int lo, int hi, bool body) {
      for (int i = lo + threadIdx.x; i < hi; i += TEAM * 32) {
        const u32 entry = body ? list[endToken - 1 - i] : list[firstToken + i], row = row_of(entry);
        sh.staged[body][i - lo] = uint2{entry, row};
        if (body) {
          prefetch(p.valueCodes + (size_t)row * (D / 2)), prefetch(p.valueScale + (size_t)row * (D / 32));
        } else {
#pragma unroll
          for (int c = 0; c < D; c += 64) prefetch(p.k + (size_t)row * D + c), prefetch(p.v + (size_t)row * D + c);
        }
      }
    };
    // survivor is entry and row of the token that lane%16 holds of the tile at i; those from hi on weigh nothing, but what is read of them must be finite.
    auto survivor = [&](int i, int lo, int hi, bool body, u32 &entry, u32 &row) {
      const int mine = i + lane % 16, held = min(mine, hi - 1);
      if (dense) {
        entry = (u32)(held + skipped) | 0xffu << 24, row = row_of(entry);
      } else {
        const uint2 x = sh.staged[body][held - lo];
        entry = x.x, row = x.y;
      }
      if (mine >= hi) entry = 0;
    };
    const int slot[4] = {2 * j, 2 * j + 1, 2 * j + 8, 2 * j + 9};  // the tile's tokens whose values and weights the thread holds

    Running<D> run;
    float low[4] = {};  // row lane/4: group; heads as the sums
    const int firstExact = cut(exact, part), lastExact = cut(exact, part + 1), firstOther = cut(others, part), lastOther = cut(others, part + 1);
    if (!dense) {
      stage(firstOther, min(firstOther + STAGED, lastOther), true), stage(firstExact, min(firstExact + STAGED, lastExact), false);
      __syncthreads();
    }
    auto restage = [&](int lo, int hi, bool body) {
      __syncthreads();
      stage(lo, hi, body);
      __syncthreads();
    };
    if (others > 0) {
      const short *logits = p.logits + unit * cap * GP;
      const float reference = r < G ? p.reference[unit * HEADS + r] : 0;
      int lo = firstOther, hi = min(lo + STAGED, lastOther);
      for (int i = lo + warp * 16;; i += TEAM * 16) {
        if (i >= hi) {  // all warps come here after as many turns, or one more
          if (hi == lastOther) break;
          lo = hi, hi = min(lo + STAGED, lastOther), i = lo + warp * 16;
          restage(lo, hi, true);
          if (i >= hi) break;
        }
        u32 entry, row;
        survivor(i, lo, hi, true, entry, row);
        float x[4];
        u32 codes[4][D / 64], scale[4][D / 32];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const u32 e = __shfl_sync(~0u, entry, slot[k]), at = __shfl_sync(~0u, row, slot[k]);
          load<D / 64>(codes[k], p.valueCodes + (size_t)at * (D / 2) + r * (D / 16));
          load<D / 32>(scale[k], p.valueScale + (size_t)at * (D / 32));
          x[k] = e == 0 ? NOTHING : r < G ? reference - logits[(size_t)(e & 0xffffff) * GP + r] * (1.0f / PER_OCTAVE) : 0;
        }
        u32 w[2];
        run.admit(x, w, low, lane);
        u32 lows[2] = {0, 0};
#pragma unroll
        for (int grp = 0; grp < D / 32; grp++) {
          const u32 b0 = times(w[0], __byte_perm(scale[0][grp], scale[1][grp], 0x5410)), b1 = times(w[1], __byte_perm(scale[2][grp], scale[3][grp], 0x5410));
          if (r == grp) lows[0] = __byte_perm(scale[0][grp], scale[1][grp], 0x7632), lows[1] = __byte_perm(scale[2][grp], scale[3][grp], 0x7632);
          const int pick = grp % 2 ? 0x7632 : 0x5410;
          const u32 c = __byte_perm(codes[0][grp / 2], codes[1][grp / 2], pick), d = __byte_perm(codes[2][grp / 2], codes[3][grp / 2], pick);
          mma(run.sums[2 * grp], c & LOW, c & HIGH, d & LOW, d & HIGH, b0, b1);
          mma(run.sums[2 * grp + 1], c >> 8 & LOW, c >> 8 & HIGH, d >> 8 & LOW, d >> 8 & HIGH, b0, b1);
        }
        mma(low, lows[0], 0, lows[1], 0, w[0], w[1]);
      }
#pragma unroll
      for (int i = 0; i < D / 16; i++) {
        const float a = __shfl_sync(~0u, low[0], i / 2 * 4 + j), b = __shfl_sync(~0u, low[1], i / 2 * 4 + j);
        run.sums[i][0] = run.sums[i][0] * 16777216.0f + a, run.sums[i][1] = run.sums[i][1] * 16777216.0f + b;
        run.sums[i][2] = run.sums[i][2] * 1048576.0f + a, run.sums[i][3] = run.sums[i][3] * 1048576.0f + b;
      }
    }

    u32 q[D / 8];
    if constexpr (RING) WholeSlot<D>::channels(q, r < G ? p.q + ((size_t)unit * G + r) * D : nullptr, j);
    else queries<D>(q, p, unit, lane);
    // admitted takes in sixteen tokens, of which the thread holds rows of keys and of values: those that `in` has among them.
    auto admitted = [&](const u32 (&k)[2][D / 8], const u32 (&v)[4][D / 16], auto in) {
      float c[2][4] = {}, x[4];
      products<D>(c[0], q, k[0]);
      products<D>(c[1], q, k[1]);
#pragma unroll
      for (int t = 0; t < 4; t++) x[t] = in(t) ? c[t / 2][t % 2] * p.scale : NOTHING;
      u32 w[2];
      run.admit(x, w, low, lane);
#pragma unroll
      for (int t = 0; t < D / 16; t++) {
        mma(run.sums[t], __byte_perm(v[0][t], v[1][t], 0x5410), __byte_perm(v[0][t], v[1][t], 0x7632),
            __byte_perm(v[2][t], v[3][t], 0x5410), __byte_perm(v[2][t], v[3][t], 0x7632), w[0], w[1]);
      }
    };
    if constexpr (RING) {
      Stream<D> stream(((WholeRing<D> *)memory)[warp], p, table, h, skipped, firstExact + warp * 16, lastExact, lane);
      for (int i = firstExact + warp * 16; i < lastExact; i += TEAM * 16) {
        const WholeSlot<D> &rows = stream.next();
        u32 k[2][D / 8], v[4][D / 16];
#pragma unroll
        for (int tile = 0; tile < 2; tile++) rows.keys(k[tile], tile * 8 + r, j);
#pragma unroll
        for (int t = 0; t < 4; t++) rows.values(v[t], slot[t], r);
        admitted(k, v, [&](int t) { return i + slot[t] < lastExact; });
      }
      wait_copies<0>();
    } else {
      int lo = firstExact, hi = dense ? lastExact : min(lo + STAGED, lastExact), i = lo + warp * 16;
      u32 entry = 0, row = 0;
      if (i < hi) survivor(i, lo, hi, false, entry, row);
      for (;; i += TEAM * 16) {
        if (i >= hi) {
          if (hi == lastExact) break;
          lo = hi, hi = min(lo + STAGED, lastExact), i = lo + warp * 16;
          restage(lo, hi, false);
          if (i >= hi) break;
          survivor(i, lo, hi, false, entry, row);
        }
        u32 k[2][D / 8], v[4][D / 16];
#pragma unroll
        for (int tile = 0; tile < 2; tile++) load<D / 8>(k[tile], p.k + (size_t)__shfl_sync(~0u, row, tile * 8 + r) * D + j * (D / 4));
#pragma unroll
        for (int t = 0; t < 4; t++) {
          const __half *at = p.v + (size_t)__shfl_sync(~0u, row, slot[t]) * D + r * 8;
#pragma unroll
          for (int half64 = 0; half64 < D / 64; half64++) {
            u32 x[4];
            load<4>(x, at + half64 * 64);
#pragma unroll
            for (int e = 0; e < 4; e++) v[t][half64 * 4 + e] = x[e];
          }
        }
        u32 next = 0, nextRow = row;
        if (i + TEAM * 16 < hi) survivor(i + TEAM * 16, lo, hi, false, next, nextRow);
        admitted(k, v, [&](int t) { return __shfl_sync(~0u, entry, slot[t]) >> 24 >> r & 1; });
        entry = next, row = nextRow;
      }
    }
    if (threadIdx.x == 0) ticket = gridDim.x + atomicAdd(&p.control[1], 1);

    // Join the warps.
    run.weight += __shfl_xor_sync(~0u, run.weight, 1), run.weight += __shfl_xor_sync(~0u, run.weight, 2);
    if (RING) __syncthreads();  // the rings are read
    if (j == 0) sh.top[warp][r] = run.top, sh.weight[warp][r] = run.weight;
#pragma unroll
    for (int t = 0; t < D / 16; t++) {
      const int c = Running<D>::at(t, lane);
      *(float2 *)&sums[warp][2 * j][c] = make_float2(run.sums[t][0], run.sums[t][2]);
      *(float2 *)&sums[warp][2 * j + 1][c] = make_float2(run.sums[t][1], run.sums[t][3]);
    }
    if ((p.flags & TAIL) && !dense) {  // what the survivors hold, over the ranks
      for (int g = warp; g < G; g += TEAM) {
        const float4 x = lane < ranks ? p.sums[((size_t)unit * RANKS + lane) * HEADS + g] : make_float4(0, 0, 0, 0);
        float all = x.x, kept = x.y;
        for (int d = RANKS / 2; d > 0; d /= 2) all += __shfl_xor_sync(~0u, all, d), kept += __shfl_xor_sync(~0u, kept, d);
        if (lane == 0) sh.held[g] = fminf(kept / all, 1.0f);
      }
    }
    __syncthreads();
    if (warp == 0) item = look();
    auto finish = [&](int g, int c, float sum, float weight) {
      float x = weight > 0 ? sum / weight : 0;
      if ((p.flags & TAIL) && !dense) {
        const float held = sh.held[g];
        x = held * x + (1 - held) / n * p.valueSum[(((size_t)table[blocks - 1] * p.kvHeads + h) * 2 + 1) * D + c];
      }
      p.out[((size_t)unit * G + g) * D + c] = __float2half_rn(x);
    };
    for (int i = threadIdx.x; i < G * D; i += TEAM * 32) {
      const int g = i / D, c = i % D;
      float top = NOTHING, weight = 0, sum = 0;
      for (int w = 0; w < TEAM; w++) top = fmaxf(top, sh.top[w][g]);
      for (int w = 0; w < TEAM; w++) {
        const float f = power(sh.top[w][g] - top);
        weight += f * sh.weight[w][g], sum += f * sums[w][g][c];
      }
      if (allParts == 1) {
        finish(g, c, sum, weight);
      } else {
        p.partial[(((size_t)unit * p.maxParts + place) * HEADS + g) * D + c] = sum;
        if (c == 0) p.partialTop[((size_t)unit * p.maxParts + place) * HEADS + g] = make_float2(top, weight);
      }
    }
    if (allParts == 1) continue;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      sh.last = atomicAdd(&p.arrived[unit], 1) == allParts - 1;
      if (sh.last) p.arrived[unit] = 0;
    }
    __syncthreads();
    if (!sh.last) continue;
    __threadfence();
    const size_t first = (size_t)unit * p.maxParts;
    float *share = &sums[0][0][0];  // [parts][HEADS]: what each part's sums count, of the whole
    static_assert(TEAM * HEADS * D >= MAX_PARTS * HEADS + TEAM * 32 * 4, "the shares of all parts, and a sum a thread, fit where the sums were");
    for (int g = warp; g < G; g += TEAM) {
      float top = NOTHING, weight = 0;
      for (int k = lane; k < allParts; k += 32) top = fmaxf(top, __ldcg(&p.partialTop[(first + k) * HEADS + g]).x);
      for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
      for (int k = lane; k < allParts; k += 32) {
        const float2 t = __ldcg(&p.partialTop[(first + k) * HEADS + g]);
        const float f = power(t.x - top);
        share[k * HEADS + g] = f, weight += f * t.y;
      }
      for (int d = 16; d > 0; d /= 2) weight += __shfl_xor_sync(~0u, weight, d);
      if (lane == 0) sh.weight[0][g] = weight;
    }
    __syncthreads();
    // Four channels a thread; where that leaves threads over, they share the parts.
    constexpr int LANES = D / 4, ROWS = TEAM * 32 / LANES;
    float4 *lines = (float4 *)(share + MAX_PARTS * HEADS);  // [ROWS][LANES]
    const int line = threadIdx.x / LANES, c4 = threadIdx.x % LANES * 4, teams = G >= ROWS ? 1 : ROWS / G;
    for (int g0 = 0; g0 < G; g0 += ROWS / teams) {
      const int g = g0 + line / teams;
      float4 sum = make_float4(0, 0, 0, 0);
      if (g < G) {
#pragma unroll 8
        for (int k = line % teams; k < allParts; k += teams) {
          const float4 x = __ldcg((const float4 *)&p.partial[((first + k) * HEADS + g) * D + c4]);
          const float f = share[k * HEADS + g];
          sum.x += f * x.x, sum.y += f * x.y, sum.z += f * x.z, sum.w += f * x.w;
        }
      }
      lines[threadIdx.x] = sum;
      __syncthreads();
      if (line % teams == 0 && g < G) {
        for (int i = 1; i < teams; i++) {
          const float4 x = lines[threadIdx.x + i * LANES];
          sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
        }
        finish(g, c4, sum.x, sh.weight[0][g]), finish(g, c4 + 1, sum.y, sh.weight[0][g]);
        finish(g, c4 + 2, sum.z, sh.weight[0][g]), finish(g, c4 + 3, sum.w, sh.weight[0][g]);
      }
      __syncthreads();
    }
  }
  // The last block out leaves the queue empty for the next step.
  if (threadIdx.x == 0) {
    __threadfence();
    if (atomicAdd(&p.control[2], 1) == gridDim.x - 1) p.control[0] = p.control[1] = p.control[2] = 0;
  }
}
