// The cache's writers: rows, codes and metadata.
#pragma once
#include "rows.cuh"

// sixteenth is the whole part of a number, but 0 or 15 where that is none of a code's. Whole parts are what is left of a sum with 2^23, which takes a quarter of a conversion's time.
__device__ inline u32 sixteenth(float x) { return (u32)__float_as_int(__fadd_rz(fminf(fmaxf(x, 0), 15), 8388608.0f)) & 15; }

template <int C> struct EncodeShared {
  __half low[PAGES][C], high[PAGES][C];
  float base[C], inverse[C], step[C];
};

// encode_keys makes the ranges, page bounds and codes of C channels of a block, those from `from` on, out of its first `full` pages.
template <int D, int C> __device__ void encode_keys(const Params &p, int bh, int full, int from) {
  SHARED_MEMORY(EncodeShared<C>, sh);
  auto &low = sh.low, &high = sh.high;
  auto &base = sh.base, &inverse = sh.inverse, &step = sh.step;
  constexpr int WORDS = C / 8, ALL = D / 8;  // of eight channels
  const __half *k = p.k + (size_t)bh * BLOCK * D + from;
  for (int i = threadIdx.x; i < full * WORDS; i += blockDim.x) {  // eight channels of a page
    const int page = i / WORDS, c = i % WORDS * 8;
    u32 lo[4], hi[4];
    load<4>(lo, k + page * PAGE * D + c), load<4>(hi, k + page * PAGE * D + c);
#pragma unroll
    for (int t = 1; t < PAGE; t++) {
      u32 x[4];
      load<4>(x, k + (page * PAGE + t) * D + c);
#pragma unroll
      for (int j = 0; j < 4; j++) lo[j] = bits(__hmin2(halves(lo[j]), halves(x[j]))), hi[j] = bits(__hmax2(halves(hi[j]), halves(x[j])));
    }
#pragma unroll
    for (int j = 0; j < 4; j++) ((u32 *)&low[page][c])[j] = lo[j], ((u32 *)&high[page][c])[j] = hi[j];
  }
  __syncthreads();
  for (int c = threadIdx.x; c < C; c += blockDim.x) {
    __half lo = low[0][c], hi = high[0][c];
#pragma unroll 4
    for (int page = 1; page < full; page++) {
      lo = __hlt(low[page][c], lo) ? low[page][c] : lo, hi = __hlt(hi, high[page][c]) ? high[page][c] : hi;
    }
    float f = __half2float(lo);
    __half s = __float2half_ru((__half2float(hi) - f) / 15.0f);
    step[c] = __half2float(s), base[c] = f, inverse[c] = step[c] > 0 ? 1.0f / step[c] : 0;
    p.range[((size_t)bh * 2) * D + from + c] = lo, p.range[((size_t)bh * 2 + 1) * D + from + c] = s;
  }
  __syncthreads();
  u32 *bounds = (u32 *)p.bounds + (size_t)bh * PAGES * 2 * ALL + from / 8;
  for (int i = threadIdx.x; i < full * 2 * WORDS; i += blockDim.x) {
    int page = i / (2 * WORDS), smallest = i / WORDS % 2, c0 = i % WORDS * 8;
    u32 w = 0;
    for (int j = 0; j < 8; j++) {
      int c = c0 + j;
      float x = __half2float(smallest ? low[page][c] : high[page][c]) - base[c];
      int u = (int)(smallest ? floorf(x * inverse[c]) : ceilf(x * inverse[c]));
      u = min(max(u, 0), 15);
      if (smallest && u > 0 && step[c] * u > x) u--;      // the product above may round
      if (!smallest && u < 15 && step[c] * u < x) u++;
      w |= (u32)u << (4 * nibble(j));
    }
    bounds[(page * 2 + smallest) * ALL + c0 / 8] = w;
  }
  // A thread has the same eight channels of every token that it encodes.
  const int c0 = threadIdx.x % WORDS * 8, apart = blockDim.x / WORDS;
  float low8[8], inverse8[8];
#pragma unroll
  for (int j = 0; j < 8; j++) low8[j] = base[c0 + j], inverse8[j] = inverse[c0 + j];
  u32 *codes = (u32 *)p.keyCodes + ((size_t)bh * BLOCK * D + from + c0) / 8;
#pragma unroll 4
  for (int token = threadIdx.x / WORDS; token < full * PAGE; token += apart) {
    u32 x[4], w = 0;
    load<4>(x, k + (size_t)token * D + c0);
#pragma unroll
    for (int j = 0; j < 8; j++) w |= sixteenth((half_of(x[j / 2], j % 2) - low8[j]) * inverse8[j] + 0.5f) << (4 * nibble(j));
    codes[token * ALL] = w;
  }
}

// spread is the extremes of the values that so many neighbouring lanes have, four or eight each.
template <int N> __device__ inline float2 spread(const float (&x)[N], int lanes) {
  float lo = INFINITY, hi = -INFINITY;
#pragma unroll
  for (int j = 0; j < N; j++) lo = fminf(lo, x[j]), hi = fmaxf(hi, x[j]);
  for (int d = 1; d < lanes; d *= 2) {
    lo = fminf(lo, __shfl_xor_sync(~0u, lo, d)), hi = fmaxf(hi, __shfl_xor_sync(~0u, hi, d));
  }
  return make_float2(lo, hi);
}

