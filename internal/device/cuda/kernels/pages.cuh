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

// exact_page is the exact logits of a page's tokens, in octaves: x[0] and x[1] are token lane/4 with heads lane%4·2 and +1, x[2] and x[3] token lane/4+8. Their largest
// raises the reference. One warp calls it.
template <int D, int GP> __device__ inline void exact_page(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP> &r, int page, float (&x)[4]) {
  const int j = u.lane % 4, row = u.lane / 4;
  const size_t at = r.slab(p, u, page / PAGES) * BLOCK + page % PAGES * PAGE;
  u32 q[D / 8], k[2][D / 8];
  queries<D>(q, p, u.unit, u.lane);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int token = row + i * 8;
    load<D / 8>(k[i], p.k + (at + (page * PAGE + token < r.n ? token : 0)) * D + j * (D / 4));
  }
  transposed<D>(x, k[0], k[1], q);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] *= p.scale;
  const bool second = page * PAGE + row + 8 < r.n;
  float a = x[0], b = x[1];
  if (second) a = fmaxf(a, x[2]), b = fmaxf(b, x[3]);
  if (page * PAGE + row >= r.n) a = b = -INFINITY;
  for (int d = 4; d < 32; d *= 2) a = fmaxf(a, __shfl_xor_sync(~0u, a, d)), b = fmaxf(b, __shfl_xor_sync(~0u, b, d));
  if (row == 0) atomicMax(&sh.reference[2 * j], ordered(a)), atomicMax(&sh.reference[2 * j + 1], ordered(b));
}

// block_bases makes, for sixteen blocks at a time, what all codes of a block share: the logit of its low; and by how much noise in the codes inflates the estimated weights on
// average, exp(σ²/2) with σ² = Σ q²·step²/12/D, which the tail takes back. With `bounds`, how high logits
// may be in each of the rank's blocks as well, half of the way from the middle of its channels' ranges to their far ends: [blocks][GP].
template <int D, int GP> __device__ inline void block_bases(const Params &p, const Rank<GP> &u, const Range<GP> &r, float *bounds) {
  const int j = u.lane % 4, row = u.lane / 4;
  for (int b0 = r.first + (u.warp + u.warps - 2) % u.warps * 16; b0 < r.end; b0 += u.warps * 16) {  // warps 0 and 1 have begun with a page each
    u32 q[D / 8], low[2][D / 8], step[2][D / 8];
    queries<D>(q, p, u.unit, u.lane);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const __half *at = p.range + r.slab(p, u, min(b0 + row + i * 8, r.end - 1)) * 2 * D + j * (D / 4);
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
        if (block < r.end && g < GP) bounds[(block - r.first) * GP + g] = (c[i] + 15 * above[i]) * p.scale;
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
      if (b0 + row + i * 8 >= r.end) continue;
      float *out = r.bases + (b0 + row + i * 8) * 2 * HEADS + 2 * j;
      constexpr float HALF_VARIANCE = 16.0f / 12 / 2 / D * 1.44269504f;  // in octaves
      *(float2 *)out = make_float2(c[2 * i] * p.scale, c[2 * i + 1] * p.scale);
      *(float2 *)(out + HEADS) = make_float2(power(-HALF_VARIANCE * noise[2 * i]), power(-HALF_VARIANCE * noise[2 * i + 1]));
    }
  }
}

// Scanned is which blocks' pages are looked at: those of a list, or all of the rank's.
struct Scanned {
  const int *list;
  int first, count;
  __device__ int block(int i) const { return list == nullptr ? first + i : list[i]; }
};

// page_budget is how many pages of a unit are candidates, beside the newest.
template <int GP> __device__ inline int page_budget(const Params &p, const Range<GP> &r) {
  return min(max(p.budget, (int)(p.keep * (r.newest + 1) + 0.5f)), r.encoded - (r.newest < r.encoded));
}

// choose_blocks lists at least `count` of the blocks, those with the largest bounds for one of the heads and the newest. `bounds` are overwritten; nobody else marks pages before.
template <int GP> __device__ inline Scanned choose_blocks(SelectShared<GP> &sh, const Rank<GP> &u, const Range<GP> &r, int count, float *bounds, int *list) {
  constexpr float PER_BLOCK_BIN = 8;  // to an octave; what is farther than all bins is looked at only if everything is
  const int blocks = r.end - r.first;
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
    ((uint4 *)r.marks)[r.first + b] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  if (u.warp == 0) {
    const int last = last_bin(sh, 0, count, u.lane);
    int n = 0;
    for (int b = u.lane; b - u.lane < blocks; b += 32) {
      const bool in = b < blocks && (((const int *)bounds)[b * GP] <= last || r.first + b == r.newest / PAGES);
      const u32 all = __ballot_sync(~0u, in);
      if (in) list[n + __popc(all & ((1u << u.lane) - 1))] = r.first + b;
      n += __popc(all);
    }
    if (u.lane == 0) sh.found[0][0] = n;
    __syncwarp();
    for (int i = u.lane; i < BINS; i += 32) sh.histogram[0][i] = 0;
  }
  __syncthreads();
  return Scanned{list, r.first, (int)sh.found[0][0]};
}

