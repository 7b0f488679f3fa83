// What clusters of thread blocks do for steps of few units: they join outputs through each other's memory, and so attend to whole sequences.
#pragma once
#include "whole.cuh"

// ClusterJoin is what thread blocks tell each other of their parts of a unit.
struct ClusterJoin {
  float top[WARPS][HEADS], weight[WARPS][HEADS];  // of warps
  float ofRank[2][HEADS];                         // of the thread block: maximum, weight
  float share[HEADS][RANKS];                      // what a rank's sums count in the output
  float held[HEADS];
  float2 ofUnit[HEADS];                           // maximum, weight
  int last;
};

// join_unit makes a unit's output of what the warps of its ranks have summed, through `sums` in shared memory, [HEADS][D] at every multiple of `stride`; each rank its share of it. If several
// clusters have `parts` of a unit, the last of each rank's joins those. With `tail` it adds what is not held: weigh(g) makes held[g], the mass of the rank's candidates and what survivors hold
// of it, once all warps have come here.
template <int D, int GP, typename Weigh>
__device__ inline void join_unit(ClusterJoin &sh, Running<D> &run, float *sums, int stride, const Params &p, const Rank<GP> &u, int n, int parts, const float2 *held, bool tail, Weigh weigh) {
  const int all = u.G * D;
  run.leave(sh.top[u.warp], sh.weight[u.warp], (float(*)[D])(sums + u.warp * stride), u.lane);
  // The rank's share of the output, and what the tail adds there.
  const int own = all / u.ranks, first = own * u.rank;
  const float *const mean = p.valueSum + (((size_t)p.table[u.sequence * p.tableStride + (n - 1) / BLOCK] * p.kvHeads + u.head) * 2 + 1) * D;
  float channel = tail ? mean[(first + threadIdx.x) % D] : 0;
  __syncthreads();
  const bool alone = u.ranks == 1 && parts == 1;
  if (threadIdx.x < u.G) weigh(threadIdx.x);
  if (alone && tail) __syncthreads();
  for (int i = threadIdx.x; i < all; i += blockDim.x) {
    const int g = i / D;
    float top = NOTHING, weight = 0, sum = 0;
    for (int w = 0; w < u.warps; w++) top = fmaxf(top, sh.top[w][g]);
    for (int w = 0; w < u.warps; w++) {
      const float f = power(sh.top[w][g] - top);
      weight += f * sh.weight[w][g], sum += f * sums[w * stride + i];
    }
    if (alone) {
      const float x = weight > 0 ? sum / weight : 0, share = tail ? fminf(held[g].y / held[g].x, 1.0f) : 1;
      p.out[(size_t)u.unit * all + i] = __float2half_rn(tail ? share * x + (1 - share) / n * (blockDim.x % D == 0 ? channel : mean[i % D]) : x);
      continue;
    }
    sums[i] = sum;
    if (i % D == 0) sh.ofRank[0][g] = top, sh.ofRank[1][g] = weight;
  }
  if (alone) return;
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
    float mass = there && tail ? __int_as_float(peek(&held[g].x, u.lane)) : 0, kept = there && tail ? __int_as_float(peek(&held[g].y, u.lane)) : 0, most = top;
    for (int d = RANKS / 2; d > 0; d /= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, d)), mass += __shfl_xor_sync(~0u, mass, d), kept += __shfl_xor_sync(~0u, kept, d);
    }
    const float f = power(top - most);
    float sum = f * weight;
    for (int d = RANKS / 2; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (u.lane < RANKS) sh.share[g][u.lane] = parts > 1 ? f : sum > 0 ? f / sum : 0;
    if (u.lane == 0) sh.held[g] = tail ? fminf(kept / mass, 1.0f) : 1, sh.ofUnit[g] = make_float2(most, sum);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < own;) {
    const int g = (first + i) / D;
    float y = 0;
#pragma unroll
    for (int k = 0; k < RANKS; k++) y += k < u.ranks ? x[k] * sh.share[g][k] : 0;
    if (tail) y = sh.held[g] * y + (1 - sh.held[g]) / n * channel;
    if (parts > 1) p.partial[((size_t)u.unit * p.maxParts + u.part) * HEADS * D + first + i] = y;
    else p.out[(size_t)u.unit * all + first + i] = __float2half_rn(y);
    if ((i += blockDim.x) < own) fetch(i), channel = tail ? mean[(first + i) % D] : 0;
  }
  if (parts == 1) return u.sync();  // no rank leaves while others look at its memory
  const size_t at = (size_t)u.unit * p.maxParts;
  if (threadIdx.x < u.G) p.partialTop[(at + u.part) * HEADS + threadIdx.x] = sh.ofUnit[threadIdx.x];  // by all ranks: each waits for its own only
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int *const arrived = p.arrived + u.unit * RANKS + u.rank;
    sh.last = atomicAdd(arrived, 1) == parts - 1;
    if (sh.last) *arrived = 0;
  }
  __syncthreads();
  u.arrive();
  if (!sh.last) return u.wait();
  __threadfence();
  for (int i = threadIdx.x; i < own; i += blockDim.x) {
    float y[RANKS], top = NOTHING, weight = 0, sum = 0;
    float2 of[RANKS];
#pragma unroll
    for (int k = 0; k < RANKS; k++) {
      of[k] = make_float2(NOTHING, 0), y[k] = 0;
      if (k < parts) of[k] = __ldcg(&p.partialTop[(at + k) * HEADS + (first + i) / D]), y[k] = __ldcg(&p.partial[(at + k) * HEADS * D + first + i]);
    }
#pragma unroll
    for (int k = 0; k < RANKS; k++) top = fmaxf(top, of[k].x);
#pragma unroll
    for (int k = 0; k < RANKS; k++) {
      const float f = power(of[k].x - top);
      weight += f * of[k].y, sum += f * y[k];
    }
    p.out[(size_t)u.unit * all + first + i] = __float2half_rn(weight > 0 ? sum / weight : 0);
  }
  u.wait();
}

