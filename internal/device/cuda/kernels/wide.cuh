// Products of activations with weights, for hundreds of rows of activations and more, on Hopper: two warpgroups multiply 128 columns each with the same weights, which two more
// decode into shared memory while the activations are copied there. A thread block goes from tile to tile; decoding and copying run ahead. Each sum is the same however many
// rows the product has. A feed-forward layer's first two products and its gate are one kernel.
#pragma once
#include "hopper.cuh"
#include "linear.cuh"
#include "rows.cuh"

constexpr int WIDE_GROUPS = 2, WIDE_FILLERS = 2, WIDE_COLUMNS = 128 * WIDE_GROUPS, WIDE_THREADS = 128 * (WIDE_GROUPS + WIDE_FILLERS), WIDE_STAGES = 4;

// WideParams is wideParams of linear.go. The map's box is WIDE_COLUMNS rows of activations; panels are as many columns, and a product's `first` counts ROWS rows of weights.
struct WideParams {
  TensorMap x;
  LinearParams p;
  __half *gated;  // [columns][rows]: act(product 0)·product 1, where that is what is wanted, and its scales, which are 1
  float *scale;
  int *over;      // gate: becomes 1 if a value is too large for fp16. Else if not null: nothing is done while it is 0
  int act;
};

template <int ROWS> struct WideShared {
  u8 x[WIDE_STAGES][WIDE_COLUMNS * PANEL_BYTES], w[WIDE_STAGES][ROWS * PANEL_BYTES];
  Barrier full[WIDE_STAGES], done[WIDE_STAGES];
};

// wide_fill brings a tile's inputs, 64 of them at a time, of which the warpgroups that do so take every WIDE_FILLERS-th: step is the running number of the tile's first. Each warp
// decodes 32 rows of weights, whose codes are read ahead. What is decoded beyond the weights' end meets activations that are zero.
template <typename F, int ROWS> __device__ inline void wide_fill(const WideParams &f, WideShared<ROWS> &sh, const u8 *weights, int column, u32 step, int filler) {
  constexpr int APART = 2 * WIDE_FILLERS;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, row = lane % 8, units = f.p.units, first = 2 * ((filler - step) % WIDE_FILLERS);
  u8 *to[2];
#pragma unroll
  for (int i = 0; i < 2; i++) to[i] = sh.w[0] + (warp * TILE + row) * PANEL_BYTES + ((i * 4 + lane / 8) ^ row) * 16;
  Fragment<F> next[2];
#pragma unroll
  for (int i = 0; i < 2; i++) next[i].load(weights + (size_t)min(first + i, units - 1) * F::BYTES, lane, true);
  for (int unit = first; unit < units; unit += APART) {
    const u32 now = step + unit / 2, stage = now % WIDE_STAGES;
    u32 a[2][4][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      next[i].weights(a[i]);
      next[i].load(weights + (size_t)min(unit + APART + i, units - 1) * F::BYTES, lane, true);
    }
    barrier_wait(&sh.done[stage], (now / WIDE_STAGES & 1) ^ 1);
    if (warp == 3 && lane == 0) {
      barrier_announce(&sh.full[stage], sizeof sh.x[0]);
      copy_tile(sh.x[stage], f.x, column, unit * UNIT, &sh.full[stage]);
    }
    if (warp * TILE < ROWS) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) store_matrices(to[i] + stage * sizeof sh.w[0] + j * 8 * PANEL_BYTES, a[i][j]);
      }
      written(), __syncwarp();
    }
    if (lane == 0) barrier_arrive(&sh.full[stage]);
  }
}

// wide_store writes the products of a warpgroup's columns: rows of weights from first on. Results are finished before the first is stored, so that no store waits for another.
template <int ROWS> __device__ inline void wide_store(const WideParams &f, const Product &w, float (&c)[ROWS / 2], const float *scales, int first, int column) {
  const int rows = w.rows;
  first += threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < ROWS / 2; i++) c[i] *= scales[i / 2 % 2] * w.factor;
  if (w.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < ROWS / 4; i++) {
      const int at = first + i / 2 * 8 + i % 2;
      const float bias = at < rows ? w.bias[at] : 0;
      c[i / 2 * 4 + i % 2] += bias, c[i / 2 * 4 + i % 2 + 2] += bias;
    }
  }
#pragma unroll
  for (int e = 0; e < 2; e++, column += 8) {
    if (column >= f.p.columns) continue;
    float *dst = w.dst + (size_t)column * rows + first;
    if (rows % 2 == 0) {
#pragma unroll
      for (int i = 0; i < ROWS / 8; i++) {
        const float x = c[4 * i + 2 * e], y = c[4 * i + 2 * e + 1];
        if (first + 8 * i >= rows) break;
        if (w.add) add_pair(dst + 8 * i, x, y);
        else *(float2 *)(dst + 8 * i) = make_float2(x, y);
      }
    } else {
#pragma unroll
      for (int i = 0; i < ROWS / 4; i++) {
        const int at = i / 2 * 8 + i % 2;
        if (first + at < rows) dst[at] = c[i / 2 * 4 + 2 * e + i % 2] + (w.add ? dst[at] : 0);
      }
    }
  }
}

// exchanged gives the lanes of four, which have words 0 to 3 of their own, word `lane` of each of the four.
__device__ inline void exchanged(u32 (&w)[4]) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int d = 1; d < 4; d *= 2) {
    const bool upper = lane & d;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (i & d) continue;
      const u32 got = __shfl_xor_sync(~0u, upper ? w[i] : w[i + d], d);
      if (upper) w[i] = got;
      else w[i + d] = got;
    }
  }
}

