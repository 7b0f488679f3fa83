// What the stages of select share: who a thread block is, and histograms over a unit.
#pragma once
#include "product.cuh"

constexpr int WARPS = 8;  // most of a thread block of select

template <int GP> struct SelectShared {
  u32 histogram[GP][BINS + BINS / 32];
  u32 joined[BINS + BINS / 32];  // padded
  float tile[WARPS][32 * GP];
  int threshold[HEADS][4];       // last bin that is kept: exactly read, at all; first bin that is not empty; last bin of pages
  int top[HEADS], bottom[HEADS], reference[HEADS];
  float best[HEADS], span[HEADS];
  float mass[WARPS][GP][4];
  u32 found[2][WARPS];
};

// Rank is a thread block's share of a unit, and a thread's place in it.
template <int GP> struct Rank {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, ranks, rank, unit, sequence, head, G;
  __device__ Rank(const Params &p) : ranks(p.ranks), G(p.group) {
    rank = ranks > 1 ? cluster_rank() : 0;
    unit = blockIdx.x / ranks;
    sequence = unit / p.kvHeads, head = unit % p.kvHeads;
  }
  // sync waits for all threads of the unit.
  __device__ void sync() const {
    if (ranks > 1) cluster_sync();
    else __syncthreads();
  }
};

// Range is the rank's range of blocks, and where its data and scratch are.
template <int GP> struct Range {
  int n, first, end, newest, encoded;  // tokens; blocks; pages
  const int *table;
  float *bases, *scores;
  u8 *marks;
  short *logits;
  int *candidate;  // the list of candidate pages takes the place of scores that were read before
  __device__ Range(const Params &p, const Rank<GP> &u, int n) : n(n) {
    const int blocks = (n + BLOCK - 1) / BLOCK;
    first = blocks * u.rank / u.ranks, end = blocks * (u.rank + 1) / u.ranks;
    newest = (n - 1) / PAGE, encoded = n / PAGE;
    table = p.table + u.sequence * p.tableStride;
    const size_t blockCap = (size_t)u.unit * p.maxBlocks;
    bases = p.bases + blockCap * 2 * HEADS;
    scores = p.scores + blockCap * PAGES * GP;
    marks = p.pages + blockCap * PAGES;
    logits = p.logits + blockCap * BLOCK * GP;
    candidate = (int *)scores + first * PAGES * GP;
  }
  // pages is the number of pages in the range, the newest included.
  __device__ int pages() const { return max(min(end * PAGES, newest + 1) - first * PAGES, 0); }
  // row is the first row of a block of the head.
  __device__ size_t slab(const Params &p, const Rank<GP> &u, int block) const { return (size_t)table[block] * p.kvHeads + u.head; }
};

template <int GP> __device__ inline void clear(SelectShared<GP> &sh) {
  for (int i = threadIdx.x; i < GP * BINS; i += blockDim.x) sh.histogram[i / BINS][i % BINS] = 0;
}

// padded is where a bin stands once nothing is counted any more: lanes that read 32 bins each do not meet in a bank.
__device__ inline int padded(int bin) { return bin + bin / 32; }

// join sums a histogram over the ranks into `joined`.
template <int GP> __device__ inline void join(SelectShared<GP> &sh, int g, int ranks) {
  for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
    u32 n = 0;
    if (ranks == 1) {
      n = sh.histogram[g][i];
    } else {
      u32 x[RANKS];
#pragma unroll
      for (int r = 0; r < RANKS; r++) x[r] = r < ranks ? peek(&sh.histogram[g][i], r) : 0;
#pragma unroll
      for (int r = 0; r < RANKS; r++) n += x[r];
    }
    sh.joined[padded(i)] = n;
  }
  __syncthreads();
}

// before sums over the lanes below.
template <typename T> __device__ inline T before(T x, int lane) {
  T sum = x;
  for (int d = 1; d < 32; d *= 2) {
    const T y = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += y;
  }
  return sum - x;
}

// last_bin is the first bin by whose end a padded histogram holds `count` elements. One warp calls it.
__device__ inline int last_bin(const u32 *bins, int count, int lane) {
  constexpr int EACH = BINS / 32;
  static_assert(EACH == 32, "padded bins are laid out for 32 a lane");
  int sum = 0;
#pragma unroll 8
  for (int i = 0; i < EACH; i++) sum += bins[lane * 33 + i];
  int held = before(sum, lane), at = BINS - 1;
  if (held + sum >= count && held < count) {  // at most one lane
    for (int i = 0; i < EACH; i++) {
      held += bins[lane * 33 + i];
      if (held >= count) {
        at = lane * EACH + i;
        break;
      }
    }
  } else if (count <= 0) {
    at = 0;
  }
  __syncwarp();
  return __reduce_min_sync(~0u, at);
}

// mass_bin is the first bin by whose end the weights hold share p of all. What is kept counts at its bin's lower edge and the rest at its upper, so that the
// true share is never less. One warp calls it.
__device__ inline int mass_bin(const u32 *bins, float p, int lane) {
  if (p >= 1) return BINS - 1;
  constexpr int EACH = BINS / 32, AN_OCTAVE = PER_OCTAVE >> BIN_SHIFT;
  // Weights relative to the lane's first bin, and of that to the first of all.
  const float step = exp2f(-1.0f / AN_OCTAVE), edge = exp2f(-(float)(lane * EACH) / AN_OCTAVE);
  float sum = 0, e = edge;
#pragma unroll 8
  for (int i = 0; i < EACH; i++, e *= step) sum += e * bins[lane * 33 + i];
  float held = before(sum, lane);
  const float all = __shfl_sync(~0u, held + sum, 31);
  int at = BINS - 1;
  bool done = false;
  e = edge;
#pragma unroll 8
  for (int i = 0; i < EACH; i++, e *= step) {
    held += e * bins[lane * 33 + i];
    const float lower = held * step;
    if (!done && lower >= p * (lower + fmaxf(all - held, 0))) at = lane * EACH + i, done = true;
  }
  return __reduce_min_sync(~0u, at);
}
