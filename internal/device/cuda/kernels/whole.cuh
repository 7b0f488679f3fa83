// How attention over whole sequences finds its work and reads it: items from the lengths of sequences, rows through rings of asynchronous copies.
#pragma once
#include "histogram.cuh"

constexpr int TEAM = 4;  // warps that share an item

// Items finds items of whole sequences by their number. Those of a sequence are numbered by part, and of a part by head, so that what runs at once reads what stands side by side.
// One warp calls it, for numbers that grow.
struct Items {
  int first = 0, before = 0;  // sequences and items that were gone through

  // find is unit, rank 0 and part of an item; unit -1 where there is none.
  __device__ int4 find(const Params &p, int number, int lane) {
    for (;; first += 32) {
      if (first >= p.batch) return make_int4(-1, 0, 0, 0);
      const int i = first + lane, s = i >= p.batch ? -1 : p.order == nullptr ? i : p.order[i], n = s < 0 ? 0 : p.lens[s];
      const int items = n <= 0 ? 0 : parts_of(p, make_int2(-1, p.window > 0 ? min(n, p.window) : n)) * p.kvHeads;
      const int end = before + ::before(items, lane) + items;
      const u32 lanes = __ballot_sync(~0u, number < end);
      if (lanes != 0) {
        const int at = __ffs(lanes) - 1, rest = number - __shfl_sync(~0u, end - items, at);
        return make_int4(__shfl_sync(~0u, s, at) * p.kvHeads + rest % p.kvHeads, 0, rest / p.kvHeads, 0);
      }
      before = __shfl_sync(~0u, end, 31);
    }
  }
};

// WholeSlot holds sixteen rows of keys and of values, in 16-byte chunks which stand such that no two of eight lanes that read at once meet in a bank. Those of 32 bytes stay
// together: parted, each is read from the L2 cache for itself.
template <int D> struct WholeSlot {
  static constexpr int CHUNKS = D / 8;
  uint4 k[16][CHUNKS], v[16][CHUNKS];
  __device__ static int keyAt(int row, int chunk) { return chunk ^ (row & 1) * 4; }
  __device__ static int valueAt(int row, int chunk) { return chunk ^ (row & 6); }
  // keys is the chunks j, j+4, … of a row, values those at r, r+8, …; channels is a query's as keys are.
  __device__ void keys(u32 (&x)[D / 8], int row, int j) const {
#pragma unroll
    for (int i = 0; i < D / 32; i++) put(&x[4 * i], k[row][keyAt(row, i * 4 + j)]);
  }
  __device__ void values(u32 (&x)[D / 16], int row, int r) const {
#pragma unroll
    for (int i = 0; i < D / 64; i++) put(&x[4 * i], v[row][valueAt(row, r + i * 8)]);
  }
  __device__ static void channels(u32 (&x)[D / 8], const __half *query, int j) {
#pragma unroll
    for (int i = 0; i < D / 32; i++) put(&x[4 * i], query ? ((const uint4 *)query)[i * 4 + j] : make_uint4(0, 0, 0, 0));
  }
  __device__ static void put(u32 *x, uint4 y) { x[0] = y.x, x[1] = y.y, x[2] = y.z, x[3] = y.w; }
};

// WholeRing is a warp's; operator.go knows the size.
template <int D, int SLOTS_ = D <= 128 ? 4 : 3> struct WholeRing {
  static constexpr int SLOTS = SLOTS_;
  WholeSlot<D> slot[SLOTS];
};

// Stream has tokens [first,end) of a head, sixteen of every WARPS·16, pass through a warp's ring.
template <int D, int WARPS = TEAM, typename Ring = WholeRing<D>> struct Stream {
  static constexpr int SLOTS = Ring::SLOTS, CHUNKS = WholeSlot<D>::CHUNKS;
  Ring &ring;
  const Params &p;
  const int *table;
  int head, skipped, asked, end, lane, fill = 0, here = 0;
  u32 row;  // of token lane%16 of those asked for next

  __device__ Stream(Ring &ring, const Params &p, const int *table, int head, int skipped, int first, int end, int lane)
      : ring(ring), p(p), table(table), head(head), skipped(skipped), asked(first), end(end), lane(lane) {
    find();
    for (int i = 0; i < SLOTS - 1; i++) ask();
  }
  __device__ void find() {
    const int t = min(asked + lane % 16, end - 1) + skipped;
    row = asked < end ? ((u32)table[t / BLOCK] * p.kvHeads + head) * BLOCK + t % BLOCK : 0;
  }
  __device__ void ask() {
    if (asked < end) {
      WholeSlot<D> &x = ring.slot[fill];
      constexpr int ROWS = 32 / CHUNKS;  // at once
      const int chunk = lane % CHUNKS;
#pragma unroll
      for (int i = 0; i < 16; i += ROWS) {
        const int to = i + lane / CHUNKS;
        const size_t from = (size_t)__shfl_sync(~0u, row, to) * D + chunk * 8;
        copy_async(&x.k[to][x.keyAt(to, chunk)], p.k + from);
        copy_async(&x.v[to][x.valueAt(to, chunk)], p.v + from);
      }
      asked += WARPS * 16, fill = fill + 1 == SLOTS ? 0 : fill + 1;
      find();
    }
    commit_copies();
  }
  // next is the slot of the next sixteen, once they are there.
  __device__ const WholeSlot<D> &next() {
    wait_copies<SLOTS - 2>();
    __syncwarp();  // everybody's copies, and nobody reads the slot that is filled next
    ask();
    const WholeSlot<D> &x = ring.slot[here];
    here = here + 1 == SLOTS ? 0 : here + 1;
    return x;
  }
};
