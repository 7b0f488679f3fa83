// Running is a warp's softmax over survivors or over whole sequences, and how sixteen tokens at a time come into it: by rows of keys and values, or by codes of values.
#pragma once
#include "product.cuh"

constexpr float NOTHING = -1e30f;

// slot is which of a tile's tokens the thread holds weights and values of, i of four.
__device__ inline int slot(int i, int lane) { return lane % 4 * 2 + i % 2 + i / 2 * 8; }

// RowTile is a thread's share of sixteen rows: keys of tokens lane/4 and lane/4+8, quarter lane%4 of their channels, and values of its four slots.
template <int D> struct RowTile {
  u32 k[2][D / 8], v[4][D / 16];
  // load reads the rows of which lane%16 knows one each.
  __device__ void load(const Params &p, u32 row, int lane) {
    const int j = lane % 4, r = lane / 4;
#pragma unroll
    for (int i = 0; i < 2; i++) ::load<D / 8>(k[i], p.k + (size_t)__shfl_sync(~0u, row, i * 8 + r) * D + j * (D / 4));
#pragma unroll
    for (int t = 0; t < 4; t++) {
      const __half *at = p.v + (size_t)__shfl_sync(~0u, row, slot(t, lane)) * D + r * 8;
#pragma unroll
      for (int half64 = 0; half64 < D / 64; half64++) ::load<4>(*(u32(*)[4]) & v[t][half64 * 4], at + half64 * 64);
    }
  }
};

// CodeTile is a thread's share of the values' codes of sixteen rows.
template <int D> struct CodeTile {
  u32 codes[4][D / 64], scale[4][D / 32];
  __device__ void load(const Params &p, u32 row, int lane) {
#pragma unroll
    for (int t = 0; t < 4; t++) {
      const u32 at = __shfl_sync(~0u, row, slot(t, lane));
      ::load<D / 64>(codes[t], p.valueCodes + (size_t)at * (D / 2) + lane / 4 * (D / 16));
      ::load<D / 32>(scale[t], p.valueScale + (size_t)at * (D / 32));
    }
  }
};

// A thread holds the maximum and its share of the weights of head lane/4, and sums of heads lane%4·2 and +1 for D/8 channels: of tile i (group i/2, pair i%2) channels at(i)
// and at(i)+1. `low` is what codes' lows weigh: row lane/4 the group, heads as the sums.
template <int D> struct Running {
  float top = NOTHING, weight = 0, sums[D / 16][4] = {};
  __device__ static int at(int i, int lane) { return i / 4 * 64 + lane / 4 * 8 + i / 2 % 2 * 4 + i % 2 * 2; }

  // admit takes in the logits (octaves) of the thread's head and four tokens, and returns their weights as the tensor cores take them; `low` shrinks with the sums.
  __device__ void admit(const float (&x)[4], u32 (&w)[2], float (&low)[4], int lane) {
    float m = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    m = fmaxf(m, __shfl_xor_sync(~0u, m, 1)), m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
    m = fmaxf(m, top);
    if (__any_sync(~0u, m > top)) {
      const float shrink = power(top - m);
      weight *= shrink, top = m;
      const float a = __shfl_sync(~0u, shrink, lane % 4 * 8), b = __shfl_sync(~0u, shrink, lane % 4 * 8 + 4);
#pragma unroll
      for (int i = 0; i < D / 16; i++) sums[i][0] *= a, sums[i][1] *= b, sums[i][2] *= a, sums[i][3] *= b;
      low[0] *= a, low[1] *= b;
    }
    const __half2 u = __floats2half2_rn(power(x[0] - top), power(x[1] - top)), v = __floats2half2_rn(power(x[2] - top), power(x[3] - top));
    const float2 fu = __half22float2(u), fv = __half22float2(v);
    weight += fu.x + fu.y + fv.x + fv.y;  // as rounded, so that weights and sums agree
    w[0] = bits(u), w[1] = bits(v);
  }

  // rows takes in a tile by its rows: the slots that `in` has among them.
  template <typename In> __device__ void rows(const RowTile<D> &tile, const u32 (&q)[D / 8], float scale, int lane, In in) {
    float c[2][4] = {}, x[4], none[4] = {};
    products<D>(c[0], q, tile.k[0]);
    products<D>(c[1], q, tile.k[1]);
#pragma unroll
    for (int t = 0; t < 4; t++) x[t] = in(t) ? c[t / 2][t % 2] * scale : NOTHING;
    u32 w[2];
    admit(x, w, none, lane);
#pragma unroll
    for (int t = 0; t < D / 16; t++) {
      mma(sums[t], __byte_perm(tile.v[0][t], tile.v[1][t], 0x5410), __byte_perm(tile.v[0][t], tile.v[1][t], 0x7632),
          __byte_perm(tile.v[2][t], tile.v[3][t], 0x5410), __byte_perm(tile.v[2][t], tile.v[3][t], 0x7632), w[0], w[1]);
    }
  }

  // codes takes in a tile by its codes, with logits x. Sums are in units of codes until `settle`, after which only rows come.
  __device__ void codes(const CodeTile<D> &tile, const float (&x)[4], float (&low)[4], int lane) {
    u32 w[2], lows[2] = {0, 0};
    admit(x, w, low, lane);
#pragma unroll
    for (int grp = 0; grp < D / 32; grp++) {
      const u32 b0 = times(w[0], __byte_perm(tile.scale[0][grp], tile.scale[1][grp], 0x5410)), b1 = times(w[1], __byte_perm(tile.scale[2][grp], tile.scale[3][grp], 0x5410));
      if (lane / 4 == grp) lows[0] = __byte_perm(tile.scale[0][grp], tile.scale[1][grp], 0x7632), lows[1] = __byte_perm(tile.scale[2][grp], tile.scale[3][grp], 0x7632);
      const int pick = grp % 2 ? 0x7632 : 0x5410;
      const u32 c = __byte_perm(tile.codes[0][grp / 2], tile.codes[1][grp / 2], pick), d = __byte_perm(tile.codes[2][grp / 2], tile.codes[3][grp / 2], pick);
      mma(sums[2 * grp], c & LOW, c & HIGH, d & LOW, d & HIGH, b0, b1);
      mma(sums[2 * grp + 1], c >> 8 & LOW, c >> 8 & HIGH, d >> 8 & LOW, d >> 8 & HIGH, b0, b1);
    }
    mma(low, lows[0], 0, lows[1], 0, w[0], w[1]);
  }
  __device__ void settle(const float (&low)[4], int lane) {
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      const float a = __shfl_sync(~0u, low[0], i / 2 * 4 + lane % 4), b = __shfl_sync(~0u, low[1], i / 2 * 4 + lane % 4);
      sums[i][0] = sums[i][0] * 16777216.0f + a, sums[i][1] = sums[i][1] * 16777216.0f + b;
      sums[i][2] = sums[i][2] * 1048576.0f + a, sums[i][3] = sums[i][3] * 1048576.0f + b;
    }
  }
};
