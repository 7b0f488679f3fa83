// Products of activations with weights, for few rows of activations: bound by the reading of the weights. A thread block, or a cluster of them, owns a tile of weight
// rows and shares its inputs among all its warps. Each sum is the same however many rows the product has.
#pragma once
#include "weight.cuh"

struct Product {
  const u8 *weight;
  const float *bias;  // [rows], or null
  float *dst;         // [columns][rows]
  int rows, format;
  int first;          // of its tiles (of groups of tiles in gemm.cuh) among those of all products
  int add;            // in wide.cuh: not 0 if dst is added to
};

struct LinearParams {
  const __half *x;     // [columns][32·units]
  const float *scale;  // [columns]
  Product product[3];
  int products;
  int columns;         // rows of activations: columns of the tensor cores' result
  int units;           // of 32 inputs
  int ranks;           // thread blocks of a cluster
  int panels;          // groups of columns, as many as a thread block takes
};

// ahead is how many units of a format a warp has in flight, given the registers for them.
template <typename F> __device__ constexpr int ahead(int registers) {
  const int n = registers / (F::CODES + F::PLANES + F::SCALES);
  return n < 1 ? 1 : n > 4 ? 4 : n;
}

// product_of finds the product to which a tile belongs.
__device__ inline const Product &product_of(const LinearParams &p, int tile) {
  int i = 0;
  while (i + 1 < p.products && tile >= p.product[i + 1].first) i++;
  return p.product[i];
}

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
      sum *= p.scale[out];
      w.dst[(size_t)out * w.rows + row] = w.bias ? sum + w.bias[row] : sum;
    }
  }
  if (p.ranks > 1) cluster_sync();  // a rank's memory must outlive its readers
}

// accumulate multiplies a warp's units of a tile.
template <typename F, int NT> __device__ inline void accumulate(const LinearParams &p, const u8 *tile, int firstColumn, float (&c)[2][NT][4]) {
  constexpr int AHEAD = ahead<F>(NT == 1 ? 40 : NT == 2 ? 32 : 24);
  constexpr int TOGETHER = NT == 1 ? AHEAD : 1;  // units whose activations are loaded at once
  const int lane = threadIdx.x % 32, slots = blockDim.x / 32 * p.ranks, slot = (p.ranks > 1 ? cluster_rank() : 0) * (blockDim.x / 32) + threadIdx.x / 32;
  const size_t step = (size_t)slots * F::BYTES;
  tile += (size_t)slot * F::BYTES;
  Fragment<F> f[AHEAD];
#pragma unroll
  for (int i = 0; i < AHEAD; i++) f[i].load(tile + i * step, lane, slot + i * slots < p.units);
  wait_for_previous();
  const __half *x = p.x + (size_t)(firstColumn + lane / 4) * p.units * UNIT + lane % 4 * 8;
  for (int unit = slot; unit < p.units; unit += AHEAD * slots) {
    tile += AHEAD * step;
#pragma unroll
    for (int j = 0; j < AHEAD; j += TOGETHER) {
      uint4 b[TOGETHER][NT];
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        const int u = unit + (j + i) * slots;
#pragma unroll
        for (int n = 0; n < NT; n++) {
          b[i][n] = make_uint4(0, 0, 0, 0);
          if (u < p.units && firstColumn + n * 8 + lane / 4 < p.columns) b[i][n] = *(const uint4 *)(x + ((size_t)n * 8 * p.units + u) * UNIT);
        }
      }
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        u32 a[4][4];
        f[j + i].weights(a);
        f[j + i].load(tile + (j + i) * step, lane, unit + (AHEAD + j + i) * slots < p.units);
#pragma unroll
        for (int n = 0; n < NT; n++) {
          mma(c[0][n], a[0][0], a[1][0], a[0][1], a[1][1], b[i][n].x, b[i][n].y);
          mma(c[1][n], a[2][0], a[3][0], a[2][1], a[3][1], b[i][n].x, b[i][n].y);
          mma(c[0][n], a[0][2], a[1][2], a[0][3], a[1][3], b[i][n].z, b[i][n].w);
          mma(c[1][n], a[2][2], a[3][2], a[2][3], a[3][3], b[i][n].z, b[i][n].w);
        }
      }
    }
  }
}

// linear_tile computes a tile's products with a panel of 8·NT columns. Its thread block has at most 8 warps.
template <int NT> __device__ inline void linear_tile(const LinearParams &p) {
  let_next_start();
  struct All { Sums<NT> of[8]; };
  SHARED_MEMORY(All, sums);
  const int panel = blockIdx.x / p.ranks % p.panels, tile = blockIdx.x / p.ranks / p.panels, firstColumn = panel * NT * 8;
  const Product &w = product_of(p, tile);
  float c[2][NT][4] = {};
  WITH_FORMAT(w.format, F, (accumulate<F, NT>(p, w.weight + (size_t)(tile - w.first) * p.units * F::BYTES, firstColumn, c)))
  join<NT>(p, w, c, sums.of, 1, (tile - w.first) * TILE, firstColumn);
}

// ArgmaxParams: dst[i] is the first place of the largest of row i.
struct ArgmaxParams {
  int *dst;
  const float *src;  // [rows][columns]
  int columns, ranks;
};

// better says whether a candidate comes before another: larger, or as large and earlier.
__device__ inline bool better(float x, int at, float than, int where) { return x > than || (x == than && at < where); }

// largest_of searches a row, which the blocks of a cluster share.
__device__ inline void largest_of(const ArgmaxParams &p) {
  struct Best { float value[33]; int at[33]; };
  SHARED_MEMORY(Best, best);
  let_next_start();
  wait_for_previous();
  const int lane = threadIdx.x % 32, rank = p.ranks > 1 ? cluster_rank() : 0, row = blockIdx.x / p.ranks, warps = blockDim.x / 32;
  const float *src = p.src + (size_t)row * p.columns;
  float value = -INFINITY;
  int at = 0x7fffffff;
#pragma unroll 4
  for (int i = rank * blockDim.x + threadIdx.x; i < p.columns; i += p.ranks * blockDim.x) {
    const float x = src[i];
    if (better(x, i, value, at)) value = x, at = i;
  }
  for (int turn = 0; turn < 2; turn++) {
    for (int d = 16; d > 0; d /= 2) {
      const float x = __shfl_xor_sync(~0u, value, d);
      const int i = __shfl_xor_sync(~0u, at, d);
      if (better(x, i, value, at)) value = x, at = i;
    }
    if (turn == 1) break;
    if (lane == 0) best.value[threadIdx.x / 32] = value, best.at[threadIdx.x / 32] = at;
    __syncthreads();
    value = lane < warps ? best.value[lane] : -INFINITY;
    at = lane < warps ? best.at[lane] : 0x7fffffff;
  }
  if (p.ranks > 1) {
    if (threadIdx.x == 0) best.value[32] = value, best.at[32] = at;
    cluster_sync();
    for (int r = 0; r < p.ranks; r++) {
      const float x = __int_as_float(peek(&best.value[32], r));
      const int i = peek(&best.at[32], r);
      if (better(x, i, value, at)) value = x, at = i;
    }
    cluster_sync();
  }
  if (threadIdx.x == 0 && rank == 0) p.dst[row] = at < p.columns ? at : 0;  // nothing compares with a NaN
}
