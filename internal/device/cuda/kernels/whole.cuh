// whole is exact attention over whole sequences: a flash decode whose items of work follow from the sequences' lengths. ringed is the same with rows that come through rings of
// asynchronous copies. Four warps share an item, sixteen tokens at a time each; the last to finish of a unit's items joins them. 128 threads.
#pragma once
#include "histogram.cuh"
#include "running.cuh"

constexpr int TEAM = 4;         // warps that share an item
constexpr int MAX_PARTS = 128;  // of a unit

// parts_of is into how many items n tokens of a unit are cut: as many as the device runs at once, or a multiple of that if they became long; where the step is short, one a
// multiprocessor, since what is cut must be joined.
__device__ inline int parts_of(const Params &p, int n) {
  const int units = p.batch * p.kvHeads, room = n / 2048 * units <= p.processors ? p.processors : p.attenders;
  const int turns = ((n + LONGEST - 1) / LONGEST * units + room - 1) / room;
  return max(min(min(room * turns / units, p.maxParts), (n + 127) / 128), 1);
}

// Items finds items of whole sequences by their number. Those of a sequence are numbered by part, and of a part by head, so that what runs at once reads what stands side by side.
// One warp calls it, for numbers that grow.
struct Items {
  int first = 0, before = 0;  // sequences and items that were gone through

  // find is unit and part of an item; unit -1 where there is none.
  __device__ int2 find(const Params &p, int number, int lane) {
    for (;; first += 32) {
      if (first >= p.batch) return make_int2(-1, 0);
      const int i = first + lane, s = i >= p.batch ? -1 : p.order == nullptr ? i : p.order[i], n = s < 0 ? 0 : p.lens[s];
      const int items = n <= 0 ? 0 : parts_of(p, p.window > 0 ? min(n, p.window) : n) * p.kvHeads;
      const int end = before + ::before(items, lane) + items;
      const u32 lanes = __ballot_sync(~0u, number < end);
      if (lanes != 0) {
        const int at = __ffs(lanes) - 1, rest = number - __shfl_sync(~0u, end - items, at);
        return make_int2(__shfl_sync(~0u, s, at) * p.kvHeads + rest % p.kvHeads, rest / p.kvHeads);
      }
      before = __shfl_sync(~0u, end, 31);
    }
  }
};

// WholeSlot holds sixteen rows of keys and of values, in 16-byte chunks which stand such that no two of eight lanes that read at once meet in a bank. Those of 32 bytes stay
// together: parted, each is read from the L2 cache for itself.
template <int D> struct WholeSlot {
  static constexpr int CHUNKS = D / 8;
  uint4 k[16][CHUNKS], v[16][CHUNKS];
  __device__ static int keyAt(int row, int chunk) { return chunk ^ (row & 1) * 4; }
  __device__ static int valueAt(int row, int chunk) { return chunk ^ (row & 6); }
  // keys is the chunks j, j+4, … of a row, which is the i-th, values those at r, r+8, …; channels is a query's as keys are.
  __device__ static void keys(u32 (&x)[D / 8], const uint4 (&row)[CHUNKS], int i, int j) {
#pragma unroll
    for (int c = 0; c < D / 32; c++) put(&x[4 * c], row[keyAt(i, c * 4 + j)]);
  }
  __device__ static void values(u32 (&x)[D / 16], const uint4 (&row)[CHUNKS], int i, int r) {
#pragma unroll
    for (int c = 0; c < D / 64; c++) put(&x[4 * c], row[valueAt(i, r + c * 8)]);
  }
  // rows is the lane's share of all.
  __device__ void rows(u32 (&keysOf)[2][D / 8], u32 (&valuesOf)[4][D / 16], int lane) const {
#pragma unroll
    for (int t = 0; t < 2; t++) keys(keysOf[t], k[t * 8 + lane / 4], t * 8 + lane / 4, lane % 4);
#pragma unroll
    for (int t = 0; t < 4; t++) values(valuesOf[t], v[Running<D>::slot(t, lane)], Running<D>::slot(t, lane), lane / 4);
  }
  __device__ static void channels(u32 (&x)[D / 8], const __half *query, int j) {
#pragma unroll
    for (int i = 0; i < D / 32; i++) put(&x[4 * i], query ? ((const uint4 *)query)[i * 4 + j] : make_uint4(0, 0, 0, 0));
  }
  __device__ static void put(u32 *x, uint4 y) { x[0] = y.x, x[1] = y.y, x[2] = y.z, x[3] = y.w; }
};

// WholeRing is a warp's; operator.go knows the size.
template <int D, int SLOTS_ = D <= 128 ? 4 : 3> struct WholeRing {
  static constexpr int SLOTS = SLOTS_;
  WholeSlot<D> slot[SLOTS];
};

