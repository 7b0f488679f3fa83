// fused is the whole operator in one launch, for steps of few units: a cluster of thread blocks shares a unit, each with every ranks-th block of it, selects and then attends at once to
// its own survivors, and the ranks' outputs are joined through each other's memory. What it computes is what select and attend do. Grid: batch·kvHeads·ranks, 256 threads.
#pragma once
#include "running.cuh"
#include "select.cuh"

// ClusterJoin is what thread blocks tell each other of their parts of a unit.
struct ClusterJoin {
  float top[WARPS][HEADS], weight[WARPS][HEADS];  // of warps
  float ofRank[2][HEADS];                         // of the thread block: maximum, weight
  float share[HEADS][RANKS];                      // what a rank's sums count in the output
  float held[HEADS];
};

// join_unit makes a unit's output of what the warps of its ranks have summed, through `sums`, [warps][G][D] of shared memory. `held` is what survivors hold of the mass, and the mass; null
// if all was read. After it a rank's memory must outlive its readers.
template <int D, int GP> __device__ inline void join_unit(ClusterJoin &sh, Running<D> &run, float *sums, const Params &p, const Rank<GP> &u, int n, const float2 *held) {
  const int j = u.lane % 4, r = u.lane / 4, all = u.G * D;
  run.weight += __shfl_xor_sync(~0u, run.weight, 1), run.weight += __shfl_xor_sync(~0u, run.weight, 2);
  if (j == 0) sh.top[u.warp][r] = run.top, sh.weight[u.warp][r] = run.weight;
  float *const mine = sums + u.warp * all;
#pragma unroll
  for (int t = 0; t < D / 16; t++) {
    const int c = Running<D>::at(t, u.lane);
    if (2 * j < u.G) *(float2 *)&mine[2 * j * D + c] = make_float2(run.sums[t][0], run.sums[t][2]);
    if (2 * j + 1 < u.G) *(float2 *)&mine[(2 * j + 1) * D + c] = make_float2(run.sums[t][1], run.sums[t][3]);
  }
  // The rank's share of the output, and what the tail adds there.
  const int own = all / u.ranks, first = own * u.rank;
  const float *const mean = p.valueSum + (((size_t)p.table[u.sequence * p.tableStride + (n - 1) / BLOCK] * p.kvHeads + u.head) * 2 + 1) * D;
  float tail = held && threadIdx.x < own ? mean[(first + threadIdx.x) % D] : 0;
  __syncthreads();
  for (int i = threadIdx.x; i < all; i += blockDim.x) {
    const int g = i / D;
    float top = NOTHING, weight = 0, sum = 0;
    for (int w = 0; w < u.warps; w++) top = fmaxf(top, sh.top[w][g]);
    for (int w = 0; w < u.warps; w++) {
      const float f = power(sh.top[w][g] - top);
      weight += f * sh.weight[w][g], sum += f * sums[w * all + i];
    }
    sums[i] = sum;
    if (i % D == 0) sh.ofRank[0][g] = top, sh.ofRank[1][g] = weight;
  }
  u.sync();
  float x[RANKS];
  auto fetch = [&](int i) {
#pragma unroll
    for (int k = 0; k < RANKS; k++) x[k] = k < u.ranks ? __int_as_float(peek(&sums[first + i], k)) : 0;
  };
  if (threadIdx.x < own) fetch(threadIdx.x);
  for (int g = u.warp; g < u.G; g += u.warps) {
    const bool there = u.lane < u.ranks;
    const float top = there ? __int_as_float(peek(&sh.ofRank[0][g], u.lane)) : NOTHING, weight = there ? __int_as_float(peek(&sh.ofRank[1][g], u.lane)) : 0;
    float mass = there && held ? __int_as_float(peek(&held[g].x, u.lane)) : 0, kept = there && held ? __int_as_float(peek(&held[g].y, u.lane)) : 0, most = top;
    for (int d = RANKS / 2; d > 0; d /= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, d)), mass += __shfl_xor_sync(~0u, mass, d), kept += __shfl_xor_sync(~0u, kept, d);
    }
    const float f = power(top - most);
    float sum = f * weight;
    for (int d = RANKS / 2; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (u.lane < RANKS) sh.share[g][u.lane] = sum > 0 ? f / sum : 0;
    if (u.lane == 0) sh.held[g] = held ? fminf(kept / mass, 1.0f) : 1;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < own;) {
    const int g = (first + i) / D, c = (first + i) % D;
    float y = 0;
#pragma unroll
    for (int k = 0; k < RANKS; k++) y += k < u.ranks ? x[k] * sh.share[g][k] : 0;
    if (held) y = sh.held[g] * y + (1 - sh.held[g]) / n * tail;
    p.out[(size_t)u.unit * all + first + i] = __float2half_rn(y);
    if ((i += blockDim.x) < own) fetch(i), tail = held ? mean[(first + i) % D] : 0;
  }
}

