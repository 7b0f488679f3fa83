// The first stages of select: scores of pages by their bounds, and the best pages as candidates.
#pragma once
#include "histogram.cuh"

// scaled_queries loads queries as coded() takes them, but for the step: QUERY_SCALE times the query, and a sixteenth of that at odd places.
template <int D> __device__ inline void scaled_queries(u32 (&q)[D / 8], const Params &p, int unit, int lane) {
  const u32 even = bits(__float2half2_rn(QUERY_SCALE)), odd = bits(__float2half2_rn(QUERY_SCALE / 16));
  queries<D>(q, p, unit, lane);
#pragma unroll
  for (int i = 0; i < D / 8; i++) q[i] = times(q[i], i % 2 ? odd : even);
}

// page_row is the first row of a page of the head.
template <int GP> __device__ inline size_t page_row(const Params &p, const Rank<GP> &u, int page) {
  return ((size_t)p.table[u.sequence * p.tableStride + page / PAGES] * p.kvHeads + u.head) * BLOCK + page % PAGES * PAGE;
}

// exact_page is the exact logits of a page's tokens, in octaves: x[0] and x[1] are token lane/4 with heads lane%4·2 and +1, x[2] and x[3] token lane/4+8. Their largest
// raises the reference. One warp calls it.
template <int D, int GP> __device__ inline void exact_page(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, int n, int page, float (&x)[4]) {
  const int j = u.lane % 4, row = u.lane / 4;
  const size_t at = page_row(p, u, page);
  u32 q[D / 8], k[2][D / 8];
  queries<D>(q, p, u.unit, u.lane);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int token = row + i * 8;
    load<D / 8>(k[i], p.k + (at + (page * PAGE + token < n ? token : 0)) * D + j * (D / 4));
  }
  transposed<D>(x, k[0], k[1], q);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] *= p.scale;
  const bool second = page * PAGE + row + 8 < n;
  float a = x[0], b = x[1];
  if (second) a = fmaxf(a, x[2]), b = fmaxf(b, x[3]);
  if (page * PAGE + row >= n) a = b = -INFINITY;
  for (int d = 4; d < 32; d *= 2) a = fmaxf(a, __shfl_xor_sync(~0u, a, d)), b = fmaxf(b, __shfl_xor_sync(~0u, b, d));
  if (row == 0) atomicMax(&sh.reference[2 * j], ordered(a)), atomicMax(&sh.reference[2 * j + 1], ordered(b));
}

// expect_page asks for what exact_page will read, and of the newest page for what the tail adds.
template <int D, int GP> __device__ inline void expect_page(const Params &p, const Rank<GP> &u, int page) {
  const size_t row = page_row(p, u, page);
  const __half *at = p.k + row * D;
  if (page > 0 && u.lane * 32 < D) prefetch(p.valueSum + (row / BLOCK * 2 + 1) * D + u.lane * 32);
  for (int i = u.lane * 64; i < PAGE * D; i += 32 * 64) prefetch(at + i);
}