// scan_pages makes the scores of pages, in the order of the scanned blocks, and their extremes over the unit: upper bounds of their logits, q⁺·largest + q⁻·smallest, or what lies p.reach of
// the way there from the middle.
template <int D, int GP>
__device__ inline void scan_pages(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP> &r, const Scanned &scanned, const u32 (&q)[D / 8]) {
  const int j = u.lane % 4, row = u.lane / 4;
  const __half2 far = __float2half2_rn((1 + p.reach) / 2), near = __float2half2_rn((1 - p.reach) / 2);
  float top[2] = {-INFINITY, -INFINITY}, bottom[2] = {INFINITY, INFINITY};
  for (int at = u.warp; at < scanned.count; at += u.warps) {
    const int b = scanned.block(at);
    const size_t bh = r.slab(p, u, b);
    if (at + u.warps < scanned.count) {
      const size_t ahead = r.slab(p, u, scanned.block(at + u.warps));
      if (u.lane < PAGES * D / 128) prefetch(p.bounds + ahead * PAGES * D + u.lane * 128);
      else if (u.lane - PAGES * D / 128 < D * 2 / 128) prefetch((const u8 *)p.range + ahead * D * 4 + D * 2 + (u.lane - PAGES * D / 128) * 128);
    }
    u32 step[D / 8], codes[2][2][D / 32];
    load<D / 8>(step, p.range + (bh * 2 + 1) * D + j * (D / 4));
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u8 *at = p.bounds + (bh * PAGES + i * 8 + row) * D + j * (D / 8);
      load<D / 32>(codes[i][0], at);
      load<D / 32>(codes[i][1], at + D / 2);
    }
    const float2 base = *(const float2 *)(r.bases + b * 2 * HEADS + 2 * j);
    u32 up[D / 8];
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      const __half2 a = __hmul2(halves(q[i]), halves(step[i]));
      up[i] = bits(__hmax2(__hmul2(a, far), __hmul2(a, near))), step[i] = bits(__hsub2(a, halves(up[i])));
    }
    float c[4] = {}, d[4] = {};
    coded<D>(c, codes[0][0], codes[1][0], up);
    coded<D>(d, codes[0][1], codes[1][1], step);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int page = b * PAGES + i * 8 + row;
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
#pragma unroll
  for (int i = 0; i < 2; i++) {
    for (int d = 4; d < 32; d *= 2) top[i] = fmaxf(top[i], __shfl_xor_sync(~0u, top[i], d)), bottom[i] = fminf(bottom[i], __shfl_xor_sync(~0u, bottom[i], d));
    if (row == 0) atomicMax(&sh.top[2 * j + i], ordered(top[i])), atomicMax(&sh.bottom[2 * j + i], ordered(-bottom[i]));
  }
  u.sync();
  for (int g = u.warp; g < u.G; g += u.warps) {  // a lane for each rank
    int top = ordered(-INFINITY), bottom = top;
    if (u.lane < u.ranks) top = peek(&sh.top[g], u.lane), bottom = peek(&sh.bottom[g], u.lane);
    top = __reduce_max_sync(~0u, top), bottom = __reduce_max_sync(~0u, bottom);
    if (u.lane == 0) sh.best[g] = unordered(top), sh.span[g] = fmaxf(unordered(top) + unordered(bottom), 1e-6f);
  }
  __syncthreads();
}

// choose_pages marks the best pages by a histogram of the distance to the best; with one list for the group, by the head to which a page matters most. It lists the rank's
// candidates in order and returns how many they are.
template <int GP> __device__ inline int choose_pages(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP> &r, const Scanned &scanned) {
  const bool shared = p.flags & SHARED;
  const int lists = shared ? 1 : u.G, budget = page_budget(p, r), pages = scanned.count * PAGES;
  auto page_of = [&](int i) { return scanned.block(i / PAGES) * PAGES + i % PAGES; };
  float best[GP], perBin[GP], widest = 0;
#pragma unroll
  for (int g = 0; g < GP; g++) {
    best[g] = g < u.G ? sh.best[g] : INFINITY;
    if (g < u.G) perBin[g] = (BINS - 1) / sh.span[g], widest = fmaxf(widest, sh.span[g]);
  }
  const u32 one = one_of(p);
  // The bin replaces the score that it came from; the same thread reads it again below.
#pragma unroll 4
  for (int i = threadIdx.x; i < pages; i += blockDim.x) {
    const int page = page_of(i);
    if (page >= r.encoded || page == r.newest) continue;
    float x[GP], least = INFINITY;
    float *at = r.scores + i * GP;
#pragma unroll
    for (int g = 0; g < GP; g++) {
      x[g] = best[g] - at[g];
      least = fminf(least, g < u.G ? x[g] : INFINITY);
    }
    if (shared) {
      const int bin = min((int)(least * ((BINS - 1) / widest)), BINS - 1);
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
  u.sync();
  join(sh, u, lists);
  for (int l = u.rank + u.warp * u.ranks; l < lists; l += u.ranks * u.warps) {
    const int bin = last_bin(sh, l, budget, u.lane);
    if (u.lane < u.ranks) poke(&sh.pageBin[l], u.lane, bin);
  }
  u.sync();
  clear(sh);
  // A warp marks a range of pages, and lists those of them that are candidates once it is known how many lie before.
  const int each = (pages + u.warps * 32 - 1) / (u.warps * 32) * 32, from = u.warp * each, to = min(from + each, pages);
  auto who = [&](int i, int page) -> u32 {
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
    const int page = i < to ? page_of(i) : 0;
    const u32 heads = i < to ? who(i, page) : 0;
    if (i < to) r.marks[page] = heads;
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
    const int page = i < to ? page_of(i) : 0;
    const bool in = i < to && who(i, page) != 0;
    const u32 marked = __ballot_sync(~0u, in);
    if (in) r.candidate[at + __popc(marked & ((1u << u.lane) - 1))] = page;
    at += __popc(marked);
  }
  __syncthreads();
  return found;
}
