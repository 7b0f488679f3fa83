// Products of activations with weights, for few rows of activations: bound by the reading of the weights. A thread block, or a cluster of them, owns a tile of weight
// rows and shares its inputs among all its warps. Each sum is the same however many rows the product has.
#pragma once
#include "hopper.cuh"
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
  int share;           // of them, or of panel.cuh's steps, that a warp, or a cluster's thread block, takes at most: those from its number times as many on
  int ranks;           // thread blocks of a cluster
  int panels;          // groups of columns, as many as a thread block takes: blockIdx.y counts them; z tiles or groups of tiles, x ranks
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

// A warp's share of a tile's units comes to shared memory whole, in so many pieces, and the activations that it meets in another.
constexpr int PIECES = 2;

// share_bytes is what a warp keeps: weights, rows of activations, and the pieces' barriers. Rows are so far apart that those of a chunk of eight inputs share no bank. Sums take
// the place of all in the end.
__device__ inline int share_pitch(const LinearParams &p) { return p.share * UNIT * 2 + 16; }
template <typename F, int NT> __device__ inline int share_bytes(const LinearParams &p, int columns) {
  return max(p.share * F::BYTES + columns * share_pitch(p) + (PIECES + 1) * 8 + 8, NT * 1024);
}

// accumulate multiplies a warp's units of a tile, which so many warps of a thread block share. The weights are on their way before the launch ahead has ended.
template <typename F, int NT> __device__ inline void accumulate(const LinearParams &p, const u8 *tile, int sharing, u8 *memory, int firstColumn, float (&c)[2][NT][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, from = p.share * ((p.ranks > 1 ? cluster_rank() : 0) * sharing + (warp < sharing ? warp : warp - sharing));
  const int units = min(max(p.units - from, 0), p.share), columns = min(NT * 8, p.columns - firstColumn), pitch = share_pitch(p);
  u8 *x = memory + p.share * F::BYTES;
  Barrier *arrived = (Barrier *)(x + columns * pitch);
  const __half *rows = p.x + (size_t)firstColumn * p.units * UNIT + from * UNIT;
#if __CUDA_ARCH__ >= 900
  if (lane <= PIECES) barrier_make(&arrived[lane], 1);
  barriers_made();
  __syncwarp();
  if (lane < PIECES) {
    const int begin = units * lane / PIECES, bytes = (units * (lane + 1) / PIECES - begin) * F::BYTES;
    barrier_announce(&arrived[lane], bytes);
    if (bytes > 0) copy_block(memory + begin * F::BYTES, tile + (size_t)(from + begin) * F::BYTES, bytes, &arrived[lane]);
  }
  if (p.ranks > 1) cluster_meet();  // all ranks have begun before one pushes sums
  wait_for_previous();
  if (lane == 0) barrier_announce(&arrived[PIECES], columns * units * UNIT * 2);
  __syncwarp();
  if (lane < columns && units > 0) copy_block(x + lane * pitch, rows + (size_t)lane * p.units * UNIT, units * UNIT * 2, &arrived[PIECES]);
#else
  for (int i = lane * 16; i < units * F::BYTES; i += 512) copy_async(memory + i, tile + (size_t)from * F::BYTES + i);
  for (int i = lane; i < columns * units * 4; i += 32) copy_async(x + i / (units * 4) * pitch + i % (units * 4) * 16, rows + (size_t)(i / (units * 4)) * p.units * UNIT + i % (units * 4) * 8);
  commit_copies(), wait_copies<0>();
  __syncwarp();
#endif
  const u8 *own[NT];
#pragma unroll
  for (int n = 0; n < NT; n++) own[n] = x + min(n * 8 + lane % 8, columns - 1) * pitch + lane / 8 * 16;
  barrier_wait(&arrived[PIECES], 0);
  for (int piece = 0, unit = 0; piece < PIECES; piece++) {
    barrier_wait(&arrived[piece], 0);
    for (const int end = units * (piece + 1) / PIECES; unit < end; unit++) {
      Fragment<F> f;
      f.take(memory + unit * F::BYTES, lane);
      u32 a[4][4];
      f.weights(a);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        u32 b[4];
        load_matrices(b, own[n] + unit * UNIT * 2);
        mma(c[0][n], a[0][0], a[1][0], a[0][1], a[1][1], b[0], b[1]);
        mma(c[1][n], a[2][0], a[3][0], a[2][1], a[3][1], b[0], b[1]);
        mma(c[0][n], a[0][2], a[1][2], a[0][3], a[1][3], b[2], b[3]);
        mma(c[1][n], a[2][2], a[3][2], a[2][3], a[3][3], b[2], b[3]);
      }
    }
  }
  __syncwarp();
}

