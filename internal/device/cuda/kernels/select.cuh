// select is a sparse step of attention in one launch: page bounds → candidate pages → estimated logits → threshold on the weights → lists of survivors → attention over those.
// Grid: batch·kvHeads, 128, 256 or 512 threads; GP is the group rounded up to a power of two. `few` is the same for steps of few units, which wait for memory more often than they use it: a cluster of
// `ranks` thread blocks shares a unit, each has every ranks-th block of it, and what one stage leaves for the next is in shared memory where there is room.
#pragma once
#include "histogram.cuh"
#include "pages.cuh"
#include "estimate.cuh"
#include "survivors.cuh"
#include "attend.cuh"

// survivors_of runs the stages up to the lists, and returns how many survivors the rank has listed: exactly read ones, others; or −1 if p.stages ends it. The unit has to wait then, once.
template <int D, int GP, bool SPLIT>
__device__ inline int2 survivors_of(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, Range<GP, SPLIT> &r, WarpMemory<D, GP> *memory) {
  auto ends = [&](int stage) {  // true if that is all that is measured
    if (p.stages == stage) u.arrive();
    return p.stages == stage;
  };
  const int2 nothing = make_int2(-1, -1);
  // The newest page has no codes, or they are young: its logits are exact. Those of the first page, exact as well, often are the largest.
  float fresh[4] = {};
  auto edges = [&] {
    if (u.warp == 0) exact_page<D>(sh, p, u, r.n, r.newest, fresh);
    if (u.warp == 1) {
      float first[4] = {};
      exact_page<D>(sh, p, u, r.n, 0, first);
    }
  };
  const bool every = p.flags & EVERY_PAGE, shared = every || p.flags & SHARED;
  Scanned scanned{nullptr, r.own};
  // Where a unit has one thread block, memory's speed bounds the scan: only blocks where logits may be highest are looked into, with three times the pages that are chosen.
  const int looked = (3 * page_budget(p, r) + PAGES - 1) / PAGES + 1, rooms = u.warps * sizeof(WarpMemory<D, GP>) / sizeof(float);
  const bool coarse = !SPLIT && shared && !every && looked * 8 < r.own * 7 && r.own * (1 + GP) <= rooms;
  if constexpr (!SPLIT) {
    edges();
    block_bases<D>(p, u, r, coarse ? (float *)memory + r.own : nullptr);
  }
  u32 q[D / 8];
  scaled_queries<D>(q, p, u.unit, u.lane);
  if (!SPLIT) __syncthreads();
  if (ends(1)) return nothing;
  if constexpr (!SPLIT) {
    if (coarse) scanned = choose_blocks(sh, u, r, looked, (float *)memory + r.own, (int *)memory);
  }
  // Scores that find room in shared memory stay there.
  const int listed = coarse ? (scanned.count + 3) / 4 * 4 : 0;
  if (listed + scanned.count * PAGES * GP <= rooms) r.scores = (float *)memory + listed;
  if (SPLIT || !every) scan_pages<D>(sh, p, u, r, scanned, q, every);
  u.arrive();
  if (SPLIT) edges();
  u.wait();
  if (ends(2)) return nothing;
  int found = r.pages();
  if (!every) {
    found = choose_pages(sh, p, u, r, scanned);
    u.wait();
    clear(sh);
  }
  __syncthreads();
  if (ends(3)) return nothing;
  Ring<D> &ring = memory[u.warp].candidates;
  if (p.flags & TOKEN_CODES) {
    if (shared) estimate_logits<D, GP, true, true>(sh, p, u, r, q, fresh, found, every, ring);
    else estimate_logits<D, GP, false, true>(sh, p, u, r, q, fresh, found, every, ring);
  } else {
    if (shared) estimate_logits<D, GP, true, false>(sh, p, u, r, q, fresh, found, every, ring);
    else estimate_logits<D, GP, false, false>(sh, p, u, r, q, fresh, found, every, ring);
  }
  if (ends(4)) return nothing;
  find_thresholds(sh, p, u);
  if (p.stages == 5) return nothing;
  let_next_start();
  const int2 count = list_survivors<D>(sh, p, u, r, found, every);
  return p.stages == 6 ? nothing : count;
}

template <int GP> struct StepShared {
  SelectShared<GP> select;
  ClusterJoin join;
};

template <int D, int GP, bool SPLIT> __device__ void select_unit(const Params &p) {
  typedef StepShared<GP> Shared;
  SHARED_MEMORY(Shared, sh);
  DYNAMIC_MEMORY(dynamic);
  WarpMemory<D, GP> *const memory = (WarpMemory<D, GP> *)dynamic;
  // Lengths and tables are there before the launch ahead begins. Blocks are looked up while the length is on its way, those that the sequence does not reach as well.
  const Rank<GP> u(p, SPLIT ? p.ranks : 1);
  const int room = SPLIT ? Range<GP, SPLIT>::room(p, u) : 0, block = threadIdx.x * u.ranks + u.rank;
  const int at = (int)threadIdx.x < room && block < p.maxBlocks ? p.table[u.sequence * p.tableStride + block] : 0, n = p.lens[u.sequence];
  const bool whole = n < p.denseBelow;
  Range<GP, SPLIT> r(p, u, n, memory + u.warps);
  if (SPLIT && (int)threadIdx.x < room) ((int *)r.table)[threadIdx.x] = at;
  prepare(sh.select);
  __syncthreads();
  if (!whole && u.warp < 2) expect_page<D>(p, u, u.warp == 0 ? r.newest : 0);
  if (SPLIT && !whole) expect_blocks<D>(p, u, r);
  wait_for_previous();
  if (n <= 0) return;
  int2 count = make_int2(r.tokens(), 0);
  if (whole) {
    let_next_start();
    if (threadIdx.x == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(-1, n);
    u.arrive();
  } else {
    count = survivors_of<D>(sh.select, p, u, r, memory);
  }
  u.wait();
  if (count.x < 0) return;
  attend_survivors<D>(sh.select, sh.join, memory, p, u, r, count, whole);
}