// block_bases makes, for sixteen blocks at a time, what all codes of a block share: the logit of its low; and by how much noise in the codes inflates the estimated weights on
// average, exp(σ²/2) with σ² = Σ q²·step²/12/D, which the tail takes back. With `bounds`, how high logits
// may be in each of the rank's blocks as well, half of the way from the middle of its channels' ranges to their far ends: [blocks][GP].
template <int D, int GP> __device__ inline void block_bases(const Params &p, const Rank<GP> &u, const Range<GP, false> &r, float *bounds) {
  const int j = u.lane % 4, row = u.lane / 4;
  for (int b0 = u.warp * 16; b0 < r.own; b0 += u.warps * 16) {
    u32 q[D / 8], low[2][D / 8], step[2][D / 8];
    queries<D>(q, p, u.unit, u.lane);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const __half *at = p.range + r.slab(p, u, min(b0 + row + i * 8, r.own - 1)) * 2 * D + j * (D / 4);
      load<D / 8>(low[i], at);
      if ((p.flags & TAIL) || bounds != nullptr) load<D / 8>(step[i], at + D);
    }
    float c[4] = {}, noise[4] = {};
    transposed<D>(c, low[0], low[1], q);
    if (bounds != nullptr) {
      u32 up[D / 8];
      float above[4] = {};
#pragma unroll
      for (int k = 0; k < D / 8; k++) up[k] = bits(__hmax2(__hmul2(halves(q[k]), __float2half2_rn(0.75f)), __hmul2(halves(q[k]), __float2half2_rn(0.25f))));
      transposed<D>(above, step[0], step[1], up);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int block = b0 + row + i / 2 * 8, g = 2 * j + i % 2;
        if (block < r.own && g < GP) bounds[block * GP + g] = (c[i] + 15 * above[i]) * p.scale;
      }
    }
    if (p.flags & TAIL) {
      const __half2 most = __float2half2_rn(200), quarter = __float2half2_rn(0.25f);  // squares stay finite
#pragma unroll
      for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int k = 0; k < D / 8; k++) {
          const __half2 x = __hmin2(halves(step[i][k]), most);
          step[i][k] = bits(__hmul2(x, x));
        }
      }
#pragma unroll
      for (int k = 0; k < D / 8; k++) {
        const __half2 x = __hmin2(__hmul2(__habs2(halves(q[k])), quarter), most);
        q[k] = bits(__hmul2(x, x));
      }
      transposed<D>(noise, step[0], step[1], q);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (b0 + row + i * 8 >= r.own) continue;
      float *out = r.bases + (b0 + row + i * 8) * 2 * HEADS + 2 * j;
      constexpr float HALF_VARIANCE = 16.0f / 12 / 2 / D * 1.44269504f;  // in octaves
      *(float2 *)out = make_float2(c[2 * i] * p.scale, c[2 * i + 1] * p.scale);
      *(float2 *)(out + HEADS) = make_float2(power(-HALF_VARIANCE * noise[2 * i]), power(-HALF_VARIANCE * noise[2 * i + 1]));
    }
  }
}

// block_base is the same for one block, by a warp that has its lows and the queries times its steps at hand: it returns the logits of heads lane%4·2 and +1.
template <int D> __device__ inline float2 block_base(float *out, const Params &p, int lane, const u32 (&low)[D / 8], const u32 (&q)[D / 8], const u32 (&stepped)[D / 8]) {
  float c[4] = {}, noise[4] = {};
  {
    const u32 sixteenth = bits(__float2half2_rn(0.0625f));  // as the queries' odd pairs are
    u32 rows[D / 8];
#pragma unroll
    for (int i = 0; i < D / 8; i++) rows[i] = i % 2 ? low[i] : times(low[i], sixteenth);
    transposed<D>(c, rows, rows, q);
  }
  if (p.flags & TAIL) {
    const __half2 most = __float2half2_rn(200);  // squares stay finite
    u32 square[D / 8], ones[D / 8];
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      const __half2 x = __hmin2(__habs2(halves(stepped[i])), most);
      square[i] = bits(__hmul2(x, x)), ones[i] = bits(__float2half2_rn(i % 2 ? 256 : 1));
    }
    transposed<D>(noise, ones, ones, square);
  }
  const float2 base = make_float2(c[0] * (16 / QUERY_SCALE * p.scale), c[1] * (16 / QUERY_SCALE * p.scale));
  if (lane < 4) {
    constexpr float HALF_VARIANCE = 1 / (QUERY_SCALE * QUERY_SCALE) / 12 / 2 / D * 1.44269504f;
    *(float2 *)(out + 2 * lane) = base;
    *(float2 *)(out + HEADS + 2 * lane) = make_float2(power(-HALF_VARIANCE * noise[0]), power(-HALF_VARIANCE * noise[1]));
  }
  return base;
}

