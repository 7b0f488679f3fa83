// What all kernels share: the cache's layout, and the parameters of a step.
//
// The unit of work is one KV head of one sequence. Its tokens stand in blocks of 256, found through the sequence's block table; a page is 16 tokens. Row r of a
// slab is token r%256 of (block, head) r/256, with (block, head) = block·kvHeads + head.
#pragma once
#include "instructions.cuh"

constexpr int PAGE = 16, BLOCK = 256, PAGES = BLOCK / PAGE;
constexpr int HEADS = 8;         // most query heads that share a KV head
constexpr int BINS = 1024;       // of every histogram
constexpr int LONGEST = 4096;    // tokens of an item of a whole sequence, if there may be as many items
constexpr int RANKS = 8;         // most thread blocks that share a unit in select
constexpr int PER_OCTAVE = 256;  // estimated logits are integers: this many to a factor of two in weight
constexpr int BIN_SHIFT = 4;     // so a bin of weights is a factor of 2^(1/16) wide
constexpr int WINDOW = 40 * PER_OCTAVE;  // the bins of weights begin so far above the reference; what is higher counts as if it were there
constexpr int FAR = (BINS << BIN_SHIFT) - 1;  // the largest distance from there; what lies further counts as if it lay so far, and weighs nothing in a histogram
constexpr int NONE = 0x7fff;     // the distance of what is no candidate

// Params.flags: survivors per head; one page list a group; the paper's INT4 codes; tail compensation; every page is a candidate; estimates and lists stay in shared memory, for few only. And of sums:
// the block is a lone one.
enum { PER_HEAD = 1, SHARED = 2, TOKEN_CODES = 4, TAIL = 8, EVERY_PAGE = 16, LONE = 32, NEAR = 64 };

// Params is the only parameter of every kernel; params.go holds the same structure.
struct Params {
  // The cache. Codes are nibbles.
  __half *k, *v;       // rows of D
  __half *range;       // per (block, head): low[D], step[D] over the block's full pages; a code u stands for low + step·u
  u8 *bounds;          // per (block, head) and page: largest key [D/2], smallest key [D/2], rounded outward
  u8 *keyCodes;        // rows of D/2: keys between the block's extremes; null in a layer that keeps no derived data
  u8 *valueCodes;      // rows of D/2: values between the extremes of their group of 32 channels
  __half2 *valueScale; // rows of D/32 pairs (step, low)
  float *valueSum;     // per (block, head): sum[D] of the sequence's values before the block, and up to and including it
  u8 *tokenCodes;      // rows of D/2: keys between the token's own extremes; null unless asked for
  __half2 *tokenScale; // rows of one pair (step, low)
  const int *table;    // [batch][tableStride] block numbers
  const int *lens;     // [batch] tokens
  const int *order;    // [batch] sequences as work on them begins, the longest first; null: as they come
  const __half *q;     // [batch][kvHeads·group][D]
  __half *out;         // as q
  // Scratch, per unit.
  float *bases;        // [maxBlocks][2·HEADS] per block and head: logit of the block's low, in octaves; what the tail counts of an estimated weight
  float *scores;       // [maxBlocks·16][G] of pages, where shared memory has no room for them
  u8 *pages;           // [maxBlocks·16] heads that a page is a candidate of
  int *candidates;     // [maxBlocks·16] pages that are, by rank
  short *logits;       // [maxBlocks·256][G] estimated: how far they lie below the window's upper end
  u32 *list;           // [maxBlocks·256] survivors: token of the rank's range | heads << 24. A rank's exactly read ones from the start of its range up, the others from its end down
  int2 *counts;        // [RANKS] exactly read survivors, others; of a unit that is read whole -1 and its tokens
  float *reference;    // [HEADS] the window's upper end in octaves: WINDOW above the largest exact logit of the newest and the first page
  float4 *sums;        // [RANKS][HEADS] estimated mass of the candidates and of what survived of them; own survivors, candidates
  // Scratch of the step.
  int *control;        // items of whole taken beyond the first of each block; blocks done. Zero between steps
  float *partial;      // [units·maxParts][HEADS][D] sums
  float2 *partialTop;  // [units·maxParts][HEADS] maximum, sum of weights
  int *arrived;        // per unit, and rank in cluster: parts done. Zero between steps
  // New tokens.
  const __half *newK, *newV;  // append: [batch][kvHeads][D]; write: rows of tokenStride halves, heads headStride halves apart
  int tokenStride, headStride;
  int sequence, head, position, count;  // write: where `count` tokens go
  // Numbers.
  int batch, kvHeads, group, tableStride, maxBlocks, ranks, flags;
  int denseBelow;      // shorter sequences are read whole
  int processors, attenders;  // the device's multiprocessors, and the thread blocks of whole that it runs at once
  int maxParts, parts; // of a unit that is read whole: at most; in cluster
  float scale;         // of logits, in octaves: log2(e)/sqrt(D)
  float keep;          // share of the pages that are candidates
  float reach;         // of the way from the middle of a page's bounds to their far end, that its score goes
  int budget;          // but at least that many pages
  float exactMass, mass;  // estimated mass of the exactly read survivors, and of all
  int stages;          // how many stages of select run, for measuring; 0: all
  int window;          // a sequence that is read whole is read from its last so many tokens on; 0: all
};

__device__ inline u32 bits(__half2 h) { return *reinterpret_cast<u32 *>(&h); }
__device__ inline __half2 halves(u32 u) { return *reinterpret_cast<__half2 *>(&u); }
__device__ inline u32 times(u32 a, u32 b) { return bits(__hmul2(halves(a), halves(b))); }
__device__ inline float half_of(u32 u, int i) { return i ? __high2float(halves(u)) : __low2float(halves(u)); }

// quotient is a/b of a below 2^20: a division of integers is a hundred instructions.
__device__ inline int quotient(int a, int b) { return (int)__fdividef(a + 0.5f, b); }

// Floats as integers of the same order, for atomicMax.
__device__ inline int ordered(float f) { int i = __float_as_int(f); return i ^ ((i >> 31) & 0x7fffffff); }
__device__ inline float unordered(int i) { return __int_as_float(i ^ ((i >> 31) & 0x7fffffff)); }

template <int N> struct Vec;
template <> struct Vec<1> { typedef u32 T; };
template <> struct Vec<2> { typedef uint2 T; };
template <> struct Vec<4> { typedef uint4 T; };

// load reads N words that are aligned to N words.
template <int N> __device__ inline void load(u32 (&dst)[N], const void *src) {
  if constexpr (N <= 4) {
    typename Vec<N>::T v = *(const typename Vec<N>::T *)src;
    const u32 *w = (const u32 *)&v;
#pragma unroll
    for (int i = 0; i < N; i++) dst[i] = w[i];
  } else {
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
      uint4 v = ((const uint4 *)src)[j];
      dst[4 * j] = v.x, dst[4 * j + 1] = v.y, dst[4 * j + 2] = v.z, dst[4 * j + 3] = v.w;
    }
  }
}

// A nibble in the low bits of a half is u·2^-24, one in the next bits 16u·2^-24: codes enter the tensor cores with a mask and no conversion. In a word of eight
// channels, channel i is nibble (i%2)·4 + i/2, so that the masks yield pairs of neighbours.
constexpr u32 LOW = 0x000f000f, HIGH = 0x00f000f0;
__device__ inline int nibble(int channel) { return (channel & 1) * 4 + (channel >> 1); }