// Grid is the sixteen numbers that stand for values between two extremes.
struct Grid {
  __half step;
  float low, inverse;
  __device__ Grid(float2 ends) : step(__float2half_rn((ends.y - ends.x) / 15.0f)), low(ends.x) {
    const float f = __half2float(step);
    inverse = f > 0 ? 1.0f / f : 0;
  }
  __device__ u32 code(float x) const { return sixteenth((x - low) * inverse + 0.5f); }
  __device__ __half2 pair() const { return __halves2half2(step, __float2half_rn(low)); }
};

// encode_rows gives each of rows [from,to) of a block, which are at `rows`, to as many lanes as it has eights of channels: f(those eight, row among all, lane, whether it is to be written).
// Lanes beyond the end shadow the last row, so that all take part in exchanges.
template <int D, typename F> __device__ inline void encode_rows(const __half *rows, int bh, int from, int to, F f) {
  constexpr int LANES = D / 8;
  const int lane = threadIdx.x % LANES, per = blockDim.x / LANES;
  for (int first = from; first < to; first += per) {
    const int t = first + threadIdx.x / LANES, at = min(t, to - 1);
    u32 w[4];
    float x[8];
    load<4>(w, rows + (at - from) * D + lane * 8);
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] = half_of(w[j / 2], j % 2);
    f(x, (size_t)bh * BLOCK + at, lane, t < to);
  }
}

// encode_values makes the codes of values.
template <int D> __device__ void encode_values(const Params &p, const __half *values, int bh, int from, int to) {
  encode_rows<D>(values, bh, from, to, [&](const float (&x)[8], size_t row, int lane, bool mine) {
    const int r = lane % 8, half64 = lane / 8;
    u32 word = 0;
#pragma unroll
    for (int part = 0; part < 2; part++) {
      const float four[4] = {x[part * 4], x[part * 4 + 1], x[part * 4 + 2], x[part * 4 + 3]};
      const Grid grid(spread(four, 8));
#pragma unroll
      for (int j = 0; j < 4; j++) word |= grid.code(four[j]) << (part * 16 + j * 4);
      if (mine && r == 0) p.valueScale[row * (D / 32) + half64 * 2 + part] = grid.pair();
    }
    if (mine) ((u32 *)p.valueCodes)[row * (D / 8) + r * (D / 64) + half64] = word;
  });
}

// encode_tokens makes the keys' codes by token, where they are kept.
template <int D> __device__ void encode_tokens(const Params &p, const __half *keys, int bh, int from, int to) {
  if (p.tokenCodes == nullptr) return;
  encode_rows<D>(keys, bh, from, to, [&](const float (&x)[8], size_t row, int lane, bool mine) {
    const Grid grid(spread(x, D / 8));
    u32 word = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) word |= grid.code(x[j]) << (4 * nibble(j));
    if (mine) ((u32 *)p.tokenCodes)[row * (D / 8) + lane] = word;
    if (mine && lane == 0) p.tokenScale[row] = grid.pair();
  });
}

// AppendParams: the new tokens' queries, keys and values come as float32 rows, which are turned on the way; or p has the keys and values as they are, and turn.x[0] is null.
struct AppendParams {
  Params p;
  HeadsParams turn;
};

template <int D> struct AppendShared {
  HeadsShared angles;
  alignas(16) __half row[2][D];
};