// join_warps adds up what the warps, and then the ranks, have of a tile, or of a gate's and its partner's, and writes it. A warp's sums go where its share was, `apart` bytes from
// the next; those of all ranks come to `arriving`, and are counted by `joined`. Rank f%ranks writes fragment f, of 2·NT.
template <int NT>
__device__ inline void join_warps(const LinearParams &p, const Product &w, const float (&c)[2][NT][4], int sharing, u8 *shares, int apart, float4 *arriving, Barrier *joined, int firstRow, int firstColumn) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, kinds = p.gated ? 2 : 1, rank = p.ranks > 1 ? cluster_rank() : 0;
  const int each = (2 * NT + p.ranks - 1) / p.ranks;  // fragments a rank
  auto write = [&](int f, const float4 (&v)[2]) {
    const int column = firstColumn + f % NT * 8 + lane % 4 * 2;
    const float scale[2] = {column < p.columns ? p.scale[column] : 0, column + 1 < p.columns ? p.scale[column + 1] : 0};
    Writer(p, w, firstRow + f / NT * 16 + lane / 4).put(v, scale, column);
  };
#pragma unroll
  for (int f = 0; f < 2 * NT; f++) {
    const float (&v)[4] = c[f / NT][f % NT];
    ((float4 *)(shares + warp * apart))[f * 32 + lane] = make_float4(v[0], v[1], v[2], v[3]);
  }
  __syncthreads();
  for (int f = warp; f < 2 * NT; f += warps) {
    float4 sum[2];
#pragma unroll
    for (int kind = 0; kind < 2; kind++) {
      if (kind == kinds) break;
      const u8 *from = shares + kind * sharing * apart;
      sum[kind] = ((const float4 *)from)[f * 32 + lane];
      for (int k = 1; k < sharing; k++) sum[kind] = plus(sum[kind], ((const float4 *)(from + k * apart))[f * 32 + lane]);
      if (p.ranks > 1) push(&arriving[((rank * each + f / p.ranks) * kinds + kind) * 32 + lane], f % p.ranks, sum[kind], joined);
    }
    if (p.ranks == 1) write(f, sum);
  }
  if (p.ranks == 1) return;
  barrier_wait(joined, 0);
  for (int f = rank + warp * p.ranks; f < 2 * NT; f += warps * p.ranks) {
    float4 sum[2];
#pragma unroll
    for (int kind = 0; kind < 2; kind++) {
      if (kind == kinds) break;
      const float4 *from = &arriving[(f / p.ranks * kinds + kind) * 32 + lane];
      sum[kind] = *from;
      for (int r = 1; r < p.ranks; r++) sum[kind] = plus(sum[kind], from[r * each * kinds * 32]);
    }
    write(f, sum);
  }
}

// linear_tile computes a tile's products, or a gate's tile and its partner's, with a panel of 8·NT columns. Its thread block has at most 8 warps, and memory for their shares, for
// what arrives from all ranks and a barrier.
template <int NT> __device__ inline void linear_tile(const LinearParams &p) {
  let_next_start();
  DYNAMIC_MEMORY(memory);
  const int tile = blockIdx.z, firstColumn = blockIdx.y * NT * 8, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int sharing = p.gated ? warps / 2 : warps;
  const Product &w = p.gated ? p.product[warp >= sharing] : product_of(p, tile);
  const int own = p.gated ? tile : tile - w.first;
  float c[2][NT][4] = {};
  int apart = 0;
  Barrier *joined = nullptr;
  float4 *arriving = nullptr;
  WITH_FORMAT(w.format, F, {
    apart = share_bytes<F, NT>(p, min(NT * 8, p.columns - firstColumn));
    arriving = (float4 *)(memory + warps * apart);
    if (p.ranks > 1) {
      const int rank = cluster_rank(), fragments = (2 * NT - rank + p.ranks - 1) / p.ranks;
      joined = (Barrier *)(arriving + (2 * NT + p.ranks - 1) / p.ranks * p.ranks * 64);
      if (threadIdx.x == 0) barrier_make(joined, 1), barriers_made(), barrier_announce(joined, max(fragments, 0) * p.ranks * (p.gated ? 1024 : 512));
    }
    accumulate<F, NT>(p, w.weight + (size_t)own * p.units * F::BYTES, sharing, (u8 *)memory + warp * apart, firstColumn, c);
  })
  join_warps<NT>(p, p.gated ? p.product[0] : w, c, sharing, (u8 *)memory, apart, arriving, joined, own * TILE, firstColumn);
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
