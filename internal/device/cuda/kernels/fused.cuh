// fused is the whole operator in one launch, for steps of few units: a cluster of thread blocks shares a unit, each with every ranks-th block of it, selects and then attends at once to
// its own survivors, and the ranks' outputs are joined through each other's memory. What it computes is what select and attend do. Grid: batch·kvHeads·ranks, 256 threads.
#pragma once
#include "cluster.cuh"
#include "select.cuh"

// attend_own takes in a rank's survivors, or all of its tokens if those are `whole`, in tiles of sixteen that the warps share: first those that are not read exactly.
template <int D, int GP> __device__ inline void attend_own(Running<D> &run, const SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, true> &r, int2 count, bool whole) {
  const int g = u.lane / 4, bodies = (count.y + 15) / 16, tiles = bodies + (count.x + 15) / 16;
  auto find = [&](int tile, u32 &entry, u32 &row) {  // of the token that lane%16 has; beyond the last it weighs nothing, but what is read of it must be finite
    const bool body = tile < bodies;
    const int i = (body ? tile : tile - bodies) * 16 + u.lane % 16, n = body ? count.y : count.x, at = min(i, n - 1);
    entry = whole ? (u32)at | 0xffu << 24 : r.list[body ? r.own * BLOCK - 1 - at : at];
    const int token = entry & 0xffffff;
    row = r.slab(p, u, token / BLOCK) * BLOCK + token % BLOCK;
    if (i >= n) entry = 0;
  };
  u32 entry, row;
  for (int t = u.warp + u.warps; t < tiles; t += u.warps) {  // the first is read at once
    find(t, entry, row);
    if (t < bodies) {
      prefetch(p.valueCodes + (size_t)row * (D / 2)), prefetch(p.valueScale + (size_t)row * (D / 32));
    } else {
      const __half *at = (u.lane < 16 ? p.k : p.v) + (size_t)row * D;
#pragma unroll
      for (int c = 0; c < D; c += 64) prefetch(at + c);
    }
  }
  int t = u.warp;
  if (t < bodies) {
    float low[4] = {};
    const float reference = g < u.G ? window_end(sh, g) : 0;
    for (; t < bodies; t += u.warps) {
      find(t, entry, row);
      CodeTile<D> tile;
      tile.load(p, row, u.lane);
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const u32 e = __shfl_sync(~0u, entry, slot(i, u.lane));
        x[i] = e == 0 ? NOTHING : g < u.G ? reference - r.logits[(e & 0xffffff) * GP + g] * (1.0f / PER_OCTAVE) : 0;
      }
      run.codes(tile, x, low, u.lane);
    }
    run.settle(low, u.lane);
  }
  u32 q[D / 8];
  queries<D>(q, p, u.unit, u.lane);
  for (; t < tiles; t += u.warps) {
    find(t, entry, row);
    RowTile<D> tile;
    tile.load(p, row, u.lane);
    run.rows(tile, q, p.scale, u.lane, [&](int i) { return __shfl_sync(~0u, entry, slot(i, u.lane)) >> 24 >> g & 1; });
  }
}

template <int D, int GP> struct FusedShared {
  SelectShared<GP> select;
  ClusterJoin join;
};

template <int D, int GP> __device__ void fused_unit(const Params &p) {
  typedef FusedShared<D, GP> Shared;
  SHARED_MEMORY(Shared, sh);
  DYNAMIC_MEMORY(memory);
  wait_for_previous();
  const Rank<GP> u(p);
  // Blocks that the sequence does not reach are looked up as well: its length is on the way.
  const int room = Range<GP, true>::room(p, u), block = threadIdx.x * u.ranks + u.rank;
  const int at = threadIdx.x < room && block < p.maxBlocks ? p.table[u.sequence * p.tableStride + block] : 0, n = p.lens[u.sequence];
  if (n <= 0) return;
  Range<GP, true> r(p, u, n, (u8 *)memory + (size_t)u.warps * sizeof(Ring<D>));
  if (threadIdx.x < room) ((int *)r.table)[threadIdx.x] = at;
  __syncthreads();
  const bool whole = n < p.denseBelow;
  int2 count = make_int2(r.tokens(), 0);
  if (whole) {
    if (threadIdx.x == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(-1, n);
    let_next_start();
  } else {
    count = survivors_of<D>(sh.select, p, u, r, memory);
    u.wait();
    if (p.stages > 0) return;
  }
  Running<D> run;
  attend_own<D>(run, sh.select, p, u, r, count, whole);
  join_unit<D>(sh.join, run, (float *)memory, p, u, n, 1, !whole && p.flags & TAIL ? sh.select.held : nullptr);
  u.sync();  // no rank leaves while others look at its memory
}
