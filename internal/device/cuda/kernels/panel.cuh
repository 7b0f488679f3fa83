// Products of activations with weights, for a panel of up to 128 rows of activations, on Hopper. One warp copies packed weights and activations into a ring of steps in shared
// memory, ahead; warpgroups make their weights fp16 in registers and multiply. A warpgroup owns 64 rows of weights; of several that own the same each takes every so-many-th
// step, and the blocks of a cluster share the inputs. Weights are on their way before the launch ahead has ended. Each sum is the same however many columns the panel has.
#pragma once
#include "hopper.cuh"
#include "linear.cuh"

// So many units are a step. The last one may have half as many.
constexpr int PANEL_UNITS = 4;

// PanelParams is panelParams of linear.go. The map's box is a panel's columns, and 64 inputs.
struct PanelParams {
  TensorMap x;
  LinearParams p;
  int blocks;  // of 64 rows of weights, that a thread block owns
  int parts;   // warpgroups that share one
  int stages;  // steps that have a place in shared memory
  int stage;   // bytes of a place: activations, and then the units of each tile of 32 rows. Where the last ends are the barriers
  int share;   // of the steps, that a rank takes at most: those from its number times as many on
  int shift;   // a rank of a cluster, whose size is a power of two, adds up 2^shift times 8 columns
};

struct PanelBarriers { Barrier full, done; };

// Panel is what a thread block does.
template <int NT> struct Panel {
  static constexpr int BOX = NT * 8 * PANEL_BYTES, COLUMNS = PANEL_UNITS / 2 * BOX;  // bytes of the activations of two units, and of a step

  const PanelParams &f;
  const LinearParams &p;
  const Product &w;
  u8 *memory;
  PanelBarriers *barriers;
  Barrier *joined;  // of the sums that come from all ranks
  float *scales;
  int rank, first, firstColumn, from, steps;  // first: of its tiles, or of its gate's tiles

  __device__ Panel(const PanelParams &f, u8 *memory)
      : f(f), p(f.p), w(f.p.gated ? f.p.product[0] : product_of(f.p, blockIdx.z)), memory(memory), barriers((PanelBarriers *)(memory + f.stages * f.stage)),
        joined(&barriers[f.stages].full), scales((float *)(joined + 1)), rank(f.p.ranks > 1 ? cluster_rank() : 0) {
    const int number = blockIdx.z, all = (p.units + PANEL_UNITS - 1) / PANEL_UNITS;
    first = p.gated ? number * f.blocks : (number - w.first) * 2 * f.blocks;
    firstColumn = blockIdx.y * NT * 8;
    from = f.share * rank, steps = min(max(all - from, 0), f.share);
  }

  __device__ int tile(int i) const { return p.gated ? first + i / 2 : first + i; }
  __device__ int units(int step) const { return min(PANEL_UNITS, p.units - PANEL_UNITS * (from + step)); }

  // bring copies what one of the four warps that do so brings: one tile in three or, the last of them, the activations. One lane does it.
  __device__ void bring(int unit, int warp) const {
    const int left = (w.rows - 1) / TILE + 1 - first, tiles = p.gated ? 2 * min(f.blocks, left) : min(2 * f.blocks, left);
    if (warp == 3) wait_for_previous();
    for (int s = 0, stage = 0, phase = 1; s < steps; s++) {  // before the first phase, an odd one is over
      barrier_wait(&barriers[stage].done, phase);
      Barrier *full = &barriers[stage].full;
      u8 *to = memory + stage * f.stage;
      if (warp == 3) {
        barrier_announce(full, units(s) / 2 * BOX);
        for (int i = 0; i < units(s) / 2; i++) copy_tile(to + i * BOX, f.x, firstColumn, ((from + s) * PANEL_UNITS + 2 * i) * UNIT, full);
      } else {
        const int bytes = units(s) * unit;
        barrier_announce(full, (tiles - warp + 2) / 3 * bytes);
        for (int i = warp; i < tiles; i += 3) {
          const u8 *own = p.gated && i % 2 ? p.product[1].weight : w.weight;
          copy_block(to + COLUMNS + i * PANEL_UNITS * unit, own + ((size_t)tile(i) * p.units + (from + s) * PANEL_UNITS) * unit, bytes, full);
        }
      }
      if (++stage == f.stages) stage = 0, phase ^= 1;
    }
  }

  // multiply goes through a warpgroup's steps, from the part-th on. While the tensor cores have a unit's weights, the next one's are made.
  template <typename F> __device__ void multiply(int block, int part, float (&c)[NT * 4]) const {
    constexpr int SETS = NT > 8 ? 1 : 2;  // of a unit's weights, as registers allow
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const u8 *own = memory + COLUMNS + (2 * block + warp / 2) * PANEL_UNITS * F::BYTES;
    u32 a[SETS][2][4];
    int stage = part, phase = 0, before = -1;
    for (int s = part; s < steps; s += f.parts) {
      barrier_wait(&barriers[stage].full, phase);
      __syncwarp();  // one lane speaks for all below: they have read what there was in the step before
      const u8 *at = own + stage * f.stage;
      u64 x = rows_of(shared_address(memory + stage * f.stage));
#pragma unroll 1
      for (int left = units(s); left > 0; left -= 2, at += 2 * F::BYTES, x += BOX / 16) {
#pragma unroll
        for (int u = 0; u < 2; u++) {
          Fragment<F, 2> next;
          next.take(at + u * F::BYTES, lane, warp % 2);
          products_wait<SETS - 1>();
          if (u == SETS - 1 && before >= 0) {  // the products of the step before are over
            if (lane == 0) barrier_arrive(&barriers[before].done);
            before = -1;
          }
          u32(&w)[2][4] = a[u % SETS];
          next.weights(w);
          products_begin();
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const u32 now[4] = {w[0][2 * h], w[1][2 * h], w[0][2 * h + 1], w[1][2 * h + 1]};
            product_of_rows(c, now, x + (4 * u + 2 * h));  // 32 bytes further each
          }
          products_end();
        }
      }
      before = stage;
      stage += f.parts;
      if (stage >= f.stages) stage -= f.stages, phase ^= 1;
    }
    products_wait<0>();
    settled(c);
  }

  // join adds up what parts and ranks have and writes it. All sums go through shared memory, so that few instructions do the rest: they are in no cache yet. A rank adds up so many
  // times eight columns. The warpgroup that brings has nothing in c.
  __device__ void join(int group, const float (&c)[NT * 4]) const {
    const int block = group % f.blocks, part = group / f.blocks, each = 1 << f.shift, thread = threadIdx.x % 128, lane = thread % 32, apart = f.blocks * 128;
    auto place = [&](int source, int n, int t) { return (float4 *)memory + ((source << f.shift) + n) * apart + block * 128 + t; };
    p.ranks > 1 ? cluster_meet() : __syncthreads();  // nobody's memory is in use any more
    if (part < f.parts) {
      float4 *to = place(rank * f.parts + part, 0, thread);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        const float4 v = make_float4(c[4 * n], c[4 * n + 1], c[4 * n + 2], c[4 * n + 3]);
        float4 *at = to + (n & (each - 1)) * apart;
        if (n >> f.shift == rank) *at = v;
        else push(at, n >> f.shift, v, joined);
      }
    }
    __syncthreads();
    if (part >= f.parts || rank << f.shift >= NT) return;
    if (p.ranks > 1) barrier_wait(joined, 0);
    const int mine = p.gated ? thread % 64 : thread, share = p.gated ? 2 * part + thread / 64 : part, shares = p.gated ? 2 * f.parts : f.parts;
    const Writer to(p, w, tile(2 * block + mine / 64) * TILE + mine / 32 % 2 * 16 + lane / 4);
