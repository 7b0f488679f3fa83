// Products of activations with weights, for a panel of up to 96 rows of activations: bound by the reading of the weights still, if the tensor cores are fed as Hopper wants it.
// A warp owns a tile of weights and makes them fp16 in registers; the activations of all columns pass through shared memory, from which the tensor cores take them. A thread
// block has four warps, and the blocks of a cluster share the inputs. Each sum is the same however many columns the panel has.
#pragma once
#include "hopper.cuh"
#include "linear.cuh"

constexpr int PANEL_WARPS = 4;
// So many steps have a place in shared memory: those under way, that of now, and the one before, which the tensor cores may still read.
constexpr int PANEL_SLOTS = 5, PANEL_AHEAD = PANEL_SLOTS - 2;

// A step is two units: 128 bytes of a column, 64 inputs. Its place has the columns' activations first and then what each warp needs of its weights.
template <typename F, int NT> struct PanelSlot {
  static constexpr int COLUMNS = NT * 1024, WEIGHTS = 2 * F::BYTES, BYTES = (COLUMNS + PANEL_WARPS * WEIGHTS + ALIGNED - 1) / ALIGNED * ALIGNED;
};

// arrange brings a warp's columns, each lane's eight inputs as they came, into the order in which the tensor cores read: column by column eight chunks of eight inputs, of the first unit those
// that the lanes' pairs 0…3 are of and then the second's.
template <int NT> __device__ inline void arrange(u8 *columns) {
  constexpr int TOGETHER = NT / PANEL_WARPS % 2 ? 1 : 2;
  const int lane = threadIdx.x % 32, column = lane % 8;
  columns += threadIdx.x / 32 * 1024;
#pragma unroll
  for (int first = 0; first < NT / PANEL_WARPS; first += TOGETHER) {
    u32 v[TOGETHER][2][4];
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
#pragma unroll
      for (int u = 0; u < 2; u++) load<4>(v[i][u], columns + (first + i) * PANEL_WARPS * 1024 + lane / 4 * 128 + ((u * 4 + lane % 4) ^ lane / 4 % 2 * 4) * 16);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
#pragma unroll
      for (int u = 0; u < 2; u++) store_matrices(columns + (first + i) * PANEL_WARPS * 1024 + column * 128 + ((u * 4 + lane / 8) ^ column) * 16, v[i][u]);
    }
  }
}

// multiply_panel goes through a rank's steps.
template <typename F, int NT> __device__ inline void multiply_panel(const LinearParams &p, u8 *memory, const u8 *tile, bool there, int firstColumn, float (&c)[2][NT * 4]) {
  typedef PanelSlot<F, NT> Slot;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, rank = p.ranks > 1 ? cluster_rank() : 0, all = p.units / 2, from = all * rank / p.ranks, steps = all * (rank + 1) / p.ranks - from;
  tile += (size_t)from * Slot::WEIGHTS;
  const int column = firstColumn + threadIdx.x / 4;
  const __half *x = p.x + ((size_t)column * p.units + 2 * from) * UNIT + lane % 4 * 8;
  const size_t apart = (size_t)PANEL_WARPS * 8 * p.units * UNIT;
  auto weights = [&](int step, int slot) {
    if (there && step < steps) copy_bytes<Slot::WEIGHTS>(memory + slot * Slot::BYTES + Slot::COLUMNS + warp * Slot::WEIGHTS, tile + (size_t)step * Slot::WEIGHTS, lane);
  };
  auto columns = [&](int step, int slot) {
    u8 *to = memory + slot * Slot::BYTES + warp * 1024 + lane / 4 * 128;
    if (step < steps) {
#pragma unroll
      for (int i = 0; i < NT / PANEL_WARPS; i++) {
        if (column + i * PANEL_WARPS * 8 >= p.columns) break;
#pragma unroll
        for (int u = 0; u < 2; u++) copy_async(to + i * PANEL_WARPS * 1024 + ((u * 4 + lane % 4) ^ lane / 4 % 2 * 4) * 16, x + i * apart + (2 * step + u) * UNIT);
      }
    }
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < PANEL_AHEAD; i++) weights(i, i);
  if (there && lane == 0) prefetch_bytes(tile, steps * Slot::WEIGHTS);  // while the launch ahead goes on
  wait_for_previous();
#pragma unroll
  for (int i = 0; i < PANEL_AHEAD; i++) columns(i, i);
  u32 a[2][4][4];
  for (int s = 0, slot = 0; s < steps; s++, slot = slot == PANEL_SLOTS - 1 ? 0 : slot + 1) {
    u8 *at = memory + slot * Slot::BYTES;
    wait_copies<PANEL_AHEAD - 1>();
    __syncwarp();
    arrange<NT>(at);
    written();
#pragma unroll
    for (int u = 0; u < 2; u++) {
      Fragment<F> f;
      products_wait<1>();  // of the same unit of the step before, whose weights were in the same registers
      f.take(at + Slot::COLUMNS + warp * Slot::WEIGHTS + u * F::BYTES, lane);
      f.weights(a[u]);
      if (u == 0) {
        __syncthreads();
        const int next = slot + PANEL_AHEAD - (slot + PANEL_AHEAD >= PANEL_SLOTS ? PANEL_SLOTS : 0);  // where the step before the last one was
        weights(s + PANEL_AHEAD, next);
        columns(s + PANEL_AHEAD, next);
      }
      products_begin();
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u64 b = rows_of(shared_address(at) + u * 64 + half * 32);
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
  wait_copies<0>();
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
  WITH_FORMAT(w.format, F, (multiply_panel<F, NT>(p, (u8 *)memory, w.weight + (size_t)tile * p.units * F::BYTES, tile * TILE < w.rows, firstColumn, c)))
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
