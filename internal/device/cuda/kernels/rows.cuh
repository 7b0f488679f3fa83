// Operations on rows of activations: norms, rotations, gates, and the two forms that rows have: float32, and fp16 with a scale a row for the tensor cores.
#pragma once
#include "common.cuh"

constexpr int ROW_THREADS = 256;

// RowParams is the parameter of these kernels; rows.go has it field by field.
struct RowParams {
  float *x;             // rows of cols
  const float *add;     // norm: added to x first; gate: the factor. Null: none
  float *dst;           // float32 result; null: not wanted
  const float *weight;  // [run]
  __half *values;       // fp16 result and its scales; null: not wanted
  float *scale;
  const int *index;     // pick: rows of x; gate: null, or a number of which 0 means that nothing is to be done
  int rows, cols, run, act;
  float eps;
};

struct RowShared { float2 part[32]; };

template <typename F> __device__ inline float over_warp(float x, F f) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = f(x, __shfl_xor_sync(~0u, x, d));
  return x;
}

// over_block joins two numbers of every thread of the block, neither of which a zero changes, once a kernel.
template <typename F, typename G> __device__ inline float2 over_block(RowShared &sh, float x, F f, float y, G g) {
  const int lane = threadIdx.x % 32;
  x = over_warp(x, f), y = over_warp(y, g);
  if (lane == 0) sh.part[threadIdx.x / 32] = make_float2(x, y);
  __syncthreads();
  const float2 own = lane < blockDim.x / 32 ? sh.part[lane] : make_float2(0, 0);
  return make_float2(over_warp(own.x, f), over_warp(own.y, g));
}

struct Larger { __device__ float operator()(float a, float b) const { return fmaxf(a, b); } };
struct Plus { __device__ float operator()(float a, float b) const { return a + b; } };

// scale_of is the power of two by which a row is divided so that its largest magnitude is at most 2^13: 1 for ordinary rows.
__device__ inline float scale_of(float largest) {
  const int over = (__float_as_int(largest) >> 23 & 0xff) - 127 - 12;  // rubbish in, rubbish out: a row of infinities stays one
  return __int_as_float((127 + min(max(over, 0), 127)) << 23);
}

__device__ inline float narrow(float x) { return fminf(fmaxf(x, -65504.0f), 65504.0f); }

// Four is neighbouring channels of a row.
struct alignas(16) Four {
  float v[4];
  __device__ static Four at(const float *row, int c) { return *(const Four *)(row + c); }
  __device__ void to(float *row, int c) const { *(Four *)(row + c) = *this; }
  template <typename F> __device__ void each(F f) {
#pragma unroll
    for (int j = 0; j < 4; j++) f(v[j], j);
  }
};

// Row is a row in the registers of its thread block: the four channels from 4·(threadIdx.x + i·blockDim.x) on are of[i]. rows.go sees to it that the row fits. Most rows have one of them a thread:
// that kernel is short, as it should be, since its instructions are seldom in a cache.
template <int MOST> struct Row {
  Four of[MOST];

  // each visits the thread's channels: f(four, first channel, i).
  template <typename F> __device__ void each(int cols, F f) {
#pragma unroll
    for (int i = 0; i < MOST; i++) {
      if (i > 0 && 4 * i * blockDim.x >= cols) break;
      const int c = 4 * (threadIdx.x + i * blockDim.x);
      if (c < cols) f(of[i], c, i);
    }
  }

  // emit writes the row's fp16 form; its largest magnitude is given.
  __device__ void emit(const RowParams &p, size_t row, float largest) {
    const float scale = scale_of(largest), inverse = __fdividef(1, scale);  // exact
    each(p.cols, [&](Four &x, int c, int) {
      u32 w[2];
#pragma unroll
      for (int j = 0; j < 2; j++) w[j] = bits(__halves2half2(__float2half_rn(narrow(x.v[2 * j] * inverse)), __float2half_rn(narrow(x.v[2 * j + 1] * inverse))));
      *(uint2 *)(p.values + row * p.cols + c) = uint2{w[0], w[1]};
    });
    if (threadIdx.x == 0) p.scale[row] = scale;
  }

  // emit finds the largest itself.
  __device__ void emit(RowShared &sh, const RowParams &p, size_t row) {
    float largest = 0;
    each(p.cols, [&](Four &x, int, int) { x.each([&](float &v, int) { largest = fmaxf(largest, fabsf(v)); }); });
    emit(p, row, over_block(sh, largest, Larger(), 0, Larger()).x);
  }
};

