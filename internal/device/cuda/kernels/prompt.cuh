// Attention of a prompt's rows over the paged cache, in which their own keys and values are already: flash attention on the tensor cores. A block takes 64 rows of one
// head, a warp 16 of them; keys and values come in tiles through shared memory, one of them while the other is worked on.
#pragma once
#include "common.cuh"

constexpr int PROMPT_ROWS = 64, PROMPT_WARPS = PROMPT_ROWS / 16;

// PromptParams is promptParams of prompt.go, field by field.
struct PromptParams {
  const __half *q;  // [rows][heads·D]
  __half *out;      // as q
  const __half *k, *v;
  const int *table;
  int rows, pos, heads, kvHeads, window;  // row i stands at position pos+i and sees the last `window` tokens, all for 0
  float scale;                            // of logits, in octaves
};

template <int D> struct PromptShared {
  static constexpr int TOKENS = D > 128 ? 16 : D > 64 ? 32 : 64;
  static constexpr int WORDS = D / 2 + 4;  // of a row: four more than needed, so that rows lie in different banks
  u32 k[TOKENS][WORDS], v[TOKENS][WORDS];
};

template <int D> __device__ inline void prompt_load(u32 (&to)[PromptShared<D>::TOKENS][PromptShared<D>::WORDS], const PromptParams &p, const __half *slab, int head, int first, int n) {
  constexpr int CHUNKS = D / 8;
  for (int i = threadIdx.x; i < PromptShared<D>::TOKENS * CHUNKS; i += PROMPT_WARPS * 32) {
    const int t = min(first + i / CHUNKS, n - 1), c = i % CHUNKS;  // tokens beyond the end are masked, but what is read must be finite
    const size_t row = ((size_t)p.table[t / BLOCK] * p.kvHeads + head) * BLOCK + t % BLOCK;
    copy_async(&to[i / CHUNKS][c * 4], slab + row * D + c * 8);
  }
  commit_copies();
}

template <int D> __device__ inline void prompt_tile(const PromptParams &p) {
  SHARED_MEMORY(PromptShared<D>, sh);
  constexpr int TOKENS = PromptShared<D>::TOKENS;
  wait_for_previous();
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, j = lane % 4;
  const int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, kvHead = head / (p.heads / p.kvHeads);  // the longest first
  const int row0 = tile * PROMPT_ROWS + warp * 16;
  const int rows[2] = {row0 + r, row0 + r + 8};
  const int n = p.pos + min((tile + 1) * PROMPT_ROWS, p.rows);  // tokens that the block's last row sees
  int start = 0;
  if (p.window > 0) start = max(0, p.pos + tile * PROMPT_ROWS + 1 - p.window) / TOKENS * TOKENS;

  u32 q[D / 16][4];
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int row = min(rows[e % 2], p.rows - 1);
      q[i][e] = *(const u32 *)(p.q + ((size_t)row * p.heads + head) * D + i * 16 + e / 2 * 8 + 2 * j);
    }
  }
  float sums[D / 8][4] = {}, top[2] = {-1e30f, -1e30f}, weight[2] = {};
  prompt_load<D>(sh.k, p, p.k, kvHead, start, n);
  prompt_load<D>(sh.v, p, p.v, kvHead, start, n);
  for (int first = start; first < n; first += TOKENS) {
    wait_copies<1>();
    __syncthreads();
    float x[TOKENS / 8][4] = {};
#pragma unroll
    for (int t = 0; t < TOKENS / 8; t++) {
#pragma unroll
      for (int i = 0; i < D / 16; i++) mma(x[t], q[i][0], q[i][1], q[i][2], q[i][3], sh.k[t * 8 + r][i * 8 + j], sh.k[t * 8 + r][i * 8 + j + 4]);
    }
    __syncthreads();
    if (first + TOKENS < n) prompt_load<D>(sh.k, p, p.k, kvHead, first + TOKENS, n);
    else commit_copies();
    float best[2] = {top[0], top[1]};
    const bool whole = first + TOKENS <= p.pos + row0 + 1 && (p.window == 0 || first > p.pos + row0 + 15 - p.window);
#pragma unroll
    for (int t = 0; t < TOKENS / 8; t++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        x[t][e] *= p.scale;
        if (!whole) {
          const int token = first + t * 8 + 2 * j + e % 2, at = p.pos + rows[e / 2];
          if (token > at || (p.window > 0 && token <= at - p.window)) x[t][e] = -INFINITY;
        }
        best[e / 2] = fmaxf(best[e / 2], x[t][e]);
      }
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
      best[e] = fmaxf(best[e], __shfl_xor_sync(~0u, best[e], 1));
      best[e] = fmaxf(best[e], __shfl_xor_sync(~0u, best[e], 2));
      const float shrink = power(top[e] - best[e]);
      top[e] = best[e], weight[e] *= shrink;
#pragma unroll
      for (int c = 0; c < D / 8; c++) sums[c][2 * e] *= shrink, sums[c][2 * e + 1] *= shrink;
    }
    u32 w[TOKENS / 8][2];
#pragma unroll
    for (int t = 0; t < TOKENS / 8; t++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const __half2 h = __floats2half2_rn(power(x[t][2 * e] - top[e]), power(x[t][2 * e + 1] - top[e]));
        const float2 f = __half22float2(h);
        weight[e] += f.x + f.y;  // as rounded, so that weights and sums agree
        w[t][e] = bits(h);
      }
    }
    wait_copies<1>();
    __syncthreads();
#pragma unroll
    for (int t = 0; t < TOKENS / 16; t++) {
      const u32 *a = sh.v[t * 16 + 2 * j], *b = sh.v[t * 16 + 2 * j + 1], *c = sh.v[t * 16 + 2 * j + 8], *d = sh.v[t * 16 + 2 * j + 9];
#pragma unroll
      for (int g = 0; g < D / 16; g++) {  // even channels of sixteen, then the odd ones
        const int at = g * 8 + r;
        const u32 wa = a[at], wb = b[at], wc = c[at], wd = d[at];
        mma(sums[2 * g], w[2 * t][0], w[2 * t][1], w[2 * t + 1][0], w[2 * t + 1][1], __byte_perm(wa, wb, 0x5410), __byte_perm(wc, wd, 0x5410));
        mma(sums[2 * g + 1], w[2 * t][0], w[2 * t][1], w[2 * t + 1][0], w[2 * t + 1][1], __byte_perm(wa, wb, 0x7632), __byte_perm(wc, wd, 0x7632));
      }
    }
    __syncthreads();
    if (first + TOKENS < n) prompt_load<D>(sh.v, p, p.v, kvHead, first + TOKENS, n);
    else commit_copies();
  }
  wait_copies<0>();
#pragma unroll
  for (int e = 0; e < 2; e++) {
    weight[e] += __shfl_xor_sync(~0u, weight[e], 1), weight[e] += __shfl_xor_sync(~0u, weight[e], 2);
    const float f = weight[e] > 0 ? 1 / weight[e] : 0;
    if (rows[e] >= p.rows) continue;
    __half *out = p.out + ((size_t)rows[e] * p.heads + head) * D;
#pragma unroll
    for (int g = 0; g < D / 16; g++) {  // four neighbours: even, odd, even, odd
      *(__half2 *)(out + g * 16 + 4 * j) = __floats2half2_rn(sums[2 * g][2 * e] * f, sums[2 * g + 1][2 * e] * f);
      *(__half2 *)(out + g * 16 + 4 * j + 2) = __floats2half2_rn(sums[2 * g][2 * e + 1] * f, sums[2 * g + 1][2 * e + 1] * f);
    }
  }
}
