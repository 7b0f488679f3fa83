// Products of activations with weights, for a panel of up to 128 rows of activations: bound by the reading of the weights still, if the tensor cores are fed as Hopper wants it.
// A warp owns a tile of weights and makes them fp16 in registers; the activations of all columns pass through shared memory, from which the tensor cores take them. A thread
// block has four warps, and the blocks of a cluster share the inputs. Each sum is the same however many columns the panel has.
#pragma once
#include "hopper.cuh"
#include "linear.cuh"

constexpr int PANEL_WARPS = 4;
constexpr int PANEL_SLOTS = 3;  // steps whose activations are in shared memory: of now, and those that warps which lag behind may still read

// A step is two units: 128 bytes of a column, 64 inputs. Its activations are, column by column, eight groups of eight inputs, of the first unit those that the lanes' pairs 0…3 are of and then
// the second's; group g of column n is where the tensor cores look for it, in place g^(n%8).
template <int NT> struct PanelMemory { u8 x[PANEL_SLOTS][NT * 1024]; };

// Share is what a warp fetches of a step's activations: each lane eight inputs of a column in NT/4, of both units.
template <int NT> struct Share {
  const __half *from;
  size_t apart;  // of its columns
  u32 there;     // a bit a column
  u32 v[NT / PANEL_WARPS][2][4];

  __device__ Share(const LinearParams &p, int firstColumn, int step) {
    const int column = firstColumn + threadIdx.x / 4;
    from = p.x + ((size_t)column * p.units + 2 * step) * UNIT + threadIdx.x % 4 * 8;
    apart = (size_t)PANEL_WARPS * 8 * p.units * UNIT;
    there = 0;
#pragma unroll
    for (int i = 0; i < NT / PANEL_WARPS; i++) there |= (column + i * PANEL_WARPS * 8 < p.columns) << i;
  }

  // fetch begins to load the next step; rubbish comes of columns that there are none of.
  __device__ void fetch() {
#pragma unroll
    for (int i = 0; i < NT / PANEL_WARPS; i++) {
#pragma unroll
      for (int u = 0; u < 2; u++) {
        if (there >> i & 1) load<4>(v[i][u], from + i * apart + u * UNIT);
      }
    }
    from += 2 * UNIT;
  }

  // place brings it into the order in which the tensor cores read.
  __device__ void place(u8 *x) const {
    const int group = threadIdx.x % 32 / 8, column = threadIdx.x % 8;
    x += (threadIdx.x / 32 * 8 + column) * 128;
#pragma unroll
    for (int i = 0; i < NT / PANEL_WARPS; i++) {
#pragma unroll
      for (int u = 0; u < 2; u++) store_matrices(x + i * PANEL_WARPS * 1024 + ((u * 4 + group) ^ column) * 16, v[i][u]);
    }
  }
};

// multiply_panel goes through a rank's steps. What a step needs is in registers when it begins, from global memory and not through copies: the tensor cores may not see the columns before
// all of a thread's writes to shared memory are over, and copies under way would count.
template <typename F, int NT> __device__ inline void multiply_panel(const LinearParams &p, PanelMemory<NT> &memory, const u8 *tile, bool there, int firstColumn, float (&c)[2][NT * 4]) {
  const int lane = threadIdx.x % 32, rank = p.ranks > 1 ? cluster_rank() : 0, steps = p.units / 2, from = steps * rank / p.ranks, to = steps * (rank + 1) / p.ranks;
  tile += (size_t)from * 2 * F::BYTES;
  Fragment<F> f[2];
#pragma unroll
  for (int u = 0; u < 2; u++) f[u].load(tile + u * F::BYTES, lane, there && from < to);
  if (there && lane == 0) prefetch_bytes(tile, (to - from) * 2 * F::BYTES);  // while the launch ahead goes on
  wait_for_previous();
  Share<NT> share(p, firstColumn, from);
  if (from < to) share.fetch();
  u32 a[2][4][4];
  int slot = 0;
  for (int s = from; s < to; s++, slot = slot == PANEL_SLOTS - 1 ? 0 : slot + 1) {
    u8 *x = memory.x[slot];
    share.place(x);
    written();
    if (s + 1 < to) share.fetch();
    tile += 2 * F::BYTES;
#pragma unroll
    for (int u = 0; u < 2; u++) {
      products_wait<1>();  // of the same unit of the step before, whose weights were in the same registers
      f[u].keep();
      f[u].weights(a[u]);
      f[u].load(tile + u * F::BYTES, lane, there && s + 1 < to);
      if (u == 0) __syncthreads();
      products_begin();
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u64 b = rows_of(shared_address(x) + u * 64 + half * 32);
        const u32(&w)[4][4] = a[u];
        const u32 upper[4] = {w[0][2 * half], w[1][2 * half], w[0][2 * half + 1], w[1][2 * half + 1]}, lower[4] = {w[2][2 * half], w[3][2 * half], w[2][2 * half + 1], w[3][2 * half + 1]};
        product_of_rows(c[0], upper, b);
        product_of_rows(c[1], lower, b);
      }
      products_end();
    }
  }
  products_wait<0>();
  settled(c[0]), settled(c[1]);
}

