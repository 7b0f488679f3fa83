// Weight matrices in the order in which the tensor cores take them, and their way from codes to fp16.
//
// A matrix is tiles of 32 rows, a tile units of 32 inputs, one after the other. In a unit, lane 4g+t of a warp owns inputs 8t…8t+7 of rows g, g+8, g+16 and g+24 (j =
// 0…3): 16 bytes a lane and load, coalesced. Inputs stand in the order in which a lane loads activations: pair p of the eight is inputs 2p and 2p+1, so that pairs 0
// and 1 make one product of 16 inputs and pairs 2 and 3 another. A unit is, in this order:
//
//   codes   4 to 6 bits: [lane][j] a word of the low nibbles, pair p in nibbles p and p+4. 8 bits: [j/2][lane][j%2] eight bytes. 16 bits: [j][lane] eight halves
//   planes  5 bits: [lane] a word of the fifth bits; 6 bits: [lane][j/2] a word of the upper two. Where plane() finds them
//   scales  [g][j] a half; with minima [g][j] a scale and a minimum; for 16 inputs [g][t/2][j] a half; none for 16 bits
//
// A weight is scale·(code - 2^(bits-1)), or with minima scale·code + minimum.
#pragma once
#include "common.cuh"

constexpr int TILE = 32, UNIT = 32;  // rows, inputs

template <int BITS_, bool MINIMA_ = false, int GROUP = 32> struct Format {
  static constexpr int BITS = BITS_;
  static constexpr bool MINIMA = MINIMA_, HALVED = GROUP == 16;
  static constexpr int CODES = BITS <= 6 ? 4 : BITS == 8 ? 8 : 16;     // words a lane
  static constexpr int PLANES = BITS == 5 ? 1 : BITS == 6 ? 2 : 0;     // words a lane
  static constexpr int SCALES = BITS == 16 ? 0 : MINIMA ? 4 : 2;       // words a lane, which others share
  static constexpr int BYTES = 128 * (CODES + PLANES) + (BITS == 16 ? 0 : MINIMA || HALVED ? 128 : 64);
};

// The formats, numbered as weight.go does.
#define WITH_FORMAT(number, F, ...)                                      \
  switch (number) {                                                      \
    case 0: { typedef Format<4> F; __VA_ARGS__; break; }                 \
    case 1: { typedef Format<4, true> F; __VA_ARGS__; break; }           \
    case 2: { typedef Format<5> F; __VA_ARGS__; break; }                 \
    case 3: { typedef Format<5, true> F; __VA_ARGS__; break; }           \
    case 4: { typedef Format<6, false, 16> F; __VA_ARGS__; break; }      \
    case 5: { typedef Format<8> F; __VA_ARGS__; break; }                 \
    default: { typedef Format<16> F; __VA_ARGS__; }                      \
  }

// plane moves a word of planes so that the upper bits of row j's pair p stand where its nibbles stand once masked, above them: from bit 4 of each half on for even pairs, from
// bit 8 on for odd ones. The shifts are such that all 16 bits of the halves are used, once each.
template <int BITS> __device__ inline u32 plane(u32 word, int index) {
  const int width = BITS - 4, turn = 4 / width, by = width * index - (index < turn ? 4 : 0);
  return by < 0 ? word << -by : word >> by;
}

// ahead is how many units of a format a warp has in flight, given the registers for them.
template <typename F> __device__ constexpr int ahead(int registers) {
  const int n = registers / (F::CODES + F::PLANES + F::SCALES);
  return n < 1 ? 1 : n > 4 ? 4 : n;
}