// expect_blocks asks for what scan_pages will read.
template <int D, int GP, bool SPLIT> __device__ inline void expect_blocks(const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r) {
  for (int b = u.warp; b < r.own; b += u.warps) {
    const size_t bh = r.slab(p, u, b);
    if (u.lane < PAGES * D / 128) prefetch(p.bounds + bh * PAGES * D + u.lane * 128);
    if (u.lane < D * 4 / 128) prefetch((const u8 *)p.range + bh * D * 4 + u.lane * 128);
  }
}

// Scanned is which blocks' pages are looked at: those of a list, or all of the rank's.
struct Scanned {
  const int *list;
  int count;
  __device__ int block(int i) const { return list == nullptr ? i : list[i]; }
  __device__ int page(int i) const { return block(i / PAGES) * PAGES + i % PAGES; }
};

// page_budget is how many pages of a unit are candidates, beside the newest.
template <int GP, bool SPLIT> __device__ inline int page_budget(const Params &p, const Range<GP, SPLIT> &r) {
  return min(max(p.budget, (int)(p.keep * (r.newest + 1) + 0.5f)), r.encoded - (r.newest < r.encoded));
}

// choose_blocks lists at least `count` of the blocks, those with the largest bounds for one of the heads and the newest. `bounds` are overwritten; nobody else marks pages before.
template <int GP> __device__ inline Scanned choose_blocks(SelectShared<GP> &sh, const Rank<GP> &u, const Range<GP, false> &r, int count, float *bounds, int *list) {
  constexpr float PER_BLOCK_BIN = 8;  // to an octave; what is farther than all bins is looked at only if everything is
  const int blocks = r.own;
  __syncthreads();
  for (int g = u.warp; g < u.G; g += u.warps) {
    float best = -INFINITY;
    for (int b = u.lane; b < blocks; b += 32) best = fmaxf(best, bounds[b * GP + g]);
    for (int d = 16; d > 0; d /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, d));
    if (u.lane == 0) sh.best[g] = best;
  }
  __syncthreads();
  for (int b = threadIdx.x; b < blocks; b += blockDim.x) {
    float least = INFINITY;
#pragma unroll
    for (int g = 0; g < GP; g++) {
      if (g < u.G) least = fminf(least, sh.best[g] - bounds[b * GP + g]);
    }
    const int bin = (int)fminf(least * PER_BLOCK_BIN, BINS - 1);
    ((int *)bounds)[b * GP] = bin;
    atomicAdd(&sh.histogram[0][bin], 1u);
    ((uint4 *)r.marks)[b] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  gather<false>(sh, u, 1);
  __syncthreads();
  if (u.warp == 0) {
    const int last = last_bin(sh, u, 0, count);
    int n = 0;
    for (int b = u.lane; b - u.lane < blocks; b += 32) {
      const bool in = b < blocks && (((const int *)bounds)[b * GP] <= last || r.block(b) == r.newest / PAGES);
      const u32 all = __ballot_sync(~0u, in);
      if (in) list[n + __popc(all & ((1u << u.lane) - 1))] = b;
      n += __popc(all);
    }
    if (u.lane == 0) sh.found[0][0] = n;
    __syncwarp();
    for (int i = u.lane; i < BINS; i += 32) sh.histogram[0][i] = 0;
  }
  __syncthreads();
  return Scanned{list, (int)sh.found[0][0]};
}

