// What the stages of select share: who a thread block is, and histograms over a unit.
#pragma once
#include "product.cuh"

constexpr int WARPS = 16;  // most of a thread block of select

// What a unit learns of a head's weights: the last bins that are read exactly, and that survive; what the others weigh, of the window's upper end; and of that the tail's share.
struct Threshold {
  int exact, last;
  float rest, shrink;
};

template <int GP> struct SelectShared {
  alignas(16) u32 histogram[GP][BINS];
  union {
    u32 coarse[RANKS][GP][32];             // of each rank's histograms, what the bins of a lane hold: a count, or the bits of a weight
    float shares[GP * 256 + 4 * RANKS];    // when thresholds are known: join_unit's
  };
  u32 elsewhere[32];              // where lanes count what no histogram has
  union {
    float tile[GP < HEADS ? WARPS : 1][32 * GP];
    u32 counts[GP][32];           // then: what the bins of a lane hold of the rank
  };
  Threshold threshold[HEADS];
  int pageBin[HEADS];             // last bin of pages that are candidates
  int top[HEADS], bottom[HEADS], reference[HEADS];
  int shrink[HEADS];              // of the candidate pages, summed: 4096 a page
  u32 own[HEADS], candidates[HEADS];  // tokens of the rank
  float best[HEADS], span[HEADS];
  float2 mass[WARPS][GP];  // of a warp's exactly read survivors: what they weigh, and of that what a head owes to the others' survivors, which the histogram has among the rest
  u32 found[2][WARPS];
};

// one_of is 1 and no constant: of one, the compiler would make an instruction that counts the threads of each bin, one bin after the other.
__device__ inline u32 one_of(const Params &p) { return min(p.batch, 1); }

// ordered_unit is the unit that begins as the i-th.
__device__ inline int ordered_unit(const Params &p, int i) {
  const int at = quotient(i, p.kvHeads);
  return p.order == nullptr ? i : p.order[at] * p.kvHeads + i - at * p.kvHeads;
}

// Rank is a thread block's share of a unit, and a thread's place in it.
template <int GP> struct Rank {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, ranks, rank, part, unit, sequence, head, G;
  __device__ Rank(const Params &p, int ranks, int parts = 1) : ranks(ranks), G(p.group) {  // parts: clusters of a unit
    const int cluster = quotient(blockIdx.x, ranks), at = parts == 1 ? cluster : quotient(cluster, parts);
    rank = ranks > 1 ? cluster_rank() : 0, part = cluster - at * parts, unit = ordered_unit(p, at);
    sequence = quotient(unit, p.kvHeads), head = unit - sequence * p.kvHeads;
  }
  // share is where a warp's part of n things begins; the number of warps is a power of two.
  __device__ int share(int n, int warp) const { return n * warp >> (__ffs(warps) - 1); }
  // sync waits for all threads of the unit: arrive and then wait, between which a thread may do what others do not wait for.
  __device__ void sync() const { arrive(), wait(); }
  __device__ void arrive() const {
    if (ranks > 1) cluster_arrive();
  }
  // read arrives after nothing but reading of the other ranks' memory.
  __device__ void read() const {
    if (ranks > 1) cluster_read();
  }
  __device__ void wait() const {
    if (ranks > 1) cluster_wait();
    else __syncthreads();
  }
  // total sums over the ranks what each one's shared memory holds at the same place.
  __device__ u32 total(const u32 *at) const {
    if (ranks == 1) return *at;
    u32 x[RANKS], sum = 0;
#pragma unroll
    for (int r = 0; r < RANKS; r++) x[r] = r < ranks ? peek(at, r) : 0;
#pragma unroll
    for (int r = 0; r < RANKS; r++) sum += x[r];
    return sum;
  }
};

