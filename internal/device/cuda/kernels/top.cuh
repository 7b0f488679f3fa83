// The most likely tokens of a row of logits, in order, and the mass of all: what a sampler needs to know of the row, as long as it draws from few.
#pragma once
#include "common.cuh"

constexpr int TOP = 256;            // tokens of a list
constexpr int TOP_THREADS = 1024, TOP_WARPS = TOP_THREADS / 32;
constexpr int TOP_BINS = TOP_THREADS;
constexpr float TOP_DEPTH = 64;     // nats below the largest logit that count; e^-64 of a token's weight is nothing, even of all tokens
constexpr int TOP_ROOM = 2048;      // tokens that the bins of the best TOP may hold; more are left to the host

// TopList is a row's result; sampling.go has it field by field.
struct TopList {
  int count, _;    // tokens listed; 0: none, the host must look itself
  double mass;     // sum of exp(logit - largest)
  int id[TOP];     // by falling logit, of equal ones the lower first
  float logit[TOP];
};

struct TopParams {
  const float *src;  // [rows][columns]
  TopList *dst;
  int columns, _;
};

struct TopShared {
  int bins[TOP_BINS];
  int warp[TOP_WARPS];
  float part[TOP_WARPS];
  double sum[TOP_WARPS];
  int n, last;
  unsigned long long keys[TOP_ROOM];  // falling logit, then rising id, as rising integers
};

// top_bin is the bin of a logit so far below the largest; -1 for what does not count, no number included.
__device__ inline int top_bin(float below) { return below >= 0 && below < TOP_DEPTH ? (int)(below * (TOP_BINS / TOP_DEPTH)) : -1; }

// top_sort sorts m keys, a power of two.
__device__ inline void top_sort(unsigned long long *keys, int m) {
  for (int run = 2; run <= m; run *= 2) {
    for (int d = run / 2; d > 0; d /= 2) {
      for (int t = threadIdx.x; t < m / 2; t += TOP_THREADS) {
        const int i = t / d * d * 2 + t % d;
        const unsigned long long a = keys[i], b = keys[i + d];
        if ((a > b) == ((i & run) == 0)) keys[i] = b, keys[i + d] = a;
      }
      __syncthreads();
    }
  }
}

// top_of: a block a row.
__device__ inline void top_of(const TopParams &p) {
  SHARED_MEMORY(TopShared, sh);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float *row = p.src + (size_t)blockIdx.x * p.columns;
  TopList &out = p.dst[blockIdx.x];
  sh.bins[threadIdx.x] = 0;
  if (threadIdx.x == 0) sh.n = 0, sh.last = TOP_BINS - 1;
  let_next_start();
  wait_for_previous();

  float largest = -INFINITY;
#pragma unroll 8
  for (int i = threadIdx.x; i < p.columns; i += TOP_THREADS) largest = fmaxf(largest, row[i]);
  for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, d));
  if (lane == 0) sh.part[warp] = largest;
  __syncthreads();
  for (int w = 0; w < TOP_WARPS; w++) largest = fmaxf(largest, sh.part[w]);

  double sum = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < p.columns; i += TOP_THREADS) {
    const float below = largest - row[i];
    const int b = top_bin(below);
    if (b >= 0) atomicAdd(&sh.bins[b], 1), sum += expf(-below);
  }
  for (int d = 16; d > 0; d /= 2) {
    const int lo = __shfl_xor_sync(~0u, __double2loint(sum), d), hi = __shfl_xor_sync(~0u, __double2hiint(sum), d);
    sum += __hiloint2double(hi, lo);
  }
  if (lane == 0) sh.sum[warp] = sum;
  __syncthreads();

  // The first bin by whose end there are TOP.
  int before = sh.bins[threadIdx.x];
  for (int d = 1; d < 32; d *= 2) {
    const int x = __shfl_up_sync(~0u, before, d);
    if (lane >= d) before += x;
  }
  if (lane == 31) sh.warp[warp] = before;
  __syncthreads();
  for (int w = 0; w < warp; w++) before += sh.warp[w];
  if (before >= TOP && before - sh.bins[threadIdx.x] < TOP) sh.last = threadIdx.x;
  __syncthreads();
  const int last = sh.last;
  if ((int)threadIdx.x == last) sh.warp[0] = before;
  __syncthreads();
  const int n = sh.warp[0];
  if (n > TOP_ROOM) {
    if (threadIdx.x == 0) out.count = 0;
    return;
  }
  int m = 64;
  while (m < n) m *= 2;
  for (int i = n + threadIdx.x; i < m; i += TOP_THREADS) sh.keys[i] = ~0ull;
#pragma unroll 8
  for (int i = threadIdx.x; i < p.columns; i += TOP_THREADS) {
    const float x = row[i];
    const int b = top_bin(largest - x);
    if (b >= 0 && b <= last) {
      const u32 falling = ~((u32)ordered(x + 0.0f) ^ 0x80000000u);  // -0 + 0 is 0
      sh.keys[atomicAdd(&sh.n, 1)] = (unsigned long long)falling << 32 | (u32)i;
    }
  }
  __syncthreads();
  top_sort(sh.keys, m);
  const int count = min(n, TOP);
  for (int i = threadIdx.x; i < count; i += TOP_THREADS) {
    out.id[i] = (int)(u32)sh.keys[i];
    out.logit[i] = unordered((int)(~(u32)(sh.keys[i] >> 32) ^ 0x80000000u));
  }
  if (threadIdx.x == 0) {
    double mass = 0;
    for (int w = 0; w < TOP_WARPS; w++) mass += sh.sum[w];
    out.count = count, out.mass = mass;
  }
}