// panel_tiles computes the products of a tile a warp with a panel of 8·NT columns. Of a gate, half of the warps have the gate's tiles and half its partner's.
template <int NT> __device__ inline void panel_tiles(const LinearParams &p) {
  let_next_start();
  DYNAMIC_MEMORY(memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = p.ranks > 1 ? cluster_rank() : 0;
  const int panel = blockIdx.x / p.ranks % p.panels, group = blockIdx.x / p.ranks / p.panels, firstColumn = panel * NT * 8, across = PANEL_WARPS / (p.gated ? 2 : 1);
  const Product &w = p.gated ? p.product[warp / across] : product_of(p, group);
  const int tile = (p.gated ? group : group - w.first) * across + warp % across;
  float c[2][NT * 4] = {};
  WITH_FORMAT(w.format, F, (multiply_panel<F, NT>(p, *(PanelMemory<NT> *)memory, w.weight + (size_t)tile * p.units * F::BYTES, tile * TILE < w.rows, firstColumn, c)))
  // Rank n%ranks adds up and writes eight columns, number n. All sums go through its memory, so that few instructions do the rest: they are not in the cache yet.
  const int each = (NT + p.ranks - 1) / p.ranks;
  float4 *arriving = (float4 *)memory + threadIdx.x;
  float *scales = (float *)((float4 *)memory + each * p.ranks * 2 * PANEL_WARPS * 32);
  auto place = [&](int r, int n, int h) { return arriving + ((r * each + n / p.ranks) * 2 + h) * PANEL_WARPS * 32; };
  const float scale = threadIdx.x < NT * 8 && firstColumn + threadIdx.x < p.columns ? p.scale[firstColumn + threadIdx.x] : 0;
  p.ranks > 1 ? cluster_sync() : __syncthreads();  // nobody's memory is in use any more
#pragma unroll
  for (int n = 0; n < NT; n++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float4 v = make_float4(c[h][4 * n], c[h][4 * n + 1], c[h][4 * n + 2], c[h][4 * n + 3]);
      if (p.ranks > 1) push(place(rank, n, h), n % p.ranks, v);
      else *place(0, n, h) = v;
    }
  }
  if (threadIdx.x < NT * 8) scales[threadIdx.x] = scale;
  p.ranks > 1 ? cluster_sync() : __syncthreads();
  if (p.gated && warp >= across) return;
#pragma unroll 1
  for (int i = rank * 2; i < NT * 2; i += i % 2 ? p.ranks * 2 - 1 : 1) {
    const int n = i / 2, h = i % 2, column = n * 8 + lane % 4 * 2;
    float4 sum[2];
#pragma unroll
    for (int kind = 0; kind < 2; kind++) {  // of a gate, its partner's are half a thread block further
      if (kind == 1 && !p.gated) break;
      const int skip = kind * across * 32;
      sum[kind] = place(0, n, h)[skip];
      for (int r = 1; r < p.ranks; r++) sum[kind] = plus(sum[kind], place(r, n, h)[skip]);
    }
    put(p, w, sum, make_float2(scales[column], scales[column + 1]), tile * TILE + h * 16 + lane / 4, firstColumn + column);
  }
}