// norm_row: a block a row. Whole rows are normalised, after the addition. Weights are read before the launch ahead has ended.
template <int MOST> __device__ inline void norm_row(const RowParams &p) {
  SHARED_MEMORY(RowShared, sh);
  constexpr int EARLY = MOST < 2 ? MOST : 2;
  let_next_start();
  float *const row = p.x + (size_t)blockIdx.x * p.cols;
  const float *const add = p.add == nullptr ? nullptr : p.add + (size_t)blockIdx.x * p.cols;
  Row<MOST> x;
  Four weight[EARLY];
  x.each(p.cols, [&](Four &, int c, int i) {
    if (i < EARLY) weight[i] = Four::at(p.weight, c);
  });
  wait_for_previous();
  float sum = 0, largest = 0;
  x.each(p.cols, [&](Four &v, int c, int) {
    v = Four::at(row, c);
    if (add == nullptr) return;
    Four more = Four::at(add, c);
    more.each([&](float &y, int j) { v.v[j] += y; });
  });
  x.each(p.cols, [&](Four &v, int c, int i) {
    if (add != nullptr) v.to(row, c);
    const Four w = i < EARLY ? weight[i % EARLY] : Four::at(p.weight, c);
    v.each([&](float &y, int j) {
      sum += y * y;
      y *= w.v[j];
      largest = fmaxf(largest, fabsf(y));
    });
  });
  const float2 both = over_block(sh, sum, Plus(), largest, Larger());
  const float f = rsqrtf(__fdividef(both.x, p.cols) + p.eps);
  x.each(p.cols, [&](Four &v, int c, int) {
    v.each([&](float &y, int) { y *= f; });
    if (p.dst != nullptr) v.to(p.dst + (size_t)blockIdx.x * p.cols, c);
  });
  if (p.values != nullptr) x.emit(p, blockIdx.x, both.y * f);
}

// norm_run: a warp a run of channels, as of a head.
__device__ inline void norm_run(const RowParams &p) {
  let_next_start();
  wait_for_previous();
  const int run = blockIdx.x * (ROW_THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (run >= p.rows * (p.cols / p.run)) return;
  float *x = p.x + (size_t)run * p.run, *y = p.dst + (size_t)run * p.run, sum = 0;
  for (int c = lane; c < p.run; c += 32) sum += x[c] * x[c];
  const float f = rsqrtf(over_warp(sum, Plus()) / p.run + p.eps);
  for (int c = lane; c < p.run; c += 32) y[c] = x[c] * f * p.weight[c];
}

template <int MOST> __device__ inline void prepare_row(const RowParams &p) {
  SHARED_MEMORY(RowShared, sh);
  let_next_start();
  wait_for_previous();
  Row<MOST> x;
  x.each(p.cols, [&](Four &v, int c, int) { v = Four::at(p.x + (size_t)blockIdx.x * p.cols, c); });
  x.emit(sh, p, blockIdx.x);
}

__device__ inline void widen_row(const RowParams &p) {
  let_next_start();
  wait_for_previous();
  const size_t row = blockIdx.x;
  for (int c = threadIdx.x; c < p.cols; c += ROW_THREADS) p.dst[row * p.cols + c] = p.scale[row] * __half2float(p.values[row * p.cols + c]);
}

// activated: 0 is SiLU, 1 GELU by tanh, which is a SiLU whose gate has another argument.
__device__ inline float activated(float x, int act) { return __fdividef(x, 1 + power(-1.442695041f * (act == 0 ? x : 1.5957691216f * (x + 0.044715f * x * x * x)))); }

// gate_row: act(x)·add.
template <int MOST> __device__ inline void gate_row(const RowParams &p) {
  SHARED_MEMORY(RowShared, sh);
  let_next_start();
  wait_for_previous();
  if (p.index != nullptr && *p.index == 0) return;
  for (int i = blockIdx.x; i < p.rows; i += gridDim.x) {
    const size_t at = (size_t)i * p.cols;
    Row<MOST> row;
    row.each(p.cols, [&](Four &v, int c, int) {
      v = Four::at(p.add + at, c);
      Four gate = Four::at(p.x + at, c);
      gate.each([&](float &x, int j) { v.v[j] *= activated(x, p.act); });
    });
    row.emit(sh, p, i);
    __syncthreads();  // over the next row's numbers
  }
}

__device__ inline void add_rows(const RowParams &p) {
  let_next_start();
  wait_for_previous();
  const size_t n = (size_t)p.rows * p.cols;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) p.dst[i] += p.x[i];
}