// Fragment is a lane's share of a unit.
template <typename F> struct Fragment {
  u32 codes[F::CODES], planes[F::PLANES > 0 ? F::PLANES : 1], scales[F::SCALES > 0 ? F::SCALES : 1];

  // load begins to read a unit; what is not there counts as zero.
  __device__ void load(const u8 *unit, int lane, bool there) {
    words(unit, lane, [&](auto &w, const u8 *at) { stream<sizeof w / 4>(w, at, there); });
  }

  // take reads a unit that is in shared memory.
  __device__ void take(const u8 *unit, int lane) {
    words(unit, lane, [&](auto &w, const u8 *at) { ::load<sizeof w / 4>(w, at); });
  }

  // words visits the lane's words, those that are read at once together: f(words, where).
  template <typename G> __device__ void words(const u8 *unit, int lane, G f) {
#pragma unroll
    for (int i = 0; i < F::CODES; i += 4) f(*(u32(*)[4])&codes[i], unit + 128 * i + 16 * lane);
    unit += 128 * F::CODES;
    if constexpr (F::PLANES > 0) f(planes, unit + 4 * F::PLANES * lane);
    unit += 128 * F::PLANES;
    if constexpr (F::SCALES > 0) f(scales, unit + (F::HALVED ? lane / 2 * 8 : lane / 4 * 4 * F::SCALES));
  }

  // weights is pair p of row j in fp16.
  __device__ void weights(u32 (&a)[4][4]) const {
    if constexpr (F::BITS == 16) {
#pragma unroll
      for (int i = 0; i < 16; i++) a[i / 4][i % 4] = codes[i];
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const __half2 pair = halves(scales[F::MINIMA ? j : j / 2]);
        const __half2 scale = !F::MINIMA && j % 2 ? __high2half2(pair) : __low2half2(pair);
#pragma unroll
        for (int p = 0; p < 4; p++) {
          const __half2 q = code(j, p);
          a[j][p] = bits(F::MINIMA ? __hfma2(q, scale, __high2half2(pair)) : __hmul2(q, scale));
        }
      }
    }
  }

  // code is pair p of row j's codes, less their middle: a code in the low bits of the half 1024 adds itself to it, and 1/16 of that undoes a shift, all exactly.
  __device__ __half2 code(int j, int p) const {
    constexpr int MIDDLE = F::MINIMA ? 0 : 1 << (F::BITS - 1);
    if constexpr (F::BITS == 8) {
      const u32 v = __byte_perm(codes[2 * j + p / 2], 0x64646464, p % 2 ? 0x4342 : 0x4140);
      return __hsub2(halves(v), __float2half2_rn(1024 + MIDDLE));
    } else {
      const bool odd = p % 2;
      u32 v = (p < 2 ? codes[j] : codes[j] >> 8) & (odd ? HIGH : LOW) | 0x64006400;
      if constexpr (F::PLANES == 1) v |= plane<5>(planes[0], j * 2 + p / 2) & (odd ? 0x01000100 : 0x00100010);
      if constexpr (F::PLANES == 2) v |= plane<6>(planes[j / 2], j % 2 * 2 + p / 2) & (odd ? 0x03000300 : 0x00300030);
      if (odd) return __hfma2(halves(v), __float2half2_rn(0.0625f), __float2half2_rn(-64 - MIDDLE));
      return __hsub2(halves(v), __float2half2_rn(1024 + MIDDLE));
    }
  }
};

// EmbedParams: row i of dst is row ids[i] of the matrix, times scale.
struct EmbedParams {
  float *dst;        // [rows][32·units]
  const u8 *weight;
  const int *ids;
  int units, format;
  float scale;
};

// embed_row decodes one row, eight inputs a thread and turn.
__device__ inline void embed_row(const EmbedParams &p) {
  let_next_start();
  wait_for_previous();
  const int id = p.ids[blockIdx.x], row = id % TILE;
  float *dst = p.dst + (size_t)blockIdx.x * p.units * UNIT;
  for (int i = threadIdx.x; i < p.units * 4; i += blockDim.x) {
    u32 a[4][4];
    WITH_FORMAT(p.format, F, {
      Fragment<F> f;
      f.load(p.weight + ((size_t)(id / TILE) * p.units + i / 4) * F::BYTES, row % 8 * 4 + i % 4, true);
      f.weights(a);
    })
    float4 out[2];
    float *x = (float *)out;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const u32 v = row < 16 ? row < 8 ? a[0][c] : a[1][c] : row < 24 ? a[2][c] : a[3][c];
      x[2 * c] = half_of(v, 0) * p.scale, x[2 * c + 1] = half_of(v, 1) * p.scale;
    }
    float4 *at = (float4 *)(dst + i * 8);
    at[0] = out[0], at[1] = out[1];
  }
}