#pragma unroll 1
    for (int i = share; i < each; i += shares) {
      const int column = ((rank << f.shift) + i) * 8 + lane % 4 * 2;
      float4 sum[2];
#pragma unroll
      for (int kind = 0; kind < 2; kind++) {
        if (kind == 1 && !p.gated) break;
        const float4 *from = place(0, i, mine + kind * 64);
        sum[kind] = *from;
#pragma unroll 1
        for (int left = p.ranks * f.parts - 1; left > 0; left--) from += apart << f.shift, sum[kind] = plus(sum[kind], *from);
      }
      to.put(sum, &scales[column], firstColumn + column);
    }
  }
};

// panel_tiles computes the products of a thread block's tiles with a panel of 8·NT columns.
template <int NT> __device__ inline void panel_tiles(const PanelParams &f) {
  let_next_start();
  DYNAMIC_MEMORY(memory);
  const Panel<NT> k(f, (u8 *)memory);
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = __shfl_sync(~0u, threadIdx.x / 32 % 4, 0), groups = f.blocks * f.parts;
  if (threadIdx.x == 0) {
    for (int i = 0; i < f.stages; i++) barrier_make(&k.barriers[i].full, 4), barrier_make(&k.barriers[i].done, 4 * f.blocks);
    barrier_make(k.joined, 1);
    barriers_made();
    if (f.p.ranks > 1 && k.rank << f.shift < NT) barrier_announce(k.joined, ((f.p.ranks - 1) * f.parts * f.blocks * 2048) << f.shift);
  }
  __syncthreads();
  float c[NT * 4] = {};
  if (group == groups) {
    int unit = 0;
    WITH_FORMAT(k.w.format, F, unit = F::BYTES)
    if (threadIdx.x % 32 == 0) k.bring(unit, warp);
    __syncwarp();
  } else {
    wait_for_previous();
    if (threadIdx.x < NT * 8) k.scales[threadIdx.x] = k.firstColumn + threadIdx.x < f.p.columns ? f.p.scale[k.firstColumn + threadIdx.x] : 0;
    WITH_FORMAT(k.w.format, F, (k.template multiply<F>(group % f.blocks, group / f.blocks, c)))
  }
  k.join(group, c);
}