// wide_gate writes what the gate makes of them: the first half of c is product 0's, the second product 1's.
template <int ROWS> __device__ inline void wide_gate(const WideParams &f, const float (&c)[ROWS / 2], const float *scales, int first, int column) {
  const int lane = threadIdx.x % 32, rows = f.p.product[0].rows;
  float largest = 0;
#pragma unroll
  for (int e = 0; e < 2; e++, column += 8) {
    const bool there = column < f.p.columns;
    const float scale[2] = {scales[e] * f.p.product[0].factor, scales[e] * f.p.product[1].factor};
#pragma unroll
    for (int g = 0; g < ROWS / 16; g += 4) {
      u32 w[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float h[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
          const int at = 4 * (g + i) + 2 * e + k;
          h[k] = activated(c[at] * scale[0], f.act) * (c[ROWS / 4 + at] * scale[1]);
          if (there) largest = fmaxf(largest, fabsf(h[k]));
        }
        w[i] = bits(__floats2half2_rn(narrow(h[0]), narrow(h[1])));
      }
      exchanged(w);
      const int row = first + 8 * (g + lane % 4);
      if (there && row < rows) *(uint4 *)(f.gated + (size_t)column * rows + row) = make_uint4(w[0], w[1], w[2], w[3]);
    }
    if (there && first == 0 && lane % 4 == 0) f.scale[column] = 1;
  }
  if (largest > 65504) *f.over = 1;
}

// wide_tiles computes every gridDim.x-th tile of ROWS rows of weights, or of half as many of each of two products that are gated, and WIDE_COLUMNS columns.
template <int ROWS, bool GATED> __device__ inline void wide_tiles(const WideParams &f) {
  constexpr int EACH = GATED ? ROWS / 2 : ROWS;  // rows of a product's weights in a tile
  const LinearParams &p = f.p;
  DYNAMIC_MEMORY(memory);
  WideShared<ROWS> &sh = *(WideShared<ROWS> *)(memory + (-shared_address(memory) & (ALIGNED - 1)));
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, steps = (p.units + 1) / 2;
  const Product &last = p.product[GATED ? 0 : p.products - 1];
  const int tiles = (last.first + (last.rows + EACH - 1) / EACH) * p.panels;
  if (threadIdx.x == 0) {
    for (int i = 0; i < WIDE_STAGES; i++) barrier_make(&sh.full[i], 5), barrier_make(&sh.done[i], WIDE_GROUPS * 4);
    barriers_made();
  }
  __syncthreads();
  wait_for_previous();
  let_next_start();
  if (!GATED && f.over != nullptr && *f.over == 0) return;
  u32 step = 0;
  if (group >= WIDE_GROUPS) {
    fewer_registers<88>();
    for (int t = blockIdx.x; t < tiles; t += gridDim.x, step += steps) {
      const Product &w = GATED ? p.product[warp / (EACH / TILE)] : product_of(p, t / p.panels);
      const int tile = (t / p.panels - (GATED ? 0 : w.first)) * (EACH / TILE) + (GATED ? warp % (EACH / TILE) : warp), column = t % p.panels * WIDE_COLUMNS;
      const size_t unit = (size_t)min(tile, (w.rows - 1) / TILE) * p.units;  // what lies beyond the last row is not stored
      WITH_FORMAT(w.format, F, (wide_fill<F, ROWS>(f, sh, w.weight + unit * F::BYTES, column, step, group - WIDE_GROUPS)))
    }
    return;
  }
  more_registers<168>();
  const u32 x = shared_address(sh.x) + group * 128 * PANEL_BYTES, w = shared_address(sh.w);
  for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int column = t % p.panels * WIDE_COLUMNS + group * 128 + warp * 16 + lane / 4;
    float c[2][ROWS / 2], scales[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) scales[i / 2][i % 2] = p.scale[min(column + i * 8 + i / 2 * 48, p.columns - 1)];
    for (int s = 0; s < steps; s++, step++) {
      const u32 stage = step % WIDE_STAGES;
      barrier_wait(&sh.full[stage], step / WIDE_STAGES & 1);
      products_begin();
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const u64 of = rows_of(w + stage * (u32)sizeof sh.w[0] + 32 * i);
#pragma unroll
        for (int m = 0; m < 2; m++) product(c[m], rows_of(x + stage * (u32)sizeof sh.x[0] + m * 64 * PANEL_BYTES + 32 * i), of, s > 0 || i > 0);
      }
      products_end();
      products_wait<1>();
      if (s > 0 && lane == 0) barrier_arrive(&sh.done[(step - 1) % WIDE_STAGES]);
    }
    products_wait<0>();
    settled(c[0]), settled(c[1]);
    if (lane == 0) barrier_arrive(&sh.done[(step - 1) % WIDE_STAGES]);
#pragma unroll
    for (int m = 0; m < 2; m++) {
      if constexpr (GATED) {
        wide_gate<ROWS>(f, c[m], scales[m], t / p.panels * EACH, column + m * 64);
      } else {
        const Product &own = product_of(p, t / p.panels);
        wide_store<ROWS>(f, own, c[m], scales[m], (t / p.panels - own.first) * ROWS, column + m * 64);
      }
    }
  }
}
