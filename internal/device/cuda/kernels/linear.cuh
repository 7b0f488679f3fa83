// Products of activations with weights, for few rows of activations, on any device: bound by the reading of the weights. A thread block owns a tile of weight rows and shares its
// inputs among all its warps. What all kernels of products have in common is here too.
#pragma once
#include "rows.cuh"
#include "weight.cuh"

struct Product {
  const u8 *weight;
  const float *bias;  // [rows], or null
  float *dst;         // [columns][rows]
  int rows, format;
  int first;          // of its tiles (of groups of tiles in gemm.cuh) among those of all products
  int add;            // in wide.cuh: not 0 if dst is added to
  float factor;       // of the weights
};

struct LinearParams {
  const __half *x;     // [columns][32·units]
  const float *scale;  // [columns]
  Product product[3];
  int products;
  int columns;         // rows of activations: columns of the tensor cores' result
  int units;           // of 32 inputs
  int ranks;           // thread blocks of a cluster
  int panels;          // groups of columns, as many as a thread block takes. blockIdx.y counts them, z tiles or groups of tiles, x ranks
  int act;             // of a gate
  __half *gated;       // the gate's activation times the second product, divided by GATED: [columns][rows]; null: the products are wanted each by itself
};

// A gated value is divided by this rather than by what the row's largest asks for, which no thread block knows: four million fits then, and a value of less than .004 is off by at
// most 2e-6.
constexpr float GATED = 64;

// product_of finds the product to which a tile belongs.
__device__ inline const Product &product_of(const LinearParams &p, int tile) {
  int i = 0;
  while (i + 1 < p.products && tile >= p.product[i + 1].first) i++;
  return p.product[i];
}

// Writer writes what a lane has of sixteen rows of one product or, of a gate, of both: rows row and row+8.
struct Writer {
  const LinearParams &p;
  const Product &w;
  int row;
  float bias[2][2];

  __device__ Writer(const LinearParams &p, const Product &w, int row) : p(p), w(w), row(row) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float *from = i < 2 ? w.bias : p.gated ? p.product[1].bias : nullptr;
      bias[i / 2][i % 2] = from && row + i % 2 * 8 < w.rows ? from[row + i % 2 * 8] : 0;
    }
  }

  // put does so with columns column and column+1.
  __device__ void put(const float4 (&v)[2], const float *scale, int column) const {
    const float x[4] = {v[0].x, v[0].y, v[0].z, v[0].w}, up[4] = {v[1].x, v[1].y, v[1].z, v[1].w};
    size_t at = (size_t)column * w.rows + row;
#pragma unroll
    for (int e = 0; e < 2; e++, at += w.rows) {
      if (column + e >= p.columns) break;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (row + h * 8 >= w.rows) break;
        const float sum = x[2 * h + e] * (scale[e] * w.factor) + bias[0][h];
        if (p.gated == nullptr) w.dst[at + h * 8] = sum;
        else p.gated[at + h * 8] = __float2half_rn(narrow(activated(sum, p.act) * (up[2 * h + e] * (scale[e] * p.product[1].factor) + bias[1][h]) * (1 / GATED)));
      }
    }
  }
};

__device__ inline float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// copy_bytes begins to copy a warp's bytes to shared memory, 16 a lane and turn.
template <int BYTES> __device__ inline void copy_bytes(u8 *shared, const u8 *global, int lane) {
#pragma unroll
  for (int i = 0; i < BYTES; i += 512) {
    if (i + 512 <= BYTES || i + lane * 16 < BYTES) copy_async(shared + i + lane * 16, global + i + lane * 16);
  }
}

// exchanged_by_row is where chunk c of eight inputs of row r stands, of a tile of 32 inputs: no two rows of a chunk share a bank.
__device__ inline int exchanged_by_row(int r, int c) { return r * 64 + (c ^ r / 2 % 4) * 16; }

// A warp's units, and the activations that they meet, pass through a ring of its own: so many are under way, less one.
constexpr int RING = 4;

