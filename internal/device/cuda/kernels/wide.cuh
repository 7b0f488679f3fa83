// Products of activations with weights, for hundreds of rows of activations and more, on Hopper: two warpgroups multiply 128 columns each with the same weights, which a third
// decodes into shared memory while the activations are copied there. A thread block goes from tile to tile; decoding and copying run ahead. Each sum is the same however many
// rows the product has.
#pragma once
#include "hopper.cuh"
#include "linear.cuh"

constexpr int WIDE_GROUPS = 2, WIDE_COLUMNS = 128 * WIDE_GROUPS, WIDE_THREADS = 128 * (WIDE_GROUPS + 1), WIDE_STAGES = 4;

// WideParams is wideParams of linear.go. The map's box is WIDE_COLUMNS rows of activations; panels are as many columns, and a product's `first` counts ROWS rows of weights.
struct WideParams {
  TensorMap x;
  LinearParams p;
};

template <int ROWS> struct WideShared {
  u8 x[WIDE_STAGES][WIDE_COLUMNS * PANEL_BYTES], w[WIDE_STAGES][ROWS * PANEL_BYTES];
  Barrier full[WIDE_STAGES], done[WIDE_STAGES];
};

// wide_fill brings a tile's inputs, 64 of them at a time: step is the running number of these. Each of the warpgroup's warps decodes 32 rows of weights.
template <typename F, int ROWS> __device__ inline void wide_fill(const WideParams &f, WideShared<ROWS> &sh, const u8 *weights, bool there, int column, int &step) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, row = lane / 4, odd = row % 2, units = f.p.units;
  Fragment<F> next[2];
#pragma unroll
  for (int i = 0; i < 2; i++) next[i].load(weights + (size_t)i * F::BYTES, lane, there && i < units);
  for (int unit = 0; unit < units; unit += 2, step++) {
    const int stage = step % WIDE_STAGES;
    barrier_wait(&sh.done[stage], (step / WIDE_STAGES & 1) ^ 1);
    if (warp == 3 && lane == 0) {
      barrier_announce(&sh.full[stage], sizeof sh.x[0]);
      copy_tile(sh.x[stage], f.x, column, unit * UNIT, &sh.full[stage]);
    }
    if (warp * TILE < ROWS) {
      u32 a[2][4][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        next[i].weights(a[i]);
        next[i].load(weights + (size_t)(unit + 2 + i) * F::BYTES, lane, there && unit + 2 + i < units);
      }
      // Lanes of odd rows store the second unit first: eight lanes then store to all banks.
      uint4 *to = (uint4 *)sh.w[stage] + (warp * TILE + row) * 8;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const u32 (&x)[4] = a[0][i / 2], (&y)[4] = a[1][i / 2];
        const bool second = odd ^ i % 2;
        to[i / 2 * 64 + ((second * 4 + lane % 4) ^ row)] = second ? make_uint4(y[0], y[1], y[2], y[3]) : make_uint4(x[0], x[1], x[2], x[3]);
      }
      written();
      __syncwarp();
    }
    if (lane == 0) barrier_arrive(&sh.full[stage]);
  }
}

// wide_tiles computes every gridDim.x-th tile of ROWS rows of weights and WIDE_COLUMNS columns.
template <int ROWS> __device__ inline void wide_tiles(const WideParams &f) {
  const LinearParams &p = f.p;
  DYNAMIC_MEMORY(memory);
  WideShared<ROWS> &sh = *(WideShared<ROWS> *)(memory + (-shared_address(memory) & (ALIGNED - 1)));
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, steps = (p.units + 1) / 2;
  const Product &last = p.product[p.products - 1];
  const int tiles = (last.first + (last.rows + ROWS - 1) / ROWS) * p.panels;
  if (threadIdx.x == 0) {
    for (int i = 0; i < WIDE_STAGES; i++) barrier_make(&sh.full[i], 5), barrier_make(&sh.done[i], WIDE_GROUPS * 4);
    barriers_made();
  }
  __syncthreads();
  wait_for_previous();
  let_next_start();
  int step = 0;
  if (group == WIDE_GROUPS) {
    fewer_registers<104>();
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
      const Product &w = product_of(p, t / p.panels);
      const int tile = (t / p.panels - w.first) * (ROWS / TILE) + warp, column = t % p.panels * WIDE_COLUMNS;
      WITH_FORMAT(w.format, F, (wide_fill<F, ROWS>(f, sh, w.weight + (size_t)tile * p.units * F::BYTES, tile * TILE < w.rows, column, step)))
    }
    return;
  }
  more_registers<200>();
  const u64 x = rows_of(shared_address(sh.x) + group * 128 * PANEL_BYTES), w = rows_of(shared_address(sh.w));
  for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
    float c[2][ROWS / 2];
    for (int s = 0; s < steps; s++, step++) {
      const int stage = step % WIDE_STAGES;
      barrier_wait(&sh.full[stage], step / WIDE_STAGES & 1);
      products_begin();
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int m = 0; m < 2; m++) product(c[m], x + stage * (sizeof sh.x[0] >> 4) + m * (64 * PANEL_BYTES >> 4) + 2 * i, w + stage * (sizeof sh.w[0] >> 4) + 2 * i, s > 0 || i > 0);
      }
      products_end();
      products_wait<1>();
      if (s > 0 && lane == 0) barrier_arrive(&sh.done[(step - 1) % WIDE_STAGES]);
    }
    products_wait<0>();
    settled(c[0]), settled(c[1]);
    if (lane == 0) barrier_arrive(&sh.done[(step - 1) % WIDE_STAGES]);
    const Product &w = product_of(p, t / p.panels);
    const int first = (t / p.panels - w.first) * ROWS + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < 2; m++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int column = t % p.panels * WIDE_COLUMNS + group * 128 + m * 64 + warp * 16 + lane / 4 + 8 * e;
        if (column >= p.columns) continue;
        const float scale = p.scale[column];
        float *dst = w.dst + (size_t)column * w.rows;
#pragma unroll
        for (int i = 0; i < ROWS / 8; i++) {
          const int row = first + 8 * i;
          float2 y = make_float2(c[m][4 * i + 2 * e] * scale, c[m][4 * i + 2 * e + 1] * scale);
          if (w.bias && row < w.rows) y.x += w.bias[row];
          if (w.bias && row + 1 < w.rows) y.y += w.bias[row + 1];
          if (w.rows % 2 == 0) {
            if (row < w.rows) *(float2 *)(dst + row) = y;
          } else {
            if (row < w.rows) dst[row] = y.x;
            if (row + 1 < w.rows) dst[row + 1] = y.y;
          }
        }
      }
    }
  }
}
