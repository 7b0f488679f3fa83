// Products of a group's queries with rows of keys, eight or sixteen at a time, on the tensor cores: fp16 rows, and rows of 4-bit codes.
#pragma once
#include "common.cuh"

// queries loads a thread's share of the group's queries as the tensor cores take them: head lane/4, channels of quarter lane%4.
template <int D> __device__ inline void queries(u32 (&q)[D / 8], const Params &p, int unit, int lane) {
  int g = lane / 4;
  if (g < p.group) {
    load<D / 8>(q, p.q + ((size_t)unit * p.group + g) * D + lane % 4 * (D / 4));
  } else {
#pragma unroll
    for (int i = 0; i < D / 8; i++) q[i] = 0;
  }
}

// products multiplies the queries with eight fp16 rows, of which the thread holds its quarter of row lane/4: c[0] and c[1] are head lane/4 with rows lane%4·2 and +1.
template <int D> __device__ inline void products(float (&c)[4], const u32 (&q)[D / 8], const u32 (&rows)[D / 8]) {
#pragma unroll
  for (int i = 0; i < D / 16; i++) mma(c, q[2 * i], 0, q[2 * i + 1], 0, rows[2 * i], rows[2 * i + 1]);
}

// transposed multiplies sixteen fp16 rows with the queries, of which the thread holds its quarter of rows lane/4 and lane/4+8: c[0] and c[1] are row lane/4 with heads
// lane%4·2 and +1, c[2] and c[3] row lane/4+8.
template <int D> __device__ inline void transposed(float (&c)[4], const u32 (&upper)[D / 8], const u32 (&lower)[D / 8], const u32 (&q)[D / 8]) {
  float d[4] = {};  // a second chain, since each product waits for the one before it
#pragma unroll
  for (int i = 0; i < D / 16; i += 2) {
    mma(c, upper[2 * i], lower[2 * i], upper[2 * i + 1], lower[2 * i + 1], q[2 * i], q[2 * i + 1]);
    mma(d, upper[2 * i + 2], lower[2 * i + 2], upper[2 * i + 3], lower[2 * i + 3], q[2 * i + 2], q[2 * i + 3]);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) c[i] += d[i];
}

// coded multiplies with sixteen rows of codes; a holds the queries times the step, the pairs at odd places divided by 16.
template <int D> __device__ inline void coded(float (&c)[4], const u32 (&upper)[D / 32], const u32 (&lower)[D / 32], const u32 (&a)[D / 8]) {
  float d[4] = {};
#pragma unroll
  for (int w = 0; w < D / 32; w++) {
    const u32 u = upper[w], l = lower[w];
    mma(c, u & LOW, l & LOW, u & HIGH, l & HIGH, a[4 * w], a[4 * w + 1]);
    mma(d, u >> 8 & LOW, l >> 8 & LOW, u >> 8 & HIGH, l >> 8 & HIGH, a[4 * w + 2], a[4 * w + 3]);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) c[i] += d[i];
}

constexpr float QUERY_SCALE = 4;                           // keeps products with small steps out of fp16's subnormals
constexpr float CODED = 16777216.0f / QUERY_SCALE;         // what coded() results are multiplied with