// scan_pages makes the scores of pages, in the order of the scanned blocks, and their extremes over the rank: upper bounds of their logits, q⁺·largest + q⁻·smallest, or what lies p.reach of
// the way there from the middle. With SPLIT it makes the blocks' bases on the way, and with `every` nothing else.
template <int D, int GP, bool SPLIT>
__device__ inline void scan_pages(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r, const Scanned &scanned, const u32 (&q)[D / 8], bool every) {
  const int j = u.lane % 4, row = u.lane / 4;
  const __half2 far = __float2half2_rn((1 + p.reach) / 2), near = __float2half2_rn((1 - p.reach) / 2);
  float top[2] = {-INFINITY, -INFINITY}, bottom[2] = {INFINITY, INFINITY};
  for (int at = u.warp; at < scanned.count; at += u.warps) {
    const int b = scanned.block(at);
    const size_t bh = r.slab(p, u, b);
    if (!SPLIT && at + u.warps < scanned.count) {
      const size_t ahead = r.slab(p, u, scanned.block(at + u.warps));
      if (u.lane < PAGES * D / 128) prefetch(p.bounds + ahead * PAGES * D + u.lane * 128);
      else if (u.lane - PAGES * D / 128 < D * 2 / 128) prefetch((const u8 *)p.range + ahead * D * 4 + D * 2 + (u.lane - PAGES * D / 128) * 128);
    }
    u32 low[D / 8], step[D / 8], codes[2][2][D / 32];
    const __half *const range = p.range + bh * 2 * D + j * (D / 4);
    if (SPLIT) load<D / 8>(low, range);
    load<D / 8>(step, range + D);
    if (!SPLIT || !every) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const u8 *at = p.bounds + (bh * PAGES + i * 8 + row) * D + j * (D / 8);
        load<D / 32>(codes[i][0], at);
        load<D / 32>(codes[i][1], at + D / 2);
      }
    }
#pragma unroll
    for (int i = 0; i < D / 8; i++) step[i] = times(q[i], step[i]);
    float2 base;
    if constexpr (SPLIT) {
      base = block_base<D>(r.bases + b * 2 * HEADS, p, u.lane, low, q, step);
      if (every) continue;
    } else {
      base = *(const float2 *)(r.bases + b * 2 * HEADS + 2 * j);
    }
    u32 up[D / 8];
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      const __half2 a = halves(step[i]);
      up[i] = bits(__hmax2(__hmul2(a, far), __hmul2(a, near))), step[i] = bits(__hsub2(a, halves(up[i])));
    }
    float c[4] = {}, d[4] = {};
    coded<D>(c, codes[0][0], codes[1][0], up);
    coded<D>(d, codes[0][1], codes[1][1], step);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int page = r.page(b * PAGES + i * 8 + row);
      const float x = base.x + (c[2 * i] + d[2 * i]) * (CODED * p.scale), y = base.y + (c[2 * i + 1] + d[2 * i + 1]) * (CODED * p.scale);
      if (page < r.encoded && page != r.newest) {
        if (2 * j < GP) {
          float *const score = r.scores + (at * PAGES + i * 8 + row) * GP + 2 * j;
          if (GP > 1) *(float2 *)score = make_float2(x, y);
          else *score = x;
        }
        top[0] = fmaxf(top[0], x), bottom[0] = fminf(bottom[0], x);
        top[1] = fmaxf(top[1], y), bottom[1] = fminf(bottom[1], y);
      }
    }
  }
  if (SPLIT && every) return;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    for (int d = 4; d < 32; d *= 2) top[i] = fmaxf(top[i], __shfl_xor_sync(~0u, top[i], d)), bottom[i] = fminf(bottom[i], __shfl_xor_sync(~0u, bottom[i], d));
    if (row == 0) atomicMax(&sh.top[2 * j + i], ordered(top[i])), atomicMax(&sh.bottom[2 * j + i], ordered(-bottom[i]));
  }
}

