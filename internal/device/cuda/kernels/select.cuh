// select is a sparse step of attention in one launch: page bounds → candidate pages → estimated logits → threshold on the weights → lists of survivors → attention over those.
// A cluster of `ranks` thread blocks shares a unit, each a range of its blocks. Grid: batch·kvHeads·ranks, 128 or 256 threads; GP is the group rounded up to a power of two.
#pragma once
#include "histogram.cuh"
#include "pages.cuh"
#include "estimate.cuh"
#include "survivors.cuh"
#include "attend.cuh"


// survivors_of runs the pipeline up to the lists. It returns what the rank has listed, to be read exactly and otherwise; x is −1 if only earlier stages are measured.
template <int D, int GP> __device__ inline int2 survivors_of(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, Range<GP> &r) {
  clear(sh);
  if (threadIdx.x < HEADS) {
    sh.top[threadIdx.x] = sh.bottom[threadIdx.x] = ordered(-INFINITY);
    sh.reference[threadIdx.x] = ordered(-INFINITY);
    sh.shrink[threadIdx.x] = 0, sh.candidates[threadIdx.x] = 0;
  }
  __syncthreads();

  // The newest page has no codes, or they are young: its logits are exact. Those of the first page, exact as well, often are the largest.
  float fresh[4] = {};
  if (u.warp == 0) exact_page<D>(sh, p, u, r, r.newest, fresh);
  if (u.warp == 1) {
    float first[4] = {};
    exact_page<D>(sh, p, u, r, 0, first);
  }
  // Where a unit has one thread block, memory's speed bounds the scan: only blocks where logits may be highest are looked into, with three times the pages that are chosen.
  const bool every = p.flags & EVERY_PAGE, shared = every || p.flags & SHARED;
  const int blocks = r.end - r.first, looked = (3 * page_budget(p, r) + PAGES - 1) / PAGES + 1, rooms = u.warps * sizeof(WarpMemory<D, GP>) / sizeof(float);
  const bool coarse = u.ranks == 1 && shared && !every && looked * 8 < blocks * 7 && blocks * (1 + GP) <= rooms;
  DYNAMIC_MEMORY(memory);
  int *const list = (int *)memory;
  float *const bounds = coarse ? (float *)memory + blocks : nullptr;
  block_bases<D>(p, u, r, bounds);
  u32 q[D / 8];
  scaled_queries<D>(q, p, u.unit, u.lane);
  __syncthreads();
  const int2 none = make_int2(-1, 0);
  auto ends = [&](int stage) {  // true if that is all that is measured; no rank leaves while others look at its memory
    if (p.stages != stage) return false;
    u.sync();
    return true;
  };
  if (ends(1)) return none;
  int found = r.pages();
  if (!every) {
    Scanned scanned{nullptr, r.first, blocks};
    if (coarse) scanned = choose_blocks(sh, u, r, looked, bounds, list);
    // Scores that find room in shared memory stay there.
    const int listed = coarse ? (scanned.count + 3) / 4 * 4 : 0;
    if (listed + scanned.count * PAGES * GP <= rooms) r.scores = (float *)memory + listed;
    scan_pages<D>(sh, p, u, r, scanned, q);
    if (ends(2)) return none;
    found = choose_pages(sh, p, u, r, scanned);
  }
  if (ends(3)) return none;
  Ring<D> &ring = ((WarpMemory<D, GP> *)memory)[u.warp].candidates;
  if (p.flags & TOKEN_CODES) shared ? estimate_logits<D, GP, true, true>(sh, ring, p, u, r, q, fresh, found, every) : estimate_logits<D, GP, false, true>(sh, ring, p, u, r, q, fresh, found, every);
  else shared ? estimate_logits<D, GP, true, false>(sh, ring, p, u, r, q, fresh, found, every) : estimate_logits<D, GP, false, false>(sh, ring, p, u, r, q, fresh, found, every);
  if (ends(4)) return none;
  find_thresholds(sh, p, u);
  if (ends(5)) return none;
  let_next_start();
  const int2 count = list_survivors(sh, p, u, r, found, every);
  return ends(6) ? none : count;
}

template <int D, int GP> __device__ void select_unit(const Params &p) {
  SHARED_MEMORY(SelectShared<GP>, sh);
  wait_for_previous();
  const Rank<GP> u(p);
  const int n = p.lens[u.sequence];
  if (n <= 0) return;
  Range<GP> r(p, u, n);
  const bool whole = n < p.denseBelow;
  int2 count;
  if (whole) {
    let_next_start();
    count = make_int2(max(min(r.end * BLOCK, n) - r.first * BLOCK, 0), 0);
    if (threadIdx.x == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(-1, n);
  } else {
    count = survivors_of<D>(sh, p, u, r);
    if (count.x < 0) return;
  }
  attend_survivors<D>(sh, p, u, r, count, whole);
}
