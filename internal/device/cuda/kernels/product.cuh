// Products of a group's queries with rows of keys, eight at a time, on the tensor cores: fp16 rows, and rows of 4-bit codes.
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

// coded multiplies with eight rows of codes; a holds the queries times the step, the pairs at odd places divided by 16.
template <int D> __device__ inline void coded(float (&c)[4], const u32 (&a)[D / 8], const u32 (&codes)[D / 32]) {
  float d[4] = {};  // a second chain, since each product waits for the one before it
#pragma unroll
  for (int w = 0; w < D / 32; w++) {
    mma(c, a[4 * w], 0, a[4 * w + 1], 0, codes[w] & LOW, codes[w] & HIGH);
    mma(d, a[4 * w + 2], 0, a[4 * w + 3], 0, codes[w] >> 8 & LOW, codes[w] >> 8 & HIGH);
  }
  c[0] += d[0], c[1] += d[1];
}

constexpr float QUERY_SCALE = 4;                           // keeps products with small steps out of fp16's subnormals
constexpr float CODED = 16777216.0f / QUERY_SCALE;         // what coded() results are multiplied with
