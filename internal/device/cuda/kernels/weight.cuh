// Weight matrices in the order in which the tensor cores take them, and their way from codes to fp16.
//
// A matrix is tiles of 32 rows, a tile units of 32 inputs, one after the other. In a unit, lane 4g+t of a warp owns eight inputs of rows g, g+8, g+16 and g+24 (j = 0…3): 16
// bytes a lane and load, coalesced. They are pairs: pair p is inputs 8p+2t and 8p+2t+1, so that pairs 0 and 1 make one product of 16 inputs and pairs 2 and 3 another. A unit
// is, in this order:
//
//   codes   4 to 6 bits: [lane][j] a word of the low nibbles, pair p in nibbles p and p+4. 8 bits: [j/2][lane][j%2] eight bytes. 16 bits: [j][lane] eight halves
//   planes  5 bits: [lane] a word of the fifth bits; 6 bits: [lane][j/2] a word of the upper two. Where plane() finds them
//   scales  [g][j] a half; with minima [g][j] a scale and a minimum; for 16 inputs [g][j/2][p/2][j%2] a half; none for 16 bits
//
// A weight is scale·(code - 2^(bits-1)), or with minima scale·code + minimum. A code that enters fp16 with a mask alone is a subnormal number, 2^-24 of the code or a power of two
// more, which is exact and makes a weight with one multiplication and addition. So scales stand here 2^24 times as large, and all of a matrix is a power of two smaller that
// lets them fit: products are multiplied by the matrix's `factor` at their end.
#pragma once
#include "common.cuh"

constexpr int TILE = 32, UNIT = 32;  // rows, inputs

template <int BITS_, bool MINIMA_ = false, int GROUP = 32> struct Format {
  static constexpr int BITS = BITS_;
  static constexpr bool MINIMA = MINIMA_, HALVED = GROUP == 16;
  static constexpr int CODES = BITS <= 6 ? 4 : BITS == 8 ? 8 : 16;     // words a lane
  static constexpr int PLANES = BITS == 5 ? 1 : BITS == 6 ? 2 : 0;     // words a lane
  static constexpr int SCALES = BITS == 16 ? 0 : MINIMA || HALVED ? 4 : 2;  // words a lane, which others share
  static constexpr int BYTES = 128 * (CODES + PLANES) + 32 * SCALES;
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

// Fragment is a lane's share of a unit or, with two ROWS, of its upper or lower half: j is 0 and 1 then.
template <typename F, int ROWS = 4> struct Fragment {
  static constexpr int CODES = F::CODES * ROWS / 4, SCALES = F::SCALES * ROWS / 4;
  u32 codes[CODES], planes[F::PLANES * ROWS > 4 ? 2 : 1], scales[SCALES > 0 ? SCALES : 1];

  // load begins to read a unit; what is not there counts as zero.
  __device__ void load(const u8 *unit, int lane, bool there) {
    words(unit, lane, [&](auto &w, const u8 *at) { stream<sizeof w / 4>(w, at, there); });
  }

  // take reads a unit that is in shared memory, or half of it.
  __device__ void take(const u8 *unit, int lane, int half = 0) {
    words(unit, lane, [&](auto &w, const u8 *at) { ::load<sizeof w / 4>(w, at); }, half);
    if (ROWS == 2 && F::BITS == 5 && half) planes[0] >>= 8;
  }

  // words visits the lane's words, those that are read at once together: f(words, where).
  template <typename G> __device__ void words(const u8 *unit, int lane, G f, int half = 0) {
    constexpr int AT_ONCE = CODES < 4 ? CODES : 4;
#pragma unroll
    for (int i = 0; i < CODES; i += AT_ONCE) f(*(u32(*)[AT_ONCE])&codes[i], unit + 128 * i + 16 * lane + half * (F::CODES == 4 ? 8 : 64 * F::CODES));
    unit += 128 * F::CODES;
    if constexpr (F::PLANES > 0) f(planes, unit + 4 * (F::PLANES * lane + (F::PLANES == 2 ? half : 0)));
    unit += 128 * F::PLANES;
    if constexpr (F::SCALES > 0) f(scales, unit + 4 * (lane / 4 * F::SCALES + half * SCALES));
  }

  // weights is pair p of row j in fp16.
  __device__ void weights(u32 (&a)[ROWS][4]) const {
    if constexpr (F::BITS == 16) {
#pragma unroll
      for (int i = 0; i < ROWS * 4; i++) a[i / 4][i % 4] = codes[i];
    } else {
      constexpr float MIDDLE = -(float)(1 << (F::BITS - 1)) / (1 << 24);
      __half2 sixteenths[SCALES], least[SCALES];
#pragma unroll
      for (int i = 0; i < SCALES; i++) {
        sixteenths[i] = __hmul2(halves(scales[i]), __floats2half2_rn(0.0625f, F::MINIMA ? 1 : 0.0625f));
        least[i] = F::MINIMA ? __high2half2(halves(scales[i])) : __hmul2(halves(scales[i]), __float2half2_rn(MIDDLE));
      }
#pragma unroll
      for (int j = 0; j < ROWS; j++) {
#pragma unroll
        for (int p = 0; p < 4; p++) {
          const int i = F::MINIMA ? j : F::HALVED ? j / 2 * 2 + p / 2 : j / 2;
          const __half2 scale = F::BITS < 8 && p % 2 ? sixteenths[i] : halves(scales[i]);
          const bool upper = !F::MINIMA && j % 2;
          a[j][p] = bits(__hfma2(halves(code(j, p)), upper ? __high2half2(scale) : __low2half2(scale), upper || F::MINIMA ? __high2half2(least[i]) : __low2half2(least[i])));
        }
      }
    }
  }

  // code is pair p of row j's codes as subnormal numbers, of odd pairs 16 times as large if codes have fewer than 8 bits.
  __device__ u32 code(int j, int p) const {
    if constexpr (F::BITS == 8) {
      return __byte_perm(codes[2 * j + p / 2], 0, p % 2 ? 0x4342 : 0x4140);
    } else {
      const bool odd = p % 2;
      u32 v = (p < 2 ? codes[j] : codes[j] >> 8) & (odd ? HIGH : LOW);
      if constexpr (F::PLANES == 1) v |= plane<5>(planes[0], j * 2 + p / 2) & (odd ? 0x01000100 : 0x00100010);
      if constexpr (F::PLANES == 2) v |= plane<6>(planes[j / 2], j % 2 * 2 + p / 2) & (odd ? 0x03000300 : 0x00300030);
      return v;
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
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const u32 v = row < 16 ? row < 8 ? a[0][c] : a[1][c] : row < 24 ? a[2][c] : a[3][c];
      *(float2 *)(dst + i / 4 * UNIT + c * 8 + i % 4 * 2) = make_float2(half_of(v, 0) * p.scale, half_of(v, 1) * p.scale);
    }
  }
}
