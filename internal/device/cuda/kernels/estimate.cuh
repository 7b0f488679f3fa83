// The middle of select: estimated logits of the candidates from 4-bit codes, and the weights' thresholds from their histogram.
#pragma once
#include <string.h>
#include "pages.cuh"

// weight_bin is the bin of an estimated logit: the distance from the window's upper end.
__device__ inline int weight_bin(int x) { return min(max(WINDOW - 1 - x, 0) >> BIN_SHIFT, BINS - 1); }

// estimate_logits estimates the logits of the candidates, as integers relative to the reference, and counts them by weight. `fresh` is warp 0's: the exact logits of the newest
// page. With `every`, each page is a candidate and is marked here.
template <int D, int GP>
__device__ inline void estimate_logits(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP> &r, const u32 (&q)[D / 8], const float (&fresh)[4], bool every) {
  const int j = u.lane % 4, row = u.lane / 4;
  const bool shared = every || p.flags & SHARED, byToken = p.flags & TOKEN_CODES;
  const float steps = p.scale * PER_OCTAVE;
  float reference[GP], sum[GP];
#pragma unroll
  for (int g = 0; g < GP; g++) reference[g] = g < u.G ? unordered(sh.reference[g]) * PER_OCTAVE : 0, sum[g] = 0;
  float *tile = sh.tile[u.warp];
  // Products come as the tensor cores leave them; through the tile each lane gets all heads of one of 32 tokens.
  auto spread = [&](int first, const float (&c)[4]) {
    if (2 * j >= GP) return;
    float *at = tile + (first + row) * GP + 2 * j;
    if constexpr (GP > 1) *(float2 *)at = make_float2(c[0], c[1]), *(float2 *)(at + 8 * GP) = make_float2(c[2], c[3]);
    else at[0] = c[0], at[8] = c[2];
  };
  // emit stores and counts the logits of the lane's token: `scale` times the tile's number, plus start and `low` times the sum of the query's channels.
  auto emit = [&](int token, u32 who, float scale, float low, const float (&start)[GP]) {
    union {
      short x[GP];
      u32 words[(GP + 1) / 2];
    } out;
#pragma unroll
    for (int g = 0; g < GP; g++) {
      float x = tile[u.lane * GP + g] * scale + start[g];
      if (byToken) x += low * sum[g];
      const short i = nearest(x);
      const bool in = who >> g & 1;
      out.x[g] = in ? i : NONE;
      if (in && g < u.G) atomicAdd(&sh.histogram[g][weight_bin(i)], 1);
    }
    if constexpr (GP == 1) {
      r.logits[token] = out.x[0];
    } else {
      typename Vec<GP / 2>::T v;
      memcpy(&v, &out, sizeof v);
      *(typename Vec<GP / 2>::T *)(r.logits + (size_t)token * GP) = v;
    }
  };
  if (u.warp == 0 && r.newest / PAGES >= r.first && r.newest / PAGES < r.end) {
    float start[GP];
#pragma unroll
    for (int g = 0; g < GP; g++) start[g] = -reference[g];
    spread(0, fresh);
    __syncwarp();
    const int token = r.newest * PAGE + u.lane;
    if (u.lane < PAGE) emit(token, token < r.n ? 0xff : 0, PER_OCTAVE, 0, start);
    __syncwarp();
  }
  if (byToken) {
    const u32 even = bits(__float2half2_rn(1 / QUERY_SCALE)), odd = bits(__float2half2_rn(16 / QUERY_SCALE));
    float c[4] = {};
#pragma unroll
    for (int i = 0; i < D / 16; i++) mma(c, even, even, odd, odd, q[2 * i], q[2 * i + 1]);
#pragma unroll
    for (int g = 0; g < GP; g++) sum[g] = __shfl_sync(~0u, c[g % 2], g / 2) * steps;
  }
  const u8 *source = byToken ? p.tokenCodes : p.keyCodes;
  auto marks_of = [&](int b) -> uint4 {
    if (!every) return *(const uint4 *)(r.marks + b * PAGES);
    const u32 all = 0xffffffffu;
    return make_uint4(all, all, all, all);
  };
  auto nonzero = [](u32 w) { return __vminu4(w, 0x01010101) * 0x10204080u >> 28; };  // a bit a byte
  uint4 marks = make_uint4(0, 0, 0, 0);
  if (r.first + u.warp < r.end) marks = marks_of(r.first + u.warp);
  for (int b = r.first + u.warp; b < r.end; b += u.warps) {
    const uint4 here = marks;
    if (every && u.lane == 0) *(uint4 *)(r.marks + b * PAGES) = here;
    if (b + u.warps < r.end) marks = marks_of(b + u.warps);
    u32 todo = nonzero(here.x) | nonzero(here.y) << 4 | nonzero(here.z) << 8 | nonzero(here.w) << 12;
    const int full = r.encoded - b * PAGES;
    if (full < PAGES) todo &= full > 0 ? (1u << full) - 1 : 0;
    if (r.newest / PAGES == b) todo &= ~(1u << r.newest % PAGES);
    if (todo == 0) continue;
    const size_t bh = r.slab(p, u, b);
    const u8 *codesOfLane = source + (bh * BLOCK + row) * (D / 2) + j * (D / 8);
    u32 a[D / 8];
    float start[GP];
    if (byToken) {
#pragma unroll
      for (int i = 0; i < D / 8; i++) a[i] = q[i];
#pragma unroll
      for (int g = 0; g < GP; g++) start[g] = -reference[g];
    } else {
      load<D / 8>(a, p.range + (bh * 2 + 1) * D + j * (D / 4));
#pragma unroll
      for (int g = 0; g < GP; g++) start[g] = r.bases[b * 2 * HEADS + g] * PER_OCTAVE - reference[g];
#pragma unroll
      for (int i = 0; i < D / 8; i++) a[i] = times(q[i], a[i]);
    }
    while (todo) {
      int page[4];
      u32 codes[4][2][D / 32];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        page[i] = todo ? __ffs(todo) - 1 : -1;
        todo &= todo - 1;
        if (page[i] >= 0) {
          load<D / 32>(codes[i][0], codesOfLane + page[i] * PAGE * (D / 2));
          load<D / 32>(codes[i][1], codesOfLane + (page[i] * PAGE + 8) * (D / 2));
        } else {
#pragma unroll
          for (int k = 0; k < D / 32; k++) codes[i][0][k] = codes[i][1][k] = 0;
        }
      }
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        if (page[i] < 0) break;
        float c[2][4] = {};
        coded<D>(c[0], codes[i][0], codes[i][1], a);
        coded<D>(c[1], codes[i + 1][0], codes[i + 1][1], a);
        spread(0, c[0]);
        spread(16, c[1]);
        __syncwarp();
        const int mine = u.lane < 16 ? page[i] : page[i + 1];
        if (mine >= 0) {
          const int token = mine * PAGE + u.lane % 16;
          const u32 who = shared ? 0xff : r.marks[b * PAGES + mine];
          float scale = CODED * steps, low = 0;
          if (byToken) {
            const u32 par = *(const u32 *)(p.tokenScale + bh * BLOCK + token);
            scale *= half_of(par, 0), low = half_of(par, 1);
          }
          emit(b * BLOCK + token, who, scale, low, start);
        }
        __syncwarp();
      }
    }
  }
}