// append adds one token a sequence, at position lens−1: grid batch·kvHeads·PARTS. The PARTS thread blocks of a unit share its queries, and the channels of what they write of the key and the value.
// A page that becomes full has its block encoded anew. Positions are turned into angles while the launch ahead goes on.
template <int D, int PARTS> __device__ void append_token(const AppendParams &all) {
  constexpr int C = D / PARTS;
  const Params &p = all.p;
  const HeadsParams &turn = all.turn;
  SHARED_MEMORY(AppendShared<D>, sh);
  let_next_start();
  const int unit = blockIdx.x / PARTS, part = blockIdx.x % PARTS, s = unit / p.kvHeads, h = unit % p.kvHeads, pos = p.lens[s] - 1;
  if (pos < 0) return wait_for_previous();
  const int *table = p.table + s * p.tableStride;
  const int b = pos / BLOCK, t = pos % BLOCK, bh = table[b] * p.kvHeads + h, channel = part * C + threadIdx.x;
  float *sum = p.valueSum + (size_t)bh * 2 * D + channel, before = 0;
  const float *last = t > 0 ? sum + D : b > 0 ? p.valueSum + (((size_t)table[b - 1] * p.kvHeads + h) * 2 + 1) * D + channel : nullptr;
  if (p.keyCodes == nullptr || threadIdx.x >= C) last = nullptr;
  if (last != nullptr && threadIdx.x % 32 == 0) prefetch(last);
  if (turn.x[0] != nullptr) begin_turning(turn, sh.angles, s);
  __syncthreads();
  wait_for_previous();
  if (last != nullptr) before = *last;
  if (turn.x[0] != nullptr) {
    // Pairs of channels of the key, of the value, and of the part's queries.
    const int pairs = (2 + (p.group - part + PARTS - 1) / PARTS) * (D / 2);
    auto query = [&](int head) { return ((size_t)unit * p.group + part + (head - 2) * PARTS) * D; };
    auto turned = [&](int i) {
      const int head = i / (D / 2);
      const float *x = head > 1 ? turn.x[0] + query(head) : (head == 0 ? turn.x[1] : turn.x[2]) + (size_t)unit * D;
      return Turned(turn, sh.angles, x, i % (D / 2), head == 1 ? 0 : turn.pairs);
    };
    auto store = [&](int i, const Turned &t) {
      const int head = i / (D / 2);
      __half *to = head > 1 ? turn.dst[0] + query(head) : sh.row[head];
      to[t.a] = __float2half_rn(narrow(t.x)), to[t.b] = __float2half_rn(narrow(t.y));
    };
    for (int i = threadIdx.x; i < pairs; i += 2 * blockDim.x) {
      const int j = i + blockDim.x;
      const Turned one = turned(i), other = turned(min(j, pairs - 1));  // both are read at once
      store(i, one);
      if (j < pairs) store(j, other);
    }
  } else {
    for (int c = threadIdx.x; c < D; c += blockDim.x) sh.row[0][c] = p.newK[(size_t)unit * D + c], sh.row[1][c] = p.newV[(size_t)unit * D + c];
  }
  __syncthreads();
  if (threadIdx.x < C) {
    const size_t at = ((size_t)bh * BLOCK + t) * D + channel;
    const __half v = sh.row[1][channel];
    p.k[at] = sh.row[0][channel], p.v[at] = v;
    if (p.keyCodes != nullptr) {
      if (t == 0) sum[0] = before;
      sum[D] = before + __half2float(v);
    }
  }
  if (p.keyCodes == nullptr) return;
  if (part == 0) encode_values<D>(p, sh.row[1], bh, t, t + 1);
  if (part == PARTS / 2) encode_tokens<D>(p, sh.row[0], bh, t, t + 1);
  if ((t + 1) % PAGE) return;
  __syncthreads();
  encode_keys<D, C>(p, bh, (t + 1) / PAGE, part * C);
}

// write copies `count` tokens of a prompt into one sequence: grid (tokens, heads), D/8 threads.
template <int D> __device__ void write_rows(const Params &p) {
  int pos = p.position + blockIdx.x, h = p.head + blockIdx.y;
  size_t row = ((size_t)p.table[p.sequence * p.tableStride + pos / BLOCK] * p.kvHeads + h) * BLOCK + pos % BLOCK;
  size_t from = (size_t)blockIdx.x * p.tokenStride + (size_t)blockIdx.y * p.headStride + threadIdx.x * 8;
  *(uint4 *)(p.k + row * D + threadIdx.x * 8) = *(const uint4 *)(p.newK + from);
  *(uint4 *)(p.v + row * D + threadIdx.x * 8) = *(const uint4 *)(p.newV + from);
}

// encode makes all derived data of written sequences but the running sums, from the block of p.position on: grid (blocks, kvHeads, batch), 256 threads.
template <int D> __device__ void encode_block(const Params &p) {
  int s = blockIdx.z, b = p.position / BLOCK + blockIdx.x, n = p.lens[s] - b * BLOCK;
  if (n <= 0) return;
  n = min(n, BLOCK);
  int bh = p.table[s * p.tableStride + b] * p.kvHeads + blockIdx.y;
  encode_values<D>(p, p.v + (size_t)bh * BLOCK * D, bh, 0, n);
  encode_tokens<D>(p, p.k + (size_t)bh * BLOCK * D, bh, 0, n);
  if (n >= PAGE) encode_keys<D, D>(p, bh, n / PAGE, 0);
  for (int c = threadIdx.x; c < D; c += blockDim.x) {
    float sum = 0;
    for (int t = 0; t < n; t++) sum += __half2float(p.v[((size_t)bh * BLOCK + t) * D + c]);
    p.valueSum[((size_t)bh * 2 + 1) * D + c] = sum;
  }
}

// accumulate turns the blocks' own sums into running sums, from the block of p.position on: grid batch·kvHeads, D threads. A lone block, which has no sequence, goes on from
// the sum that stood before it.
template <int D> __device__ void running_sums(const Params &p) {
  int s = blockIdx.x / p.kvHeads, h = blockIdx.x % p.kvHeads, blocks = (p.lens[s] + BLOCK - 1) / BLOCK, first = p.position / BLOCK;
  auto at = [&](int b) { return p.valueSum + ((size_t)p.table[s * p.tableStride + b] * p.kvHeads + h) * 2 * D + threadIdx.x; };
  float sum = p.flags & LONE ? *at(0) : first > 0 ? at(first - 1)[D] : 0;
  for (int b = first; b < blocks; b++) {
    float *x = at(b);
    x[0] = sum;
    x[D] = sum += x[D];
  }
}