// Range is the rank's share of the unit's blocks: every ranks-th, so that each has its share of the newest tokens. Pages and tokens are numbered within it. And where its data and scratch are: if ranks
// SPLIT a unit, what there is of blocks and pages is in shared memory, and so is what there is of tokens if it is NEAR.
template <int GP, bool SPLIT> struct Range {
  int n, own, newest, encoded;  // tokens of the sequence; blocks of the rank; pages of the sequence
  int rank, ranks;
  bool newestHere;              // the newest page is the rank's last one
  const int *table;             // of the rank's blocks
  float *bases, *scores;  // of blocks, and of the pages that are scanned
  u8 *marks, *seen;       // of pages; seen: in memory
  short *logits;
  int *candidate;  // pages that are
  u32 *list;
  __device__ Range(const Params &p, const Rank<GP> &u, int n, void *memory) : n(n), newest((n - 1) / PAGE), encoded(n / PAGE), rank(u.rank), ranks(u.ranks) {
    const int blocks = (n + BLOCK - 1) / BLOCK, least = quotient(blocks, u.ranks), most = blocks - least * u.ranks;  // that many ranks have one more
    own = least + (u.rank < most ? 1 : 0);
    const size_t at = (size_t)u.unit * p.maxBlocks + u.rank * least + min(u.rank, most);
    table = p.table + u.sequence * p.tableStride, scores = p.scores + at * PAGES * GP, marks = seen = p.pages + at * PAGES;
    bases = p.bases + at * 2 * HEADS, candidate = p.candidates + at * PAGES, logits = p.logits + at * BLOCK * GP, list = p.list + at * BLOCK;
    if (SPLIT) place(memory, room(p, u), p.flags & NEAR);
    newestHere = own > 0 && block(own - 1) == newest / PAGES;
  }
  // room is how many blocks a rank's memory is laid out for; operator.go knows what they take.
  __device__ static int room(const Params &p, const Rank<GP> &u) { return quotient(p.maxBlocks + u.ranks - 1, u.ranks); }
  __device__ void place(void *memory, int room, bool near) {
    bases = (float *)memory, candidate = (int *)(bases + room * 2 * HEADS);
    marks = (u8 *)(candidate + room * PAGES), table = (int *)(marks + room * PAGES);
    if (near) list = (u32 *)table + (room + 3) / 4 * 4, logits = (short *)(list + room * BLOCK);
  }
  __device__ int block(int i) const { return rank + i * ranks; }
  __device__ int page(int i) const { return block(i / PAGES) * PAGES + i % PAGES; }  // of the sequence
  // pages is the number of pages, the newest included, and tokens that of tokens.
  __device__ int pages() const { return own * PAGES - (newestHere ? PAGES - 1 - newest % PAGES : 0); }
  __device__ int tokens() const { return pages() * PAGE - (newestHere ? PAGE - 1 - (n - 1) % PAGE : 0); }
  // slab is the place of a block of the head among the slabs.
  __device__ size_t slab(const Params &p, const Rank<GP> &u, int i) const { return (size_t)table[i] * p.kvHeads + u.head; }
};

template <int GP> __device__ inline void clear(SelectShared<GP> &sh) {
  for (int i = threadIdx.x; i < GP * BINS / 4; i += blockDim.x) ((uint4 *)sh.histogram)[i] = make_uint4(0, 0, 0, 0);
}

