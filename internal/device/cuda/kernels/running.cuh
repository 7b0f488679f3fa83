// A running softmax, as a warp keeps it over tiles of sixteen tokens.
#pragma once
#include "common.cuh"

constexpr float NOTHING = -1e30f;

// Running softmax of a warp. A thread holds the maximum and its share of the weights of head lane/4, and sums of heads lane%4·2 and +1 for D/8 channels: of tile i
// (group i/2, pair i%2) channels at(i) and at(i)+1.
template <int D> struct Running {
  float top = NOTHING, weight = 0, sums[D / 16][4] = {};
  __device__ static int at(int i, int lane) { return i / 4 * 64 + lane / 4 * 8 + i / 2 % 2 * 4 + i % 2 * 2; }
  // slot is the i-th of a tile's tokens whose values and weights the thread holds.
  __device__ static int slot(int i, int lane) { return lane % 4 * 2 + i % 2 + i / 2 * 8; }

  // admit takes in the logits (octaves) of the thread's head and four tokens, and returns their weights as the tensor cores take them. Two more sums of the thread's heads are
  // scaled as the others are.
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

  // add takes in rows of values with those weights: of token slot(i) the thread holds channels 8·(lane/4)… of each half of 64.
  __device__ void add(const u32 (&v)[4][D / 16], const u32 (&w)[2]) {
#pragma unroll
    for (int t = 0; t < D / 16; t++) {
      mma(sums[t], __byte_perm(v[0][t], v[1][t], 0x5410), __byte_perm(v[0][t], v[1][t], 0x7632),
          __byte_perm(v[2][t], v[3][t], 0x5410), __byte_perm(v[2][t], v[3][t], 0x7632), w[0], w[1]);
    }
  }

  // leave puts the warp's maxima, weights and sums, [HEADS][D], where the others of the thread block find them.
  __device__ void leave(float *tops, float *weights, float (*out)[D], int lane) {
    const int j = lane % 4, r = lane / 4;
    weight += __shfl_xor_sync(~0u, weight, 1), weight += __shfl_xor_sync(~0u, weight, 2);
    if (j == 0) tops[r] = top, weights[r] = weight;
#pragma unroll
    for (int t = 0; t < D / 16; t++) {
      const int c = at(t, lane);
      *(float2 *)&out[2 * j][c] = make_float2(sums[t][0], sums[t][2]);
      *(float2 *)&out[2 * j + 1][c] = make_float2(sums[t][1], sums[t][3]);
    }
  }
};