// choose_pages marks the best pages by a histogram of the distance to the best; with one list for the group, by the head to which a page matters most. It lists the rank's
// candidates in order and returns how many they are. The unit has synced since its pages were scanned, and must wait once more before it counts anew: some may still look.
template <int GP, bool SPLIT> __device__ inline int choose_pages(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r, const Scanned &scanned) {
  for (int g = u.warp; g < u.G; g += u.warps) {  // a lane for each rank
    int top = ordered(-INFINITY), bottom = top;
    if (u.lane < u.ranks) top = peek(&sh.top[g], u.lane), bottom = peek(&sh.bottom[g], u.lane);
    top = __reduce_max_sync(~0u, top), bottom = __reduce_max_sync(~0u, bottom);
    if (u.lane == 0) sh.best[g] = unordered(top), sh.span[g] = fmaxf(unordered(top) + unordered(bottom), 1e-6f);
  }
  __syncthreads();
  const bool shared = p.flags & SHARED;
  const int lists = shared ? 1 : u.G, budget = page_budget(p, r), pages = scanned.count * PAGES;
  float best[GP], perBin[GP], widest = 0;
#pragma unroll
  for (int g = 0; g < GP; g++) {
    best[g] = g < u.G ? sh.best[g] : INFINITY;
    if (g < u.G) perBin[g] = __fdividef(BINS - 1, sh.span[g]), widest = fmaxf(widest, sh.span[g]);
  }
  if (shared) perBin[0] = __fdividef(BINS - 1, widest);
  const u32 one = one_of(p);
  // The bin replaces the score that it came from; the same thread reads it again below.
#pragma unroll 4
  for (int i = threadIdx.x; i < pages; i += blockDim.x) {
    const int page = r.page(scanned.page(i));
    if (page >= r.encoded || page == r.newest) continue;
    float x[GP], least = INFINITY;
    float *at = r.scores + i * GP;
#pragma unroll
    for (int g = 0; g < GP; g++) {
      x[g] = best[g] - at[g];
      least = fminf(least, g < u.G ? x[g] : INFINITY);
    }
    if (shared) {
      const int bin = min((int)(least * perBin[0]), BINS - 1);
      *(int *)at = bin;
      atomicAdd(&sh.histogram[0][bin], one);
    } else {
#pragma unroll
      for (int g = 0; g < GP; g++) {
        if (g >= u.G) break;
        const int bin = min((int)(x[g] * perBin[g]), BINS - 1);
        ((int *)at)[g] = bin;
        atomicAdd(&sh.histogram[g][bin], one);
      }
    }
  }
  __syncthreads();
  gather<false>(sh, u, lists);
  u.sync();
  for (int l = u.warp; l < lists; l += u.warps) {
    const int bin = last_bin(sh, u, l, budget);
    if (u.lane == 0) sh.pageBin[l] = bin;
  }
  __syncthreads();
  u.read();
  // A warp marks a range of pages, and lists those of them that are candidates once it is known how many lie before.
  const int from = u.share((pages + 31) / 32, u.warp) * 32, to = min(u.share((pages + 31) / 32, u.warp + 1) * 32, pages);
  auto who = [&](int i) -> u32 {
    const int page = r.page(scanned.page(i));
    if (page == r.newest) return 0xff;
    if (page >= r.encoded || budget <= 0) return 0;
    const int *at = (const int *)r.scores + i * GP;
    if (shared) return at[0] <= sh.pageBin[0] ? 0xff : 0;
    u32 heads = 0;
#pragma unroll
    for (int g = 0; g < GP; g++) {
      if (g < u.G) heads |= (at[g] <= sh.pageBin[g] ? 1u : 0u) << g;
    }
    return heads;
  };
  int count = 0;
  for (int i = from + u.lane; i - u.lane < to; i += 32) {
    const u32 heads = i < to ? who(i) : 0;
    if (i < to) r.marks[scanned.page(i)] = heads;
    count += __popc(__ballot_sync(~0u, heads != 0));
  }
  if (u.lane == 0) sh.found[0][u.warp] = count;
  __syncthreads();
  int at = 0, found = 0;
  for (int w = 0; w < u.warps; w++) {
    if (w < u.warp) at += sh.found[0][w];
    found += sh.found[0][w];
  }
  for (int i = from + u.lane; i - u.lane < to; i += 32) {
    const bool in = i < to && who(i) != 0;
    const u32 marked = __ballot_sync(~0u, in);
    if (in) r.candidate[at + __popc(marked & ((1u << u.lane) - 1))] = scanned.page(i);
    at += __popc(marked);
  }
  return found;
}