// prepare makes it ready for a unit.
template <int GP> __device__ inline void prepare(SelectShared<GP> &sh) {
  clear(sh);
  if (threadIdx.x < HEADS) {
    sh.top[threadIdx.x] = sh.bottom[threadIdx.x] = ordered(-INFINITY);
    sh.reference[threadIdx.x] = ordered(-INFINITY);
    sh.shrink[threadIdx.x] = 0, sh.candidates[threadIdx.x] = 0;
  }
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

// weight_of is the weight at a bin's upper edge, of that at the window's upper end.
__device__ inline float weight_of(int bin) { return power(-(float)bin * ((1 << BIN_SHIFT) / (float)PER_OCTAVE)); }

// gather sums the bins of each lane and tells the unit's ranks: what they hold, or what that weighs; then what they hold of the rank is in sh.counts. All threads take four bins at a time. The unit must
// sync before any is looked through.
template <bool WEIGHTS, int GP> __device__ inline void gather(SelectShared<GP> &sh, const Rank<GP> &u, int count) {
  constexpr int THREADS = EACH / 4;  // for a lane's bins
  static_assert(THREADS >= RANKS, "each tells a rank");
  for (int i = threadIdx.x; i < count * (BINS / 4); i += blockDim.x) {
    const int g = i / (BINS / 4), bin = i % (BINS / 4) * 4, to = u.lane % THREADS;
    const uint4 n = *(const uint4 *)&sh.histogram[g][bin];
    const float step = weight_of(1);
    float weight = WEIGHTS ? weight_of(bin) * (n.x + step * (n.y + step * (n.z + step * n.w))) : 0;
    u32 held = n.x + n.y + n.z + n.w;
#pragma unroll
    for (int d = 1; d < THREADS; d *= 2) {
      held += __shfl_xor_sync(~0u, held, d);
      if (WEIGHTS) weight += __shfl_xor_sync(~0u, weight, d);
    }
    if (to < u.ranks) poke(&sh.coarse[u.rank][g][bin / EACH], to, WEIGHTS ? (u32)__float_as_int(weight) : held);
    if (WEIGHTS && to == 0) sh.counts[g][bin / EACH] = held;
  }
}

// last_bin is the first bin by whose end the unit's histogram holds `count` elements. One warp calls it, after gather.
template <int GP> __device__ inline int last_bin(const SelectShared<GP> &sh, const Rank<GP> &u, int g, int count) {
  if (count <= 0) return 0;
  int sum = 0;
  for (int r = 0; r < u.ranks; r++) sum += sh.coarse[r][g][u.lane];
  const int held = before(sum, u.lane);
  const u32 lanes = __ballot_sync(~0u, held + sum >= count);
  if (lanes == 0) return BINS - 1;
  const int at = __ffs(lanes) - 1, n = u.total(&sh.histogram[g][at * EACH + u.lane]);
  return at * EACH + __ffs(__ballot_sync(~0u, __shfl_sync(~0u, held, at) + before(n, u.lane) + n >= count)) - 1;
}

// Weights is a head's histogram over the unit as the lanes of a warp see it: what the lane's bins weigh, and those of the lanes below. One warp makes it, after gather.
struct Weights {
  float sum, below, all;
  int g, lane;
  template <int GP> __device__ Weights(const SelectShared<GP> &sh, const Rank<GP> &u, int g) : g(g), lane(u.lane) {
    sum = 0;
    for (int r = 0; r < u.ranks; r++) sum += __int_as_float(sh.coarse[r][g][lane]);
    below = before(sum, lane);
    all = __shfl_sync(~0u, below + sum, 31);
  }
  // enough says whether what weighs that much holds share p of all: what is kept counts at its bin's lower edge and the rest at its upper, so that the true share is never less.
  __device__ bool enough(float held, float p) const {
    const float step = power(-(1 << BIN_SHIFT) / (float)PER_OCTAVE);
    return held * step >= p * (held * step + fmaxf(all - held, 0));
  }
  // lane_of is the lane in whose bins share p is reached; none: −1.
  __device__ int lane_of(float p) const { return p >= 1 ? -1 : __ffs(__ballot_sync(~0u, enough(below + sum, p))) - 1; }
  // cut is the first bin by whose end the weights hold share p of all, in lane `at`, where the lane has counted n of bin at·EACH+lane. `rest` is what is left, counted at the bins' middles.
  __device__ int cut(float p, int at, u32 n, float &rest) const {
    rest = 0;
    if (at < 0) return BINS - 1;
    const float w = n * weight_of(at * EACH + lane), held = __shfl_sync(~0u, below, at) + before(w, lane) + w;
    const u32 bins = __ballot_sync(~0u, enough(held, p));  // empty if rounding alone kept the last bin from it
    const int last = bins != 0 ? __ffs(bins) - 1 : 31;
    rest = fmaxf(all - __shfl_sync(~0u, held, last), 0) * power(-(1 << BIN_SHIFT) / (float)PER_OCTAVE / 2);
    return at * EACH + last;
  }
};
