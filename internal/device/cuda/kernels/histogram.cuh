// What the stages of select share: who a thread block is, and histograms over a unit.
#pragma once
#include "product.cuh"

constexpr int WARPS = 8;  // most of a thread block of select

// What a unit learns of a head's weights: the last bins that are read exactly, and that survive; what the others weigh, of the window's upper end; and of that the tail's share.
struct Threshold {
  int exact, last;
  float rest, shrink;
};

template <int GP> struct SelectShared {
  u32 histogram[GP][BINS];
  u32 elsewhere[32];              // where lanes count what no histogram has
  float tile[GP < HEADS ? WARPS : 1][32 * GP];
  Threshold threshold[HEADS];
  int pageBin[HEADS];             // last bin of pages that are candidates
  int top[HEADS], bottom[HEADS], reference[HEADS];
  int shrink[HEADS];              // of the candidate pages, summed: 4096 a page
  u32 own[HEADS], candidates[HEADS];  // tokens, in the rank that joins the head
  float best[HEADS], span[HEADS];
  float2 mass[WARPS][GP];  // of a warp's exactly read survivors: what they weigh, and of that what a head owes to the others' survivors, which the histogram has among the rest
  float all[HEADS], kept[HEADS];  // estimated mass of the rank's candidates, and of what survived of them
  float tops[WARPS][HEADS], weights[WARPS][HEADS];
  u32 found[2][WARPS];
};

// one_of is 1 and no constant: of one, the compiler would make an instruction that counts the threads of each bin, one bin after the other.
__device__ inline u32 one_of(const Params &p) { return min(p.batch, 1); }

// ordered_unit is the unit that begins as the i-th.
__device__ inline int ordered_unit(const Params &p, int i) { return p.order == nullptr ? i : p.order[i / p.kvHeads] * p.kvHeads + i % p.kvHeads; }

