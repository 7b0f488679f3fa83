// What clusters of thread blocks do for steps of few units: they join outputs through each other's memory, and so attend to whole sequences.
#pragma once
#include "whole.cuh"

// ClusterJoin is where a thread block has its warps' parts of a unit, and what the ranks tell each other of theirs.
struct ClusterJoin {
  float4 ofRank[RANKS][HEADS];   // maximum, weight; mass of the candidates, and of what survived of them
  float top[WARPS][HEADS], weight[WARPS][HEADS];
  float ofWarp[HEADS][WARPS];    // what a warp's sums count in the thread block's
  float share[HEADS][RANKS];     // and a rank's in the unit's
  float held[HEADS];
  float2 ofUnit[HEADS];          // maximum, weight
  int last;
};

// highest is the largest of a warp's numbers; totals makes sums of those of its first `lanes` lanes.
__device__ inline float highest(float x) { return unordered(__reduce_max_sync(~0u, ordered(x))); }
template <int N> __device__ inline void totals(float (&x)[N], int lanes) {
#pragma unroll 1
  for (int d = lanes / 2; d > 0; d /= 2) {
#pragma unroll
    for (int i = 0; i < N; i++) x[i] += __shfl_xor_sync(~0u, x[i], d);
  }
}

__device__ inline void add(float4 &sum, float f, float4 x) { sum.x += f * x.x, sum.y += f * x.y, sum.z += f * x.z, sum.w += f * x.w; }