// find_thresholds joins the ranks' histograms of weights and tells all ranks the last bins that hold the masses.
template <int GP> __device__ inline void find_thresholds(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u) {
  u.sync();
  auto bin_of = [&](const u32 *bins, int what) { return what == 2 ? last_bin(bins, 1, u.lane) : mass_bin(bins, what == 0 ? p.exactMass : p.mass, u.lane); };
  if (u.ranks == 1) {  // all heads side by side, where they are
    constexpr int EACH = BINS / 128;  // with the fewest threads
    for (int g = 0; g < u.G; g++) {
      u32 x[EACH];
#pragma unroll
      for (int i = 0; i < EACH; i++) x[i] = threadIdx.x + i * blockDim.x < BINS ? sh.histogram[g][threadIdx.x + i * blockDim.x] : 0;
      __syncthreads();
#pragma unroll
      for (int i = 0; i < EACH; i++) {
        const int bin = threadIdx.x + i * blockDim.x;
        if (bin < BINS) sh.histogram[g][padded(bin)] = x[i];
      }
    }
    __syncthreads();
    for (int task = u.warp; task < 3 * u.G; task += u.warps) {
      const int bin = bin_of(sh.histogram[task / 3], task % 3);
      if (u.lane == 0) sh.threshold[task / 3][task % 3] = bin;
    }
    __syncthreads();
    return;
  }
  for (int g = u.rank; g < u.G; g += u.ranks) {
    join(sh, g, u.ranks);
    if (u.warp < 3) {
      const int bin = bin_of(sh.joined, u.warp);
      if (u.lane < u.ranks) poke(&sh.threshold[g][u.warp], u.lane, bin);
    }
    __syncthreads();
  }
  u.sync();
}
