// Attention of a prompt's rows as in prompt.cuh, for Hopper: a thread block takes 128 rows of one head, two warpgroups 64 of them each, while a thread of a third has keys and
// values copied ahead. Each warpgroup weighs a tile's logits while the tensor cores add up the values of the tile before, and the two take turns at beginning products.
#pragma once
#include "hopper.cuh"
#include "prompt.cuh"

constexpr int FLASH_GROUPS = 2, FLASH_ROWS = 64 * FLASH_GROUPS, FLASH_THREADS = 128 * (FLASH_GROUPS + 1);

// FlashParams is flashParams of rows.go. The maps' boxes are FLASH_ROWS rows of queries and TOKENS rows of a slab.
struct FlashParams {
  TensorMap q, k, v;
  PromptParams p;  // its q, k and v are not used
  int first;       // row of the map of queries that is row 0
};

template <int D> struct FlashShared {
  static constexpr int TOKENS = D > 128 ? 64 : 128, STAGES = D > 64 ? 2 : 4, PANELS = D / PANEL;
  u8 q[PANELS][FLASH_ROWS * PANEL_BYTES], k[STAGES][PANELS][TOKENS * PANEL_BYTES], v[STAGES][PANELS][TOKENS * PANEL_BYTES];
  Barrier here, keys[STAGES], keysDone[STAGES], values[STAGES], valuesDone[STAGES];
};

// flash_copy has all tiles copied, each as soon as the one whose place it takes is done with. One thread runs it.
template <int D> __device__ inline void flash_copy(const FlashParams &f, FlashShared<D> &sh, int row, int head, int kvHead, int start, int tiles) {
  typedef FlashShared<D> S;
  barrier_announce(&sh.here, sizeof sh.q);
  for (int i = 0; i < S::PANELS; i++) copy_tile(sh.q[i], f.q, f.first + row, head * D + i * PANEL, &sh.here);
  for (int t = 0; t < tiles; t++) {
    const int stage = t % S::STAGES, odd = t / S::STAGES & 1, token = start + t * S::TOKENS;
    const int at = (f.p.table[token / BLOCK] * f.p.kvHeads + kvHead) * BLOCK + token % BLOCK;
    barrier_wait(&sh.keysDone[stage], odd ^ 1);
    barrier_announce(&sh.keys[stage], sizeof sh.k[0]);
    for (int i = 0; i < S::PANELS; i++) copy_tile(sh.k[stage][i], f.k, at, i * PANEL, &sh.keys[stage]);
    barrier_wait(&sh.valuesDone[stage], odd ^ 1);
    barrier_announce(&sh.values[stage], sizeof sh.v[0]);
    for (int i = 0; i < S::PANELS; i++) copy_tile(sh.v[stage][i], f.v, at, i * PANEL, &sh.values[stage]);
  }
}

// FlashRows is what a warpgroup's thread holds of its 64 rows: two of them, row lane/4 + 8e of its warp's sixteen.
template <int D> struct FlashRows {
  static constexpr int TOKENS = FlashShared<D>::TOKENS;
  float logits[TOKENS / 2], sums[D / 2], top[2], weight[2], shrink[2];
  u32 weights[TOKENS / 16][4];

  // weigh makes logits weights, as seen from the largest logit so far. Rows stand at positions at and at+8.
  __device__ void weigh(int first, int at, int window, float scale, bool whole) {
    if (!whole) {
#pragma unroll
      for (int i = 0; i < TOKENS / 2; i++) {
        const int token = first + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2, row = at + i / 2 % 2 * 8;
        if (token > row || (window > 0 && token <= row - window)) logits[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float best = top[e];
#pragma unroll
      for (int i = 0; i < TOKENS / 8; i++) best = fmaxf(best, fmaxf(logits[4 * i + 2 * e], logits[4 * i + 2 * e + 1]));
      best = fmaxf(best, __shfl_xor_sync(~0u, best, 1));
      best = fmaxf(best, __shfl_xor_sync(~0u, best, 2));
      shrink[e] = power((top[e] - best) * scale);
      top[e] = best;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < TOKENS / 8; i++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
          float &x = logits[4 * i + 2 * e + k];
          x = power(fmaf(x, scale, -best * scale));
          sum += x;
        }
      }
      weight[e] = weight[e] * shrink[e] + sum;
    }
  }

  // settle makes weights what the tensor cores take, and the sums those of the new largest logit.
  __device__ void settle() {
#pragma unroll
    for (int i = 0; i < D / 2; i++) sums[i] *= shrink[i / 2 % 2];
#pragma unroll
    for (int t = 0; t < TOKENS / 16; t++) {
#pragma unroll
      for (int i = 0; i < 4; i++) weights[t][i] = bits(__floats2half2_rn(logits[8 * t + 2 * i], logits[8 * t + 2 * i + 1]));
    }
  }
};