// Rank is a thread block's share of a unit, and a thread's place in it.
template <int GP> struct Rank {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, ranks, rank, unit, sequence, head, G;
  __device__ Rank(const Params &p) : ranks(p.ranks), G(p.group) {
    rank = ranks > 1 ? cluster_rank() : 0;
    unit = ordered_unit(p, blockIdx.x / ranks);
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
  float *bases, *scores;  // of the unit's blocks, and of the pages that the rank scans
  u8 *marks;
  short *logits;
  int *candidate;  // the rank's list
  __device__ Range(const Params &p, const Rank<GP> &u, int n) : n(n) {
    const int blocks = (n + BLOCK - 1) / BLOCK;
    first = blocks * u.rank / u.ranks, end = blocks * (u.rank + 1) / u.ranks;
    newest = (n - 1) / PAGE, encoded = n / PAGE;
    table = p.table + u.sequence * p.tableStride;
    const size_t blockCap = (size_t)u.unit * p.maxBlocks;
    bases = p.bases + blockCap * 2 * HEADS;
    scores = p.scores + (blockCap + first) * PAGES * GP;
    marks = p.pages + blockCap * PAGES;
    logits = p.logits + blockCap * BLOCK * GP;
    candidate = p.candidates + blockCap * PAGES + first * PAGES;
  }
  // pages is the number of pages in the range, the newest included.
  __device__ int pages() const { return max(min(end * PAGES, newest + 1) - first * PAGES, 0); }
  // row is the first row of a block of the head.
  __device__ size_t slab(const Params &p, const Rank<GP> &u, int block) const { return (size_t)table[block] * p.kvHeads + u.head; }
};

template <int GP> __device__ inline void clear(SelectShared<GP> &sh) {
  for (int i = threadIdx.x; i < GP * BINS; i += blockDim.x) sh.histogram[i / BINS][i % BINS] = 0;
}

// join sums histograms over the unit's ranks, each in the rank that looks through it: rank g%ranks, which nobody else asks for this one.
template <int GP> __device__ inline void join(SelectShared<GP> &sh, const Rank<GP> &u, int count) {
  if (u.ranks == 1) return;
  for (int g = u.rank; g < count; g += u.ranks) {
#pragma unroll 2
    for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
      u32 x[RANKS], n = 0;
#pragma unroll
      for (int r = 0; r < RANKS; r++) x[r] = r < u.ranks ? peek(&sh.histogram[g][i], r) : 0;
#pragma unroll
      for (int r = 0; r < RANKS; r++) n += x[r];
      sh.histogram[g][i] = n;
    }
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

constexpr int EACH = BINS / 32;  // bins of a lane
static_assert(EACH == 32, "lanes look through their bins, and then together through those of one lane");

// own_bin is the i-th bin that a lane reads of its own: each lane begins elsewhere, so that they do not meet in a bank.
__device__ inline int own_bin(int i, int lane) { return lane * EACH + (i + lane) % EACH; }

// last_bin is the first bin by whose end a histogram holds `count` elements. One warp calls it.
template <int GP> __device__ inline int last_bin(const SelectShared<GP> &sh, int g, int count, int lane) {
  if (count <= 0) return 0;
  int sum = 0;
#pragma unroll 8
  for (int i = 0; i < EACH; i++) sum += sh.histogram[g][own_bin(i, lane)];
  const int held = before(sum, lane);
  const u32 lanes = __ballot_sync(~0u, held + sum >= count);
  if (lanes == 0) return BINS - 1;
  const int at = __ffs(lanes) - 1, n = sh.histogram[g][at * EACH + lane];
  return at * EACH + __ffs(__ballot_sync(~0u, __shfl_sync(~0u, held, at) + before(n, lane) + n >= count)) - 1;
}

// weight_of is the weight at a bin's upper edge, of that at the window's upper end.
__device__ inline float weight_of(int bin) { return power(-(float)bin * ((1 << BIN_SHIFT) / (float)PER_OCTAVE)); }

// Weights is a head's histogram as the lanes of a warp see it: what the lane's bins weigh and hold, and those of the lanes below.
struct Weights {
  float sum = 0, below, all;
  u32 count = 0, countBelow;
  int g, lane;
  template <int GP> __device__ Weights(const SelectShared<GP> &sh, int g, int lane) : g(g), lane(lane) {
#pragma unroll 8
    for (int i = 0; i < EACH; i++) {
      const int bin = own_bin(i, lane);
      const u32 n = sh.histogram[g][bin];
      sum += n * weight_of(bin), count += n;
    }
    below = before(sum, lane), countBelow = before(count, lane);
    all = __shfl_sync(~0u, below + sum, 31);
  }

  // cut is the first bin by whose end the weights hold share p of all: what is kept counts at its bin's lower edge and the rest at its upper, so that the true share is never
  // less. `rest` is what is left, counted at the bins' middles, and `own` how many are kept.
  template <int GP> __device__ int cut(const SelectShared<GP> &sh, float p, float &rest, u32 &own) const {
    const float step = power(-(1 << BIN_SHIFT) / (float)PER_OCTAVE), middle = power(-(1 << BIN_SHIFT) / (float)PER_OCTAVE / 2);
    auto enough = [&](float held) { return held * step >= p * (held * step + fmaxf(all - held, 0)); };
    const u32 lanes = p >= 1 ? 0 : __ballot_sync(~0u, enough(below + sum));
    if (lanes == 0) {
      rest = 0, own = __shfl_sync(~0u, countBelow + count, 31);
      return BINS - 1;
    }
    const int at = __ffs(lanes) - 1, bin = at * EACH + lane;
    const u32 n = sh.histogram[g][bin];
    const float w = n * weight_of(bin), held = __shfl_sync(~0u, below, at) + before(w, lane) + w;
    const u32 kept = __shfl_sync(~0u, countBelow, at) + before(n, lane) + n;
    const u32 bins = __ballot_sync(~0u, enough(held));  // empty if rounding alone kept the last bin from it
    const int last = bins != 0 ? __ffs(bins) - 1 : 31;
    rest = fmaxf(all - __shfl_sync(~0u, held, last), 0) * middle, own = __shfl_sync(~0u, kept, last);
    return at * EACH + last;
  }
};
