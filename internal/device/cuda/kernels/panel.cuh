// Products of activations with weights, for a panel of up to 128 rows of activations: bound by the reading of the weights still, if the tensor cores are fed as Hopper wants it.
// A warp owns a tile of weights and makes them fp16 in registers; the activations of all columns pass through shared memory, from which the tensor cores take them. A thread
// block has four or eight warps, and the blocks of a cluster share the inputs. Each sum is the same however many columns the panel has.
#pragma once
#include "linear.cuh"

// A step is two units. So many have a place in shared memory: those under way, that of now, and the one before, which the tensor cores may still read.
constexpr int PANEL_SLOTS = 5, PANEL_AHEAD = PANEL_SLOTS - 2;

// A panel's activations of a step: for each unit and eight columns the four groups of inputs that the lanes' pairs 0…3 are of, each eight rows of 16 bytes.
template <int NT> constexpr int PANEL_BYTES = NT * 1024;

// arrange turns a warp's share of a step's activations, each lane's eight inputs as they came, into what the tensor cores take, where they are.
template <int NT> __device__ inline void arrange(const LinearParams &p, u8 *panel, int firstColumn) {
  constexpr int TOGETHER = 4;
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
#pragma unroll
  for (int first = 0; first < NT / 2; first += TOGETHER) {
    u32 v[TOGETHER][4];
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
      const int part = threadIdx.x / 32 + (first + i) * warps;
      if (first + i < NT / 2 && part < 2 * NT) load<4>(v[i], panel + part * 512 + lane * 16);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
      const int part = threadIdx.x / 32 + (first + i) * warps;
      if (first + i < NT / 2 && part < 2 * NT) store_matrices(panel + part * 512 + lane * 16, v[i]);
    }
  }
}

// multiply_panel goes through a rank's steps.
template <typename F, int NT> __device__ inline void multiply_panel(const LinearParams &p, u8 *memory, const u8 *tile, bool there, int firstColumn, float (&c)[2][NT][4]) {
  constexpr int WEIGHTS = 2 * F::BYTES;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, rank = p.ranks > 1 ? cluster_rank() : 0, slotBytes = PANEL_BYTES<NT> + warps * WEIGHTS;
  const int steps = p.units / 2, from = steps * rank / p.ranks, to = steps * (rank + 1) / p.ranks;
  auto slot = [&](int s) { return memory + s % PANEL_SLOTS * slotBytes; };
  auto weights = [&](int s) {
    if (there && s < to) copy_bytes<WEIGHTS>(slot(s) + PANEL_BYTES<NT> + warp * WEIGHTS, tile + (size_t)s * WEIGHTS, lane);
  };
  auto activations = [&](int s) {
    if (s < to) {
      u8 *panel = slot(s) + lane * 16;
      for (int part = warp; part < 2 * NT; part += warps) {
        const int column = firstColumn + part % NT * 8 + lane / 4;
        if (column < p.columns) copy_async(panel + part * 512, p.x + ((size_t)column * p.units + 2 * s + part / NT) * UNIT + lane % 4 * 8);
      }
    }
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < PANEL_AHEAD; i++) weights(from + i);
  wait_for_previous();
#pragma unroll
  for (int i = 0; i < PANEL_AHEAD; i++) activations(from + i);
  u32 a[2][4][4];
  for (int s = from; s < to; s++) {
    u8 *panel = slot(s);
    const u8 *mine = panel + PANEL_BYTES<NT> + warp * WEIGHTS;
    Fragment<F> f;
    wait_copies<PANEL_AHEAD - 1>();
    __syncwarp();
    arrange<NT>(p, panel, firstColumn);
    show_tensor_cores();
#pragma unroll
    for (int u = 0; u < 2; u++) {
      f.take(mine + u * F::BYTES, lane);
      wait_products<1>();  // of the same unit of the step before, whose weights were in the same registers
      f.weights(a[u]);
      if (u == 0) {
        __syncthreads();
        weights(s + PANEL_AHEAD);  // where the step before the last one was
        activations(s + PANEL_AHEAD);
      }
      begin_products();
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u8 *b = panel + u * NT * 512 + half * 256;
        multiply<NT>(c[0], a[u][0][2 * half], a[u][1][2 * half], a[u][0][2 * half + 1], a[u][1][2 * half + 1], b);
        multiply<NT>(c[1], a[u][2][2 * half], a[u][3][2 * half], a[u][2][2 * half + 1], a[u][3][2 * half + 1], b);
      }
      commit_products();
    }
  }
  wait_products<0>();
  keep(c[0]), keep(c[1]);
  wait_copies<0>();
}

// panel_tiles computes the products of a tile a warp with a panel of 8·NT columns. Of a gate, half of the warps have the gate's tiles and half its partner's.
template <int NT> __device__ inline void panel_tiles(const LinearParams &p) {
  let_next_start();
  DYNAMIC_MEMORY(memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = p.ranks > 1 ? cluster_rank() : 0;
  const int panel = blockIdx.x / p.ranks % p.panels, group = blockIdx.x / p.ranks / p.panels, firstColumn = panel * NT * 8, across = blockDim.x / 32 / (p.gated ? 2 : 1);
  const Product &w = p.gated ? p.product[warp / across] : product_of(p, group);
  const int tile = (p.gated ? group : group - w.first) * across + warp % across;
  float c[2][NT][4] = {};
  WITH_FORMAT(w.format, F, (multiply_panel<F, NT>(p, (u8 *)memory, w.weight + (size_t)tile * p.units * F::BYTES, tile * TILE < w.rows, firstColumn, c)))
  // Rank n%ranks adds up and writes eight columns, number n. Two fragments a lane go to each place of theirs; half a thread block further are those of the gate's partner.
  const int each = (NT + p.ranks - 1) / p.ranks;
  const bool joined = p.ranks > 1 || p.gated;
  float4 *arriving = (float4 *)memory + threadIdx.x;
  auto place = [&](int r, int n, int h) { return arriving + ((r * each + n / p.ranks) * 2 + h) * (int)blockDim.x; };
  auto meet = [&] { p.ranks > 1 ? cluster_sync() : __syncthreads(); };
  if (joined) {
    meet();  // nobody's memory is in use any more
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float4 v = make_float4(c[h][n][0], c[h][n][1], c[h][n][2], c[h][n][3]);
        p.ranks > 1 ? push(place(rank, n, h), n % p.ranks, v) : (void)(*place(0, n, h) = v);
      }
    }
    meet();
  }
  if (p.gated && warp >= across) return;
#pragma unroll
  for (int n = 0; n < NT; n++) {
    if (n % p.ranks != rank) continue;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float4 sum[2] = {make_float4(c[h][n][0], c[h][n][1], c[h][n][2], c[h][n][3])};
      for (int kind = 0; joined && kind < (p.gated ? 2 : 1); kind++) {
        const int skip = kind * across * 32;
        sum[kind] = place(0, n, h)[skip];
        for (int r = 1; r < p.ranks; r++) sum[kind] = plus(sum[kind], place(r, n, h)[skip]);
      }
      put(p, w, sum, tile * TILE + h * 16 + lane / 4, firstColumn + n * 8 + lane % 4 * 2);
    }
  }
}