// join_unit makes a unit's output of what the warps of its ranks have summed, through `sums` in shared memory, [HEADS][D] at every multiple of `stride`; each rank its share of it, which the
// others bring to `shares`, [HEADS·D + 4·RANKS] of shared memory. If several clusters have `parts` of a unit, the last of each rank's joins those. With `tail` it adds what is not held: weigh(g, x)
// is the mass of the rank's candidates and what survivors hold of it, if x is what its warps have as `mass`. All ranks must have begun.
template <int D, int GP, typename Weigh>
__device__ inline void join_unit(ClusterJoin &sh, Running<D> &run, float *sums, int stride, float *shares, const float2 (*mass)[GP], const Params &p, const Rank<GP> &u, int n, int parts, bool tail,
                                 Weigh weigh) {
  const int all = u.G * D, lane = u.lane;
  run.leave(sh.top[u.warp], sh.weight[u.warp], (float(*)[D])(sums + u.warp * stride), lane);
  // The rank's share of the output, four channels a thread and turn, always the same ones of a head; and what the tail adds there.
  const int each = quotient(all / 4 + u.ranks - 1, u.ranks) * 4, first = each * u.rank, own = min(each, all - first), mine = 4 * threadIdx.x, turn = 4 * blockDim.x;
  float4 mean = make_float4(0, 0, 0, 0);
  if (tail && mine < own) mean = *(const float4 *)(p.valueSum + (((size_t)p.table[u.sequence * p.tableStride + (n - 1) / BLOCK] * p.kvHeads + u.head) * 2 + 1) * D + (first + mine) % D);
  __syncthreads();
  const bool alone = u.ranks == 1 && parts == 1;
  for (int g = u.warp; g < u.G; g += u.warps) {  // a lane for each warp, and then for each rank
    const bool in = lane < u.warps;
    const float2 of = in && mass != nullptr ? mass[lane][g] : make_float2(0, 0);
    const float top = in ? sh.top[lane][g] : NOTHING, most = highest(top), f = power(top - most);
    float x[3] = {in ? f * sh.weight[lane][g] : 0, of.x, of.y};
    if (in) sh.ofWarp[g][lane] = f;
    totals(x, WARPS);
    const float2 held = weigh(g, make_float2(x[1], x[2]));
    if (alone && lane == 0) sh.share[g][0] = x[0] > 0 ? __fdividef(1, x[0]) : 0, sh.held[g] = fminf(__fdividef(held.y, held.x), 1.0f);
    if (!alone && lane < u.ranks) push(&sh.ofRank[u.rank][g], lane, make_float4(most, x[0], held.x, held.y));
  }
  __syncthreads();
  auto summed = [&](int i) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int w = 0; w < u.warps; w++) add(sum, sh.ofWarp[i / D][w], *(const float4 *)(sums + w * stride + i));
    return sum;
  };
  auto store = [&](int i, float4 x, float f) {  // elements i… of the rank's share, times f
    const float held = tail ? sh.held[(first + i) / D] : 1, rest = tail ? __fdividef(1 - held, n) : 0;
    float4 y = make_float4(0, 0, 0, 0);
    add(y, held * f, x), add(y, rest, mean);
    *(uint2 *)(p.out + (size_t)u.unit * all + first + i) = make_uint2(bits(__floats2half2_rn(y.x, y.y)), bits(__floats2half2_rn(y.z, y.w)));
  };
  if (alone) {
    for (int i = mine; i < all; i += turn) store(i, summed(i), sh.share[i / D][0]);
    return;
  }
  // Every rank learns of each one's maxima and weights, and of its share of the sums.
  for (int i = mine; i < all; i += turn) {
    const int rank = quotient(i, each);
    push((float4 *)&shares[(u.rank - rank) * each + i], rank, summed(i));
  }
  u.sync();
  for (int g = u.warp; g < u.G; g += u.warps) {
    const float4 x = lane < u.ranks ? sh.ofRank[lane][g] : make_float4(NOTHING, 0, 0, 0);
    const float most = highest(x.x), f = power(x.x - most);
    float sum[3] = {f * x.y, x.z, x.w};
    totals(sum, RANKS);
    if (lane < RANKS) sh.share[g][lane] = parts > 1 ? f : sum[0] > 0 ? __fdividef(f, sum[0]) : 0;
    if (lane == 0) sh.held[g] = fminf(__fdividef(sum[2], sum[1]), 1.0f), sh.ofUnit[g] = make_float2(most, sum[0]);
  }
  __syncthreads();
  for (int i = mine; i < own; i += turn) {
    float4 y = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int k = 0; k < u.ranks; k++) add(y, sh.share[(first + i) / D][k], *(const float4 *)&shares[k * each + i]);
    if (parts > 1) *(float4 *)&p.partial[((size_t)u.unit * p.maxParts + u.part) * HEADS * D + first + i] = y;
    else store(i, y, 1);
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
  for (int i = mine; i < own; i += turn) {
    float4 y[RANKS], sum = make_float4(0, 0, 0, 0);
    float2 of[RANKS];
    float top = NOTHING, weight = 0;
#pragma unroll
    for (int k = 0; k < RANKS; k++) {
      of[k] = make_float2(NOTHING, 0), y[k] = make_float4(0, 0, 0, 0);
      if (k < parts) of[k] = __ldcg(&p.partialTop[(at + k) * HEADS + (first + i) / D]), y[k] = __ldcg((const float4 *)&p.partial[(at + k) * HEADS * D + first + i]);
    }
#pragma unroll
    for (int k = 0; k < RANKS; k++) top = fmaxf(top, of[k].x);
#pragma unroll
    for (int k = 0; k < RANKS; k++) {
      const float f = power(of[k].x - top);
      weight += f * of[k].y, add(sum, f, y[k]);
    }
    store(i, sum, weight > 0 ? __fdividef(1, weight) : 0);
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
    alignas(16) float shares[HEADS * D + 4 * RANKS];
  };
  SHARED_MEMORY(Shared, sh);
  DYNAMIC_MEMORY(memory);
  // Lengths and tables are there before the launch ahead begins, and so are all tokens but the newest.
  const Rank<HEADS> u(p, p.ranks, p.parts);
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
  join_unit<D>(sh.join, run, (float *)memory, HEADS * D, sh.shares, (const float2(*)[HEADS])nullptr, p, u, n, p.parts, false, [](int, float2 x) { return x; });
}