// attend_own takes in a rank's survivors, or all of its tokens if those are `whole`, in tiles of sixteen that the warps share: first those that are not read exactly.
template <int D, int GP> __device__ inline void attend_own(Running<D> &run, const SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, true> &r, int2 count, bool whole) {
  const int g = u.lane / 4, bodies = (count.y + 15) / 16, tiles = bodies + (count.x + 15) / 16;
  auto find = [&](int tile, u32 &entry, u32 &row) {  // of the token that lane%16 has; beyond the last it weighs nothing, but what is read of it must be finite
    const bool body = tile < bodies;
    const int i = (body ? tile : tile - bodies) * 16 + u.lane % 16, n = body ? count.y : count.x, at = min(i, n - 1);
    entry = whole ? (u32)at | 0xffu << 24 : r.list[body ? r.own * BLOCK - 1 - at : at];
    const int token = entry & 0xffffff;
    row = r.slab(p, u, token / BLOCK) * BLOCK + token % BLOCK;
    if (i >= n) entry = 0;
  };
  u32 entry, row;
  for (int t = u.warp + u.warps; t < tiles; t += u.warps) {  // the first is read at once
    find(t, entry, row);
    if (t < bodies) {
      prefetch(p.valueCodes + (size_t)row * (D / 2)), prefetch(p.valueScale + (size_t)row * (D / 32));
    } else {
      const __half *at = (u.lane < 16 ? p.k : p.v) + (size_t)row * D;
#pragma unroll
      for (int c = 0; c < D; c += 64) prefetch(at + c);
    }
  }
  int t = u.warp;
  if (t < bodies) {
    float low[4] = {};
    const float reference = g < u.G ? window_end(sh, g) : 0;
    for (; t < bodies; t += u.warps) {
      find(t, entry, row);
      CodeTile<D> tile;
      tile.load(p, row, u.lane);
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const u32 e = __shfl_sync(~0u, entry, slot(i, u.lane));
        x[i] = e == 0 ? NOTHING : g < u.G ? reference - r.logits[(e & 0xffffff) * GP + g] * (1.0f / PER_OCTAVE) : 0;
      }
      run.codes(tile, x, low, u.lane);
    }
    run.settle(low, u.lane);
  }
  u32 q[D / 8];
  queries<D>(q, p, u.unit, u.lane);
  for (; t < tiles; t += u.warps) {
    find(t, entry, row);
    RowTile<D> tile;
    tile.load(p, row, u.lane);
    run.rows(tile, q, p.scale, u.lane, [&](int i) { return __shfl_sync(~0u, entry, slot(i, u.lane)) >> 24 >> g & 1; });
  }
}

template <int D, int GP> struct FusedShared {
  SelectShared<GP> select;
  ClusterJoin join;
};

template <int D, int GP> __device__ void fused_unit(const Params &p) {
  typedef FusedShared<D, GP> Shared;
  SHARED_MEMORY(Shared, sh);
  DYNAMIC_MEMORY(memory);
  wait_for_previous();
  const Rank<GP> u(p);
  // Blocks that the sequence does not reach are looked up as well: its length is on the way.
  const int room = Range<GP, true>::room(p, u), block = threadIdx.x * u.ranks + u.rank;
  const int at = threadIdx.x < room && block < p.maxBlocks ? p.table[u.sequence * p.tableStride + block] : 0, n = p.lens[u.sequence];
  if (n <= 0) return;
  Range<GP, true> r(p, u, n, (u8 *)memory + (size_t)u.warps * sizeof(Ring<D>));
  if (threadIdx.x < room) ((int *)r.table)[threadIdx.x] = at;
  __syncthreads();
  const bool whole = n < p.denseBelow;
  int2 count = make_int2(r.tokens(), 0);
  if (whole) {
    if (threadIdx.x == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(-1, n);
    let_next_start();
  } else {
    count = survivors_of<D>(sh.select, p, u, r, memory);
    u.wait();
    if (p.stages > 0) return;
  }
  Running<D> run;
  attend_own<D>(run, sh.select, p, u, r, count, whole);
  join_unit<D>(sh.join, run, (float *)memory, p, u, n, !whole && p.flags & TAIL ? sh.select.held : nullptr);
  u.sync();  // no rank leaves while others look at its memory
}