// Stream has tokens [first,end) of a head, sixteen of every WARPS·16, pass through a warp's ring.
template <int D, int WARPS = TEAM, typename Ring = WholeRing<D>> struct Stream {
  static constexpr int SLOTS = Ring::SLOTS, CHUNKS = WholeSlot<D>::CHUNKS;
  Ring &ring;
  const Params &p;
  const int *table;
  int head, skipped, asked, end, lane, fill = 0, here = 0;
  u32 row;  // of token lane%16 of those asked for next

  __device__ Stream(Ring &ring, const Params &p, const int *table, int head, int skipped, int first, int end, int lane)
      : ring(ring), p(p), table(table), head(head), skipped(skipped), asked(first), end(end), lane(lane) {
    find();
    for (int i = 0; i < SLOTS - 1; i++) ask();
  }
  __device__ void find() {
    const int t = min(asked + lane % 16, end - 1) + skipped;
    row = asked < end ? ((u32)table[t / BLOCK] * p.kvHeads + head) * BLOCK + t % BLOCK : 0;
  }
  __device__ void ask() {
    if (asked < end) {
      WholeSlot<D> &x = ring.slot[fill];
      constexpr int ROWS = 32 / CHUNKS;  // at once
      const int chunk = lane % CHUNKS;
#pragma unroll
      for (int i = 0; i < 16; i += ROWS) {
        const int to = i + lane / CHUNKS;
        const size_t from = (size_t)__shfl_sync(~0u, row, to) * D + chunk * 8;
        copy_async(&x.k[to][x.keyAt(to, chunk)], p.k + from);
        copy_async(&x.v[to][x.valueAt(to, chunk)], p.v + from);
      }
      asked += WARPS * 16, fill = fill + 1 == SLOTS ? 0 : fill + 1;
      find();
    }
    commit_copies();
  }
  // next is the slot of the next sixteen, once they are there.
  __device__ const WholeSlot<D> &next() {
    wait_copies<SLOTS - 2>();
    __syncwarp();  // everybody's copies, and nobody reads the slot that is filled next
    ask();
    const WholeSlot<D> &x = ring.slot[here];
    here = here + 1 == SLOTS ? 0 : here + 1;
    return x;
  }
};

// admit_rows takes in the first `left` of sixteen tokens, of which the thread holds rows of keys and of values.
template <int D> __device__ inline void admit_rows(Running<D> &run, const u32 (&q)[D / 8], const u32 (&k)[2][D / 8], const u32 (&v)[4][D / 16], float scale, int left, int lane) {
  float c[2][4] = {}, x[4], unused[4] = {};
  products<D>(c[0], q, k[0]);
  products<D>(c[1], q, k[1]);
#pragma unroll
  for (int t = 0; t < 4; t++) x[t] = run.slot(t, lane) < left ? c[t / 2][t % 2] * scale : NOTHING;
  u32 w[2];
  run.admit(x, w, unused, lane);
  run.add(v, w);
}

template <int D, bool RING> struct WholeShared {
  float sums[RING ? 1 : TEAM][HEADS][D];  // or they are where the rings were
  float top[TEAM][HEADS], weight[TEAM][HEADS];
  int2 item;
  int last;
};