template <int D> __device__ inline void flash_tile(const FlashParams &f) {
  typedef FlashShared<D> S;
  const PromptParams &p = f.p;
  DYNAMIC_MEMORY(memory);
  S &sh = *(S *)(memory + (-shared_address(memory) & (ALIGNED - 1)));
  const int group = threadIdx.x / 128, head = blockIdx.x, kvHead = head / (p.heads / p.kvHeads), row = (gridDim.y - 1 - blockIdx.y) * FLASH_ROWS;  // the longest first
  const int end = p.pos + min(row + FLASH_ROWS, p.rows);  // tokens that the last row sees
  const int start = p.window > 0 ? max(0, p.pos + row + 1 - p.window) / S::TOKENS * S::TOKENS : 0, tiles = (end - start + S::TOKENS - 1) / S::TOKENS;
  if (threadIdx.x == 0) {
    barrier_make(&sh.here, 1);
    for (int i = 0; i < S::STAGES; i++) {
      barrier_make(&sh.keys[i], 1), barrier_make(&sh.keysDone[i], FLASH_GROUPS * 4);
      barrier_make(&sh.values[i], 1), barrier_make(&sh.valuesDone[i], FLASH_GROUPS * 4);
    }
    barriers_made();
  }
  __syncthreads();
  wait_for_previous();
  let_next_start();
  if (group == FLASH_GROUPS) {
    fewer_registers<24>();
    if (threadIdx.x == FLASH_GROUPS * 128) flash_copy<D>(f, sh, row, head, kvHead, start, tiles);
    return;
  }
  more_registers<240>();
  const int lane = threadIdx.x % 32, own = row + group * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4, at = p.pos + own;
  const int firstAt = at - lane / 4, lastAt = firstAt + 15;  // of the warp
  FlashRows<D> r;
#pragma unroll
  for (int i = 0; i < D / 2; i++) r.sums[i] = 0;
#pragma unroll
  for (int e = 0; e < 2; e++) r.top[e] = -1e30f, r.weight[e] = 0;
  const u64 q = rows_of(shared_address(sh.q) + group * 64 * PANEL_BYTES), k = rows_of(shared_address(sh.k)), v = columns_of(shared_address(sh.v), S::TOKENS * PANEL_BYTES);
  auto keys = [&](int t) {  // begins logits
    barrier_wait(&sh.keys[t % S::STAGES], t / S::STAGES & 1);
    products_begin();
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      product(r.logits, q + i / 4 * (sizeof sh.q[0] >> 4) + i % 4 * 2, k + t % S::STAGES * (sizeof sh.k[0] >> 4) + i / 4 * (sizeof sh.k[0][0] >> 4) + i % 4 * 2, i > 0);
    }
    products_end();
  };
  auto values = [&](int t) {  // begins sums
    barrier_wait(&sh.values[t % S::STAGES], t / S::STAGES & 1);
    products_begin();
#pragma unroll
    for (int i = 0; i < S::TOKENS / 16; i++) product(r.sums, r.weights[i], v + t % S::STAGES * (sizeof sh.v[0] >> 4) + i * (16 * PANEL_BYTES >> 4), true);
    products_end();
  };
  auto weigh = [&](int t) {
    const int first = start + t * S::TOKENS;
    settled(r.logits);
    r.weigh(first, at, p.window, p.scale, first + S::TOKENS <= firstAt + 1 && (p.window == 0 || first > lastAt - p.window));
  };
  auto done = [&](Barrier *b) { if (lane == 0) barrier_arrive(b); };
  constexpr int BOTH = FLASH_GROUPS * 128;
  barrier_wait(&sh.here, 0);
  if (group == 1) pass(1, BOTH);
  meet(1 + group, BOTH);
  keys(0);
  pass(2 - group, BOTH);
  products_wait<0>();
  done(&sh.keysDone[0]);
  weigh(0);
  r.settle();
  for (int t = 1; t < tiles; t++) {
    meet(1 + group, BOTH);
    keys(t);
    values(t - 1);
    pass(2 - group, BOTH);
    products_wait<1>();
    done(&sh.keysDone[t % S::STAGES]);
    weigh(t);
    products_wait<0>();
    settled(r.sums);
    done(&sh.valuesDone[(t - 1) % S::STAGES]);
    r.settle();
  }
  // What lies beyond the end weighs nothing, but it may be no number.
  barrier_wait(&sh.values[(tiles - 1) % S::STAGES], (tiles - 1) / S::STAGES & 1);
  const int left = end - start - (tiles - 1) * S::TOKENS;
  for (int i = left * (PANEL_BYTES / 16) + threadIdx.x % 128; i < S::TOKENS * (PANEL_BYTES / 16); i += 128) {
    for (int panel = 0; panel < S::PANELS; panel++) ((uint4 *)sh.v[(tiles - 1) % S::STAGES][panel])[i] = make_uint4(0, 0, 0, 0);
  }
  written();
  meet(3 + group, 128);
  values(tiles - 1);
  products_wait<0>();
  settled(r.sums);
  if (group == 0) meet(1, BOTH);
#pragma unroll
  for (int e = 0; e < 2; e++) {
    r.weight[e] += __shfl_xor_sync(~0u, r.weight[e], 1), r.weight[e] += __shfl_xor_sync(~0u, r.weight[e], 2);
    const float x = r.weight[e] > 0 ? 1 / r.weight[e] : 0;
    if (own + 8 * e >= p.rows) continue;
    __half *out = p.out + ((size_t)(own + 8 * e) * p.heads + head) * D + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < D / 8; i++) *(__half2 *)(out + 8 * i) = __floats2half2_rn(r.sums[4 * i + 2 * e] * x, r.sums[4 * i + 2 * e + 1] * x);
  }
}
