// Products of activations with weights, for many rows of activations: bound by the tensor cores. Four warps own a tile of weights each and 8·NT columns together, whose
// activations pass through shared memory; each code becomes fp16 once a thread block. The blocks of a cluster share the inputs.
#pragma once
#include "linear.cuh"

// Sums are the results of warps before they are joined: element (row, column) of a warp is at column·SUM_PITCH+row, which spreads a warp's stores over all banks.
constexpr int SUM_PITCH = 36;
template <int TILES> struct Sums { float of[TILES * 8 * SUM_PITCH]; };

// join adds up what `parts` warps, part·across apart, and all ranks have of `across` tiles of 32 rows and writes it. Columns go GROUP tiles of 8 at a time.
template <int GROUP, int NT> __device__ inline void join(const LinearParams &p, const Product &w, float (&c)[2][NT][4], Sums<GROUP> *sums, int across, int firstRow, int firstColumn) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = p.ranks > 1 ? cluster_rank() : 0, parts = blockDim.x / 32 / across;
#pragma unroll
  for (int begin = 0; begin < NT; begin += GROUP) {
    if (firstColumn + begin * 8 >= p.columns) break;
    if (begin > 0) p.ranks > 1 ? cluster_sync() : __syncthreads();
#pragma unroll
    for (int n = 0; n < GROUP; n++) {
#pragma unroll
      for (int i = 0; i < 8; i++) sums[warp].of[(n * 8 + lane % 4 * 2 + i % 2) * SUM_PITCH + i / 2 * 8 + lane / 4] = c[i / 4][begin + n][i % 4];
    }
    p.ranks > 1 ? cluster_sync() : __syncthreads();
    const int columns = min(GROUP * 8, p.columns - firstColumn - begin * 8);
    for (int e = rank * blockDim.x + threadIdx.x; e < columns * across * TILE; e += p.ranks * blockDim.x) {
      const int tile = e / TILE % across, column = e / TILE / across, row = firstRow + tile * TILE + e % TILE;
      float sum = 0;
      for (int k = 0; k < parts; k++) {
        const float *at = &sums[k * across + tile].of[column * SUM_PITCH + e % TILE];
        if (p.ranks == 1) sum += *at;
        else for (int r = 0; r < p.ranks; r++) sum += __int_as_float(peek(at, r));
      }
      if (row >= w.rows) continue;
      const int out = firstColumn + begin * 8 + column;
      sum *= p.scale[out] * w.factor;
      w.dst[(size_t)out * w.rows + row] = w.bias ? sum + w.bias[row] : sum;
    }
  }
  if (p.ranks > 1) cluster_sync();  // a rank's memory must outlive its readers
}

constexpr int STAGES = 4, GEMM_TILES = 4, JOINED = 8;

template <int NT> union GemmMemory {
  u32 x[STAGES][NT * 8][UNIT / 2];
  Sums<JOINED> sums[GEMM_TILES];
};

// multiply goes through a rank's units.
template <typename F, int NT> __device__ inline void multiply(const LinearParams &p, GemmMemory<NT> &s, const u8 *tile, bool there, int firstColumn, float (&c)[2][NT][4]) {
  const int lane = threadIdx.x % 32, rank = p.ranks > 1 ? cluster_rank() : 0;
  const int from = p.units * rank / p.ranks, to = p.units * (rank + 1) / p.ranks;
  constexpr int AHEAD = ahead<F>(20);
  Fragment<F> f[AHEAD];
#pragma unroll
  for (int i = 0; i < AHEAD; i++) f[i].load(tile + (size_t)(from + i) * F::BYTES, lane, there && from + i < to);
  wait_for_previous();
  const __half *x[NT / 4];
#pragma unroll
  for (int i = 0; i < NT / 4; i++) x[i] = p.x + (size_t)min(firstColumn + i * 32 + (int)threadIdx.x / 4, p.columns - 1) * p.units * UNIT + threadIdx.x % 4 * 8;
  auto fetch = [&](int unit) {
    if (unit < to) {
#pragma unroll
      for (int i = 0; i < NT / 4; i++) copy_async((u8 *)s.x[unit % STAGES][i * 32] + exchanged_by_row(threadIdx.x / 4, threadIdx.x % 4), x[i] + unit * UNIT);
    }
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) fetch(from + i);
  for (int begin = from; begin < to; begin += AHEAD) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int unit = begin + i;
      if (unit >= to) break;
      wait_copies<STAGES - 2>();
      __syncthreads();
      fetch(unit + STAGES - 1);
      u32 a[4][4];
      f[i].weights(a);
      f[i].load(tile + (size_t)(unit + AHEAD) * F::BYTES, lane, there && unit + AHEAD < to);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        u32 b[4];
        load_matrices(b, (u8 *)s.x[unit % STAGES][n * 8] + exchanged_by_row(lane % 8, lane / 8));
        mma(c[0][n], a[0][0], a[1][0], a[0][1], a[1][1], b[0], b[1]);
        mma(c[1][n], a[2][0], a[3][0], a[2][1], a[3][1], b[0], b[1]);
        mma(c[0][n], a[0][2], a[1][2], a[0][3], a[1][3], b[2], b[3]);
        mma(c[1][n], a[2][2], a[3][2], a[2][3], a[3][3], b[2], b[3]);
      }
    }
  }
  wait_copies<0>();
  __syncthreads();
}

// gemm_tiles computes four tiles' products with a panel of 8·NT columns. Its thread block has 4 warps.
template <int NT> __device__ inline void gemm_tiles(const LinearParams &p) {
  let_next_start();
  SHARED_MEMORY(GemmMemory<NT>, s);
  const int panel = blockIdx.y, group = blockIdx.z;
  const Product &w = product_of(p, group);
  const int first = (group - w.first) * GEMM_TILES, tile = first + threadIdx.x / 32;
  float c[2][NT][4] = {};
  WITH_FORMAT(w.format, F, (multiply<F, NT>(p, s, w.weight + (size_t)tile * p.units * F::BYTES, tile * TILE < w.rows, panel * NT * 8, c)))
  join<JOINED>(p, w, c, s.sums, GEMM_TILES, first * TILE, panel * NT * 8);
}