// accumulate multiplies a warp's units of a tile, of which the thread block's warps that share it take turns.
template <typename F, int NT> __device__ inline void accumulate(const LinearParams &p, const u8 *tile, int sharing, u8 *ring, int firstColumn, float (&c)[2][NT][4]) {
  constexpr int SLOT = F::BYTES + NT * 512;
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 % sharing;
  const __half *x = p.x + (size_t)(firstColumn + lane / 4) * p.units * UNIT + lane % 4 * 8;
  const int to = F::BYTES + exchanged_by_row(lane / 4, lane % 4), from = F::BYTES + exchanged_by_row(lane % 8, lane / 8);
  auto weights = [&](int i) {
    const int unit = first + i * sharing;
    if (unit < p.units) copy_bytes<F::BYTES>(ring + i % RING * SLOT, tile + (size_t)unit * F::BYTES, lane);
  };
  auto activations = [&](int i) {
    const int unit = first + i * sharing;
#pragma unroll
    for (int n = 0; n < NT; n++) {
      if (unit < p.units && firstColumn + n * 8 + lane / 4 < p.columns) copy_async(ring + i % RING * SLOT + to + n * 512, x + ((size_t)n * 8 * p.units + unit) * UNIT);
    }
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < RING - 1; i++) weights(i);
  wait_for_previous();
#pragma unroll
  for (int i = 0; i < RING - 1; i++) activations(i);
  for (int i = 0; first + i * sharing < p.units; i++) {
    wait_copies<RING - 2>();
    __syncwarp();
    const u8 *slot = ring + i % RING * SLOT;
    Fragment<F> f;
    f.take(slot, lane);
    u32 a[4][4], b[NT][4];
#pragma unroll
    for (int n = 0; n < NT; n++) load_matrices(b[n], slot + from + n * 512);
    __syncwarp();
    weights(i + RING - 1);  // where the unit before this one was
    activations(i + RING - 1);
    f.weights(a);
#pragma unroll
    for (int n = 0; n < NT; n++) {
      mma(c[0][n], a[0][0], a[1][0], a[0][1], a[1][1], b[n][0], b[n][1]);
      mma(c[1][n], a[2][0], a[3][0], a[2][1], a[3][1], b[n][0], b[n][1]);
      mma(c[0][n], a[0][2], a[1][2], a[0][3], a[1][3], b[n][2], b[n][3]);
      mma(c[1][n], a[2][2], a[3][2], a[2][3], a[3][3], b[n][2], b[n][3]);
    }
  }
  wait_copies<0>();
  __syncwarp();
}

// join_warps adds up what the warps have of a tile, or of a gate's and its partner's, and writes it. A warp's sums go where its ring was, `apart` bytes from the next.
template <int NT> __device__ inline void join_warps(const LinearParams &p, const Product &w, const float (&c)[2][NT][4], int sharing, u8 *rings, int apart, int firstRow, int firstColumn) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
#pragma unroll
  for (int f = 0; f < 2 * NT; f++) {
    const float (&v)[4] = c[f / NT][f % NT];
    ((float4 *)(rings + warp * apart))[f * 32 + lane] = make_float4(v[0], v[1], v[2], v[3]);
  }
  __syncthreads();
  for (int f = warp; f < 2 * NT; f += warps) {
    const int column = firstColumn + f % NT * 8 + lane % 4 * 2;
    const float scale[2] = {column < p.columns ? p.scale[column] : 0, column + 1 < p.columns ? p.scale[column + 1] : 0};
    float4 sum[2];
#pragma unroll
    for (int kind = 0; kind < 2; kind++) {
      if (kind == 1 && !p.gated) break;
      const u8 *from = rings + kind * sharing * apart;
      sum[kind] = ((const float4 *)from)[f * 32 + lane];
      for (int k = 1; k < sharing; k++) sum[kind] = plus(sum[kind], ((const float4 *)(from + k * apart))[f * 32 + lane]);
    }
    Writer(p, w, firstRow + f / NT * 16 + lane / 4).put(sum, scale, column);
  }
}

// linear_tile computes a tile's products, or a gate's tile and its partner's, with a panel of 8·NT columns. Its thread block has at most 8 warps, and memory for their rings.
template <int NT> __device__ inline void linear_tile(const LinearParams &p) {
  let_next_start();
  DYNAMIC_MEMORY(memory);
  const int tile = blockIdx.z, firstColumn = blockIdx.y * NT * 8, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int sharing = p.gated ? warps / 2 : warps;
  const Product &w = p.gated ? p.product[warp / sharing] : product_of(p, tile);
  const int own = p.gated ? tile : tile - w.first;
  float c[2][NT][4] = {};
  int apart = 0;
  WITH_FORMAT(w.format, F, {
    apart = RING * (F::BYTES + NT * 512);
    accumulate<F, NT>(p, w.weight + (size_t)own * p.units * F::BYTES, sharing, (u8 *)memory + warp * apart, firstColumn, c);
  })
  join_warps<NT>(p, p.gated ? p.product[0] : w, c, sharing, (u8 *)memory, apart, own * TILE, firstColumn);
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
