// What all kernels share: the cache's layout, the parameters of a step, and the few instructions that C++ has no name for.
//
// The unit of work is one KV head of one sequence. Its tokens stand in blocks of 256, found through the sequence's block table; a page is 16 tokens. Row r of a
// slab is token r%256 of (block, head) r/256, with (block, head) = block·kvHeads + head.
#pragma once
#include <cuda_fp16.h>

typedef unsigned int u32;
typedef unsigned char u8;

constexpr int PAGE = 16, BLOCK = 256, PAGES = BLOCK / PAGE;
constexpr int HEADS = 8;         // most query heads that share a KV head
constexpr int BINS = 512;        // of every histogram
constexpr int RANKS = 16;        // most thread blocks that share a unit in select
constexpr int PER_OCTAVE = 256;  // estimated logits are integers: this many to a factor of two in weight
constexpr int BIN_SHIFT = 4;     // so a bin of weights is a factor of 2^(1/16) wide
constexpr short NONE = -32768;   // the estimated logit of what is no candidate

enum { PER_HEAD = 1, SHARED = 2, TOKEN_CODES = 4, TAIL = 8 };  // Params.flags: survivors per head; one page list a group; the paper's INT4 codes; tail compensation

// Params is the only parameter of every kernel; params.go holds the same structure.
struct Params {
  // The cache. Codes are nibbles.
  __half *k, *v;       // rows of D
  __half *range;       // per (block, head): low[D], step[D] over the block's full pages; a code u stands for low + step·u
  u8 *bounds;          // per (block, head) and page: largest key [D/2], smallest key [D/2], rounded outward
  u8 *keyCodes;        // rows of D/2: keys between the block's extremes
  u8 *valueCodes;      // rows of D/2: values between the extremes of their group of 32 channels
  __half2 *valueScale; // rows of D/32 pairs (step, low)
  float *valueSum;     // per (block, head): sum[D] of the sequence's values up to and including the block
  u8 *tokenCodes;      // rows of D/2: keys between the token's own extremes; null unless asked for
  __half2 *tokenScale; // rows of one pair (step, low)
  const int *table;    // [batch][tableStride] block numbers
  const int *lens;     // [batch] tokens
  const __half *q;     // [batch][kvHeads·group][D]
  __half *out;         // as q
  // Scratch, per unit.
  float *scores;       // [G][maxBlocks·16] upper bounds of pages' logits
  u8 *pages;           // [maxBlocks·16] heads that a page is a candidate of
  short *logits;       // [maxBlocks·256][G] estimated, relative to reference
  u32 *list;           // [maxBlocks·256] survivors: token | heads << 24. A rank's exactly read ones from the start of its range up, the others from its end down
  int2 *counts;        // [RANKS] exactly read survivors, others; -1 of a unit that is read whole
  float2 *held;        // [HEADS] estimated mass that the survivors hold; reference logit, in octaves
  float4 *stats;       // [HEADS] candidates, own survivors, exactly read by the unit, others
  // Scratch of the step.
  int4 *items;         // [maxItems] unit, part, parts, dense
  int *control;        // items; items taken beyond the first of each block; blocks done; unused. Zero between steps
  float *partial;      // [maxItems][HEADS][D] sums
  float2 *partialTop;  // [maxItems][HEADS] maximum, sum of weights
  int *arrived;        // per unit: parts done. Zero between steps
  // New tokens.
  const __half *newK, *newV;  // append: [batch][kvHeads][D]; write: rows of tokenStride halves, heads headStride halves apart
  int tokenStride, headStride;
  int sequence, head, position, count;  // write: where `count` tokens go
  // Numbers.
  int batch, kvHeads, group, tableStride, maxBlocks, ranks, flags;
  int denseBelow;      // shorter sequences are read whole
  int quantum, denseQuantum;  // cost of an item, of survivors and of whole sequences: 5 an exactly read token, 1 another
  int maxParts;
  float scale;         // of logits, in octaves: log2(e)/sqrt(D)
  float keep;          // share of the pages that are candidates
  int budget;          // or that many pages, if not 0
  float exactMass, mass;  // estimated mass of the exactly read survivors, and of all
};

__device__ inline void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline u32 bits(__half2 h) { return *reinterpret_cast<u32 *>(&h); }
__device__ inline __half2 halves(u32 u) { return *reinterpret_cast<__half2 *>(&u); }
__device__ inline u32 times(u32 a, u32 b) { return bits(__hmul2(halves(a), halves(b))); }
__device__ inline float half_of(u32 u, int i) { return i ? __high2float(halves(u)) : __low2float(halves(u)); }

// Launches overlap: a kernel may start while the one ahead of it still runs, and waits here before it touches anything.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The ranks of a cluster share a unit and see each other's shared memory. Older devices have clusters of one.
__device__ inline int cluster_rank() {
  int r = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
#endif
  return r;
}
__device__ inline void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
__device__ inline u32 peek(const void *shared, int rank) {
#if __CUDA_ARCH__ >= 900
  u32 v;
  asm volatile("{ .reg .u32 a; mapa.shared::cluster.u32 a, %1, %2; ld.shared::cluster.u32 %0, [a]; }"
               : "=r"(v) : "r"((u32)__cvta_generic_to_shared(shared)), "r"(rank) : "memory");
  return v;
#else
  return *(const volatile u32 *)shared;
#endif
}
__device__ inline void poke(void *shared, int rank, u32 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .u32 a; mapa.shared::cluster.u32 a, %0, %1; st.shared::cluster.u32 [a], %2; }"
               :: "r"((u32)__cvta_generic_to_shared(shared)), "r"(rank), "r"(v) : "memory");
#else
  *(volatile u32 *)shared = v;
#endif
}

// prefetch brings a line towards the multiprocessors before it is asked for.
__device__ inline void prefetch(const void *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

__device__ inline float power(float octaves) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(octaves));
  return y;
}
__device__ inline short nearest(float x) {  // saturating
  short y;
  asm("cvt.rni.sat.s16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}

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

// Where value channel c of a row stands: thread r of eight holds channels 8r…8r+7 of each half of 64, four of each of two groups.
__device__ inline int value_group(int c) { return c / 64 * 2 + c % 8 / 4; }
