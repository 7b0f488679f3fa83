// select runs Twilight's pipeline up to the lists of survivors, in one launch: page bounds → candidate pages → estimated logits → threshold on the weights → lists.
// A cluster of `ranks` thread blocks shares a unit, each a range of its blocks. Grid: batch·kvHeads·ranks, 128 or 256 threads; GP is the group rounded up to a power of two.
#pragma once
#include "histogram.cuh"
#include "pages.cuh"
#include "estimate.cuh"
#include "survivors.cuh"

// survivors_of runs the pipeline and returns how many survivors the rank has listed; none if p.stages ends it. After it the unit has to wait, once.
template <int D, int GP, bool LOCAL> __device__ inline int2 survivors_of(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, LOCAL> &r, void *rings) {
  // The newest page has no codes, or they are young: its logits are exact. Those of the first page, exact as well, often are the largest.
  if (u.warp < 2) expect_page<D>(p, u, u.warp == 0 ? r.newest : 0);
  clear(sh);
  if (threadIdx.x < HEADS) {
    sh.top[threadIdx.x] = sh.bottom[threadIdx.x] = ordered(-INFINITY);
    sh.reference[threadIdx.x] = ordered(-INFINITY);
    sh.shrink[threadIdx.x] = 0, sh.candidates[threadIdx.x] = 0;
  }
  u32 q[D / 8];
  scaled_queries<D>(q, p, u.unit, u.lane);
  __syncthreads();
  const bool every = p.flags & EVERY_PAGE;
  const int2 nothing = make_int2(0, 0);
  if (p.stages == 1) return u.arrive(), nothing;
  scan_pages<D>(sh, p, u, r, q, every);
  u.arrive();
  float fresh[4] = {};
  if (u.warp == 0) exact_page<D>(sh, p, u, r.n, r.newest, fresh);
  if (u.warp == 1) {
    float first[4] = {};
    exact_page<D>(sh, p, u, r.n, 0, first);
  }
  u.wait();
  int found = r.pages();
  if (p.stages == 2) return u.arrive(), nothing;
  if (!every) {
    found = choose_pages(sh, p, u, r);
    u.wait();
    clear(sh);
  }
  __syncthreads();
  if (p.stages == 3) return u.arrive(), nothing;
  const bool shared = every || p.flags & SHARED;
  if (p.flags & TOKEN_CODES) {
    if (shared) estimate_logits<D, GP, true, true>(sh, p, u, r, q, fresh, found, every, rings);
    else estimate_logits<D, GP, false, true>(sh, p, u, r, q, fresh, found, every, rings);
  } else {
    if (shared) estimate_logits<D, GP, true, false>(sh, p, u, r, q, fresh, found, every, rings);
    else estimate_logits<D, GP, false, false>(sh, p, u, r, q, fresh, found, every, rings);
  }
  if (p.stages == 4) return u.arrive(), nothing;
  find_thresholds(sh, p, u);
  if (p.stages == 5) return nothing;
  let_next_start();
  return list_survivors(sh, p, u, r, found, every);
}

template <int D, int GP> __device__ void select_unit(const Params &p) {
  SHARED_MEMORY(SelectShared<GP>, sh);
  DYNAMIC_MEMORY(memory);
  wait_for_previous();
  const Rank<GP> u(p);
  const int n = p.lens[u.sequence];
  if (n <= 0) return;
  if (n < p.denseBelow) {
    if (threadIdx.x == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(-1, n);
    if (u.rank == 0 && u.warp == 0) enqueue(p, u.unit, 0, make_int2(-1, n), u.lane);
    let_next_start();
    return;
  }
  survivors_of<D>(sh, p, u, Range<GP, false>(p, u, n, nullptr), memory);
  u.wait();  // no rank leaves while others look at its memory
}
