// What clusters of thread blocks do for steps of few units: they join outputs through each other's memory, and so attend to whole sequences.
#pragma once
#include "whole.cuh"

// ClusterJoin is where a thread block has its warps' parts of a unit, and what the ranks tell each other of theirs.
struct ClusterJoin {
  float top[WARPS][HEADS], weight[WARPS][HEADS];
  float4 ofRank[RANKS][HEADS];  // maximum, weight; mass of the candidates, and of what survived of them
  float share[HEADS][RANKS];    // what a rank's sums count in it
  float held[HEADS];
  float2 ofUnit[HEADS];         // maximum, weight
  int last;
};

// join_unit makes a unit's output of what the warps of its ranks have summed, through `sums` in shared memory, [HEADS][D] at every multiple of `stride`; each rank its share of it, which the
// others bring to `shares`, [HEADS·D + RANKS] of shared memory. If several clusters have `parts` of a unit, the last of each rank's joins those. With `tail` it adds what is not held: weigh(g) is the mass of the rank's candidates and what survivors hold of it, known
// once all warps have come here. All ranks must have begun.
template <int D, int GP, typename Weigh>
__device__ inline void join_unit(ClusterJoin &sh, Running<D> &run, float *sums, int stride, float *shares, const Params &p, const Rank<GP> &u, int n, int parts, bool tail, Weigh weigh) {
  const int all = u.G * D;
  run.leave(sh.top[u.warp], sh.weight[u.warp], (float(*)[D])(sums + u.warp * stride), u.lane);
  // The rank's share of the output, and what the tail adds there.
  const int each = (all + u.ranks - 1) / u.ranks, first = each * u.rank, own = max(min(each, all - first), 0);
  const float *const mean = p.valueSum + (((size_t)p.table[u.sequence * p.tableStride + (n - 1) / BLOCK] * p.kvHeads + u.head) * 2 + 1) * D;
  const float channel = tail ? mean[(first + threadIdx.x) % D] : 0;
  __syncthreads();
  auto store = [&](int i, float x, float held) {  // element i of the rank's share
    if (tail) x = held * x + (1 - held) / n * (blockDim.x % D == 0 ? channel : mean[(first + i) % D]);
    p.out[(size_t)u.unit * all + first + i] = __float2half_rn(x);
  };
  if (u.ranks == 1 && parts == 1) {
    if (threadIdx.x < u.G) {
      const float2 held = weigh(threadIdx.x);
      sh.held[threadIdx.x] = fminf(held.y / held.x, 1.0f);
    }
    if (tail) __syncthreads();
    for (int i = threadIdx.x; i < all; i += blockDim.x) {
      const int g = i / D;
      float top = NOTHING, weight = 0, sum = 0;
      for (int w = 0; w < u.warps; w++) top = fmaxf(top, sh.top[w][g]);
      for (int w = 0; w < u.warps; w++) {
        const float f = power(sh.top[w][g] - top);
        weight += f * sh.weight[w][g], sum += f * sums[w * stride + i];
      }
      store(i, weight > 0 ? sum / weight : 0, sh.held[g]);
    }
    return;
  }
  // Every rank learns of each one's maxima and weights, and of its share of the sums.
  if (threadIdx.x < u.G) {
    const int g = threadIdx.x;
    const float2 held = weigh(g);
    float top = NOTHING, weight = 0;
    for (int w = 0; w < u.warps; w++) top = fmaxf(top, sh.top[w][g]);
    for (int w = 0; w < u.warps; w++) weight += power(sh.top[w][g] - top) * sh.weight[w][g];
    for (int r = 0; r < u.ranks; r++) {
      float4 *const to = &sh.ofRank[u.rank][g];
      poke(&to->x, r, __float_as_int(top)), poke(&to->y, r, __float_as_int(weight)), poke(&to->z, r, __float_as_int(held.x)), poke(&to->w, r, __float_as_int(held.y));
    }
  }
  for (int i = threadIdx.x; i < all; i += blockDim.x) {
    const int g = i / D;
    float top = NOTHING, sum = 0;
    for (int w = 0; w < u.warps; w++) top = fmaxf(top, sh.top[w][g]);
    for (int w = 0; w < u.warps; w++) sum += power(sh.top[w][g] - top) * sums[w * stride + i];
    poke(&shares[u.rank * each + i % each], i / each, __float_as_int(sum));
  }
  u.sync();
  for (int g = u.warp; g < u.G; g += u.warps) {
    const float4 x = u.lane < u.ranks ? sh.ofRank[u.lane][g] : make_float4(NOTHING, 0, 0, 0);
    float most = x.x, mass = x.z, kept = x.w;
    for (int d = RANKS / 2; d > 0; d /= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, d)), mass += __shfl_xor_sync(~0u, mass, d), kept += __shfl_xor_sync(~0u, kept, d);
    }
    const float f = power(x.x - most);
    float sum = f * x.y;
    for (int d = RANKS / 2; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (u.lane < RANKS) sh.share[g][u.lane] = parts > 1 ? f : sum > 0 ? f / sum : 0;
    if (u.lane == 0) sh.held[g] = fminf(kept / mass, 1.0f), sh.ofUnit[g] = make_float2(most, sum);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < own; i += blockDim.x) {
    const int g = (first + i) / D;
    float y = 0;
    for (int k = 0; k < u.ranks; k++) y += shares[k * each + i] * sh.share[g][k];
    if (parts > 1) p.partial[((size_t)u.unit * p.maxParts + u.part) * HEADS * D + first + i] = y;
    else store(i, y, sh.held[g]);
  }
  if (parts == 1) return;
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
  if (!sh.last) return;
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
  struct Shared {
    ClusterJoin join;
    float shares[HEADS * D + RANKS];
  };
  SHARED_MEMORY(Shared, sh);
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
  u.arrive();
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
  u.wait();
  join_unit<D>(sh.join, run, (float *)memory, HEADS * D, sh.shares, p, u, n, p.parts, false, [](int) { return make_float2(0, 0); });
}