template <int D, bool RING> __device__ void attend_whole(const Params &p) {
  typedef WholeShared<D, RING> Shared;
  SHARED_MEMORY(Shared, sh);
  DYNAMIC_MEMORY(memory);
  float(*const sums)[HEADS][D] = RING ? (float(*)[HEADS][D])memory : sh.sums;
  wait_for_previous();
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, j = lane % 4, r = lane / 4, G = p.group;
  // Thread 0 asks for the next item while the warps of this one are joined: not sooner, or the last items would wait for blocks that are not done.
  int ticket = blockIdx.x;
  Items items;
  int2 item = make_int2(-1, 0);
  if (warp == 0) item = items.find(p, ticket, lane);
  for (;;) {
    __syncthreads();
    if (threadIdx.x == 0) sh.item = item;
    __syncthreads();
    if (sh.item.x < 0) break;
    const int unit = sh.item.x, part = sh.item.y, s = unit / p.kvHeads, h = unit % p.kvHeads;
    const int skipped = p.window > 0 ? max(p.lens[s] - p.window, 0) : 0, n = p.lens[s] - skipped;  // tokens out of sight, and in it
    if (part == 0 && threadIdx.x == 0) p.counts[unit * RANKS] = make_int2(-1, n);
    const int parts = parts_of(p, n);
    const int *table = p.table + s * p.tableStride;
    auto cut = [&](int i) { return i == parts ? n : (int)((long long)((n + 15) / 16) * i / parts) * 16; };
    const int first = cut(part), end = cut(part + 1);
    Running<D> run;
    u32 q[D / 8];
    if constexpr (RING) WholeSlot<D>::channels(q, r < G ? p.q + ((size_t)unit * G + r) * D : nullptr, j);
    else queries<D>(q, p, unit, lane);
    if constexpr (RING) {
      Stream<D> stream(((WholeRing<D> *)memory)[warp], p, table, h, skipped, first + warp * 16, end, lane);
      for (int i = first + warp * 16; i < end; i += TEAM * 16) {
        u32 k[2][D / 8], v[4][D / 16];
        stream.next().rows(k, v, lane);
        admit_rows(run, q, k, v, p.scale, end - i, lane);
      }
      wait_copies<0>();
    } else {
      // A lane holds the row of token lane%16 of the tile, the last one's beyond the end: what weighs nothing must be finite.
      auto row_of = [&](int i) {
        const int t = min(i + lane % 16, end - 1) + skipped;
        return ((u32)table[t / BLOCK] * p.kvHeads + h) * BLOCK + t % BLOCK;
      };
      u32 row = first + warp * 16 < end ? row_of(first + warp * 16) : 0;
      for (int i = first + warp * 16; i < end; i += TEAM * 16) {
        u32 k[2][D / 8], v[4][D / 16];
#pragma unroll
        for (int t = 0; t < 2; t++) load<D / 8>(k[t], p.k + (size_t)__shfl_sync(~0u, row, t * 8 + r) * D + j * (D / 4));
#pragma unroll
        for (int t = 0; t < 4; t++) {
          const __half *at = p.v + (size_t)__shfl_sync(~0u, row, run.slot(t, lane)) * D + r * 8;
#pragma unroll
          for (int half64 = 0; half64 < D / 64; half64++) {
            u32 x[4];
            load<4>(x, at + half64 * 64);
#pragma unroll
            for (int e = 0; e < 4; e++) v[t][half64 * 4 + e] = x[e];
          }
        }
        if (i + TEAM * 16 < end) row = row_of(i + TEAM * 16);
        admit_rows(run, q, k, v, p.scale, end - i, lane);
      }
    }
    if (threadIdx.x == 0) ticket = gridDim.x + atomicAdd(&p.control[0], 1);

    // Join the warps.
    if (RING) __syncthreads();  // the rings are read
    run.leave(sh.top[warp], sh.weight[warp], sums[warp], lane);
    __syncthreads();
    if (warp == 0) item = items.find(p, __shfl_sync(~0u, ticket, 0), lane);
    auto finish = [&](int g, int c, float sum, float weight) { p.out[((size_t)unit * G + g) * D + c] = __float2half_rn(weight > 0 ? sum / weight : 0); };
    for (int i = threadIdx.x; i < G * D; i += TEAM * 32) {
      const int g = i / D, c = i % D;
      float top = NOTHING, weight = 0, sum = 0;
      for (int w = 0; w < TEAM; w++) top = fmaxf(top, sh.top[w][g]);
      for (int w = 0; w < TEAM; w++) {
        const float f = power(sh.top[w][g] - top);
        weight += f * sh.weight[w][g], sum += f * sums[w][g][c];
      }
      if (parts == 1) {
        finish(g, c, sum, weight);
      } else {
        p.partial[(((size_t)unit * p.maxParts + part) * HEADS + g) * D + c] = sum;
        if (c == 0) p.partialTop[((size_t)unit * p.maxParts + part) * HEADS + g] = make_float2(top, weight);
      }
    }
    if (parts == 1) continue;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      sh.last = atomicAdd(&p.arrived[unit], 1) == parts - 1;
      if (sh.last) p.arrived[unit] = 0;
    }
    __syncthreads();
    if (!sh.last) continue;
    __threadfence();
    const size_t base = (size_t)unit * p.maxParts;
    float *share = &sums[0][0][0];  // [parts][HEADS]: what each part's sums count, of the whole
    static_assert(TEAM * HEADS * D >= MAX_PARTS * HEADS + TEAM * 32 * 4, "the shares of all parts, and a sum a thread, fit where the sums were");
    for (int g = warp; g < G; g += TEAM) {
      float top = NOTHING, weight = 0;
      for (int k = lane; k < parts; k += 32) top = fmaxf(top, __ldcg(&p.partialTop[(base + k) * HEADS + g]).x);
      for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
      for (int k = lane; k < parts; k += 32) {
        const float2 t = __ldcg(&p.partialTop[(base + k) * HEADS + g]);
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
        for (int k = line % teams; k < parts; k += teams) {
          const float4 x = __ldcg((const float4 *)&p.partial[((base + k) * HEADS + g) * D + c4]);
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
  // The last block out leaves the tickets as the next step expects them.
  if (threadIdx.x == 0) {
    __threadfence();
    if (atomicAdd(&p.control[1], 1) == gridDim.x - 1) p.control[0] = p.control[1] = 0;
  }
}