// pick_row copies a row of cols words.
__device__ inline void pick_row(const RowParams &p) {
  let_next_start();
  wait_for_previous();
  const size_t from = (size_t)p.index[blockIdx.x] * p.cols, to = (size_t)blockIdx.x * p.cols;
  for (int c = threadIdx.x; c < p.cols; c += blockDim.x) ((u32 *)p.dst)[to + c] = ((const u32 *)p.x)[from + c];
}

// HeadsParams: the float32 rows of queries, keys and values become fp16, the first two rotated. A null dst leaves x rotated in place instead.
struct HeadsParams {
  float *x[3];     // queries, keys, values: [rows][heads·dim]
  __half *dst[3];
  const double *freq;  // radians a position of each pair of channels
  const int *pos;      // position of each row
  int heads[3];
  int rows, dim, pairs, interleaved;
  float magnitude;
};

// The angle is reduced in double precision: at position 100,000 a float has lost the fraction of a turn.
__device__ inline void turn_of(const HeadsParams &p, int row, int pair, float &c, float &s) {
  double a = p.pos[row] * p.freq[pair];
  a -= rint(a * 0.15915494309189535) * 6.283185307179586;
  sincosf((float)a, &s, &c);
  c *= p.magnitude, s *= p.magnitude;
}

struct HeadsShared { float c[128], s[128]; };

// begin_turning makes the angles of a row. A barrier must follow.
__device__ inline void begin_turning(const HeadsParams &p, HeadsShared &sh, int row) {
  for (int i = threadIdx.x; i < p.pairs; i += blockDim.x) turn_of(p, row, i, sh.c[i], sh.s[i]);
}

// Turned is pair k of a head's channels, turned if it is one of `pairs`: channels a and b became x and y. Those beyond the rotated ones pair up as they come.
struct Turned {
  int a, b;
  float x, y;
  __device__ Turned(const HeadsParams &p, const HeadsShared &sh, const float *head, int k, int pairs) {
    const bool apart = k < pairs && !p.interleaved;
    a = apart ? k : 2 * k, b = apart ? k + pairs : 2 * k + 1;
    x = head[a], y = head[b];
    if (k < pairs) {
      const float u = x * sh.c[k] - y * sh.s[k], v = x * sh.s[k] + y * sh.c[k];
      x = u, y = v;
    }
  }
};

__device__ inline void turn_heads(const HeadsParams &p) {
  SHARED_MEMORY(HeadsShared, sh);
  let_next_start();
  wait_for_previous();
  const int row = blockIdx.x, half_dim = p.dim / 2;
  begin_turning(p, sh, row);
  __syncthreads();
  for (int part = 0; part < 3; part++) {
    if (p.x[part] == nullptr) continue;
    for (int i = threadIdx.x; i < p.heads[part] * half_dim; i += blockDim.x) {
      const size_t at = ((size_t)row * p.heads[part] + i / half_dim) * p.dim;
      float *x = p.x[part] + at;
      const Turned t(p, sh, x, i % half_dim, part < 2 ? p.pairs : 0);
      if (p.dst[part] != nullptr) {
        p.dst[part][at + t.a] = __float2half_rn(narrow(t.x)), p.dst[part][at + t.b] = __float2half_rn(narrow(t.y));
      } else {
        x[t.a] = t.x, x[t.b] = t.y;
      }
    }
  }
}