// ClusterRing is what rows of whole sequences pass through; operator.go knows the size.
template <int D> struct ClusterRing {
  static constexpr int TEAM = D <= 128 ? 8 : 4;  // warps of a thread block
  typedef WholeRing<D, D == 64 ? 4 : 3> Warp;
  Warp warp[TEAM];
};

// whole_unit attends to a whole sequence: its tokens are cut among the ranks of `parts` clusters. Grid: batch·kvHeads·parts·ranks, ClusterRing's warps.
template <int D> __device__ void whole_unit(const Params &p) {
  typedef ClusterRing<D> Rings;
  SHARED_MEMORY(ClusterJoin, sh);
  DYNAMIC_MEMORY(memory);
  // Lengths and tables are there before the launch ahead begins, and so are all tokens but the newest.
  const Rank<HEADS> u(p, p.parts);
  const int n = p.lens[u.sequence], r = u.lane / 4;
  const int skipped = p.window > 0 ? max(n - p.window, 0) : 0, tokens = n - skipped, tiles = (tokens + 15) / 16;  // skipped: out of sight
  const int piece = u.part * u.ranks + u.rank, pieces = p.parts * u.ranks;
  const int first = (int)((long long)tiles * piece / pieces) * 16, last = min((int)((long long)tiles * (piece + 1) / pieces) * 16, tokens);
  if (last == tokens) wait_for_previous();
  Stream<D, Rings::TEAM, typename Rings::Warp> stream(((Rings *)memory)->warp[u.warp], p, p.table + u.sequence * p.tableStride, u.head, skipped, first + u.warp * 16, last, u.lane);
  if (last != tokens) wait_for_previous();
  let_next_start();
  if (n <= 0) return;
  if (piece == 0 && threadIdx.x == 0) p.counts[u.unit * RANKS] = make_int2(-1, tokens);
  u32 q[D / 8];
  WholeSlot<D>::channels(q, r < u.G ? p.q + ((size_t)u.unit * u.G + r) * D : nullptr, u.lane % 4);
  Running<D> run;
  for (int i = first + u.warp * 16; i < last; i += Rings::TEAM * 16) {
    u32 k[2][D / 8], v[4][D / 16];
    stream.next().rows(k, v, u.lane);
    admit_rows(run, q, k, v, p.scale, last - i, u.lane);
  }
  wait_copies<0>();
  __syncthreads();  // the rings are read
  join_unit<D>(sh, run, (float *)memory, HEADS * D, p, u, n, p.parts, nullptr, false, [](int) {});
}
