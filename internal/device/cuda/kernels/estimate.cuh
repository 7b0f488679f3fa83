// The middle of select: estimated logits of the candidates from 4-bit codes, and the weights' thresholds from their histogram.
#pragma once
#include "pages.cuh"

// weight_bin is the bin of an estimated logit: the distance from the window's upper end.
__device__ inline int weight_bin(int x) { return min(max(WINDOW - 1 - x, 0) >> BIN_SHIFT, BINS - 1); }

// estimate_logits estimates the logits of the candidates, as integers relative to the reference, and counts them by weight. `fresh` is warp 0's: the exact logits of the newest
// page. With `every`, each page is a candidate and is marked here.
template <int D, int GP>
__device__ inline void estimate_logits(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP> &r, const u32 (&q)[D / 8], const float (&fresh)[4], bool every) {
  const int j = u.lane % 4, row = u.lane / 4, g0 = 2 * j;
  const bool shared = every || p.flags & SHARED, byToken = p.flags & TOKEN_CODES;
  const bool in[2] = {g0 < u.G, g0 + 1 < u.G};
  const float steps = p.scale * PER_OCTAVE, reference[2] = {in[0] ? unordered(sh.reference[g0]) : 0, in[1] ? unordered(sh.reference[g0 + 1]) : 0};
  // x and y are logits of a token with the thread's two heads, in steps from the reference; who says for which of them the token is a candidate.
  auto put = [&](int token, float x, float y, u32 who) {
    const short a = who & 1 ? nearest(x) : NONE, b = who & 2 ? nearest(y) : NONE;
    if (g0 < GP) {
      if (GP > 1) *(u32 *)(r.logits + (size_t)token * GP + g0) = (u32)(unsigned short)a | (u32)(unsigned short)b << 16;
      else r.logits[token] = a;
    }
    if (in[0] && who & 1) atomicAdd(&sh.histogram[g0 & GP - 1][weight_bin(a)], 1);
    if (GP > 1 && in[1] && who & 2) atomicAdd(&sh.histogram[g0 + 1 & GP - 1][weight_bin(b)], 1);
  };
  if (u.warp == 0 && r.newest / PAGES >= r.first && r.newest / PAGES < r.end) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int token = r.newest * PAGE + i * 8 + row;
      put(token, (fresh[2 * i] - reference[0]) * PER_OCTAVE, (fresh[2 * i + 1] - reference[1]) * PER_OCTAVE, token < r.n ? 3 : 0);
    }
  }
  float sum[2] = {};  // of the queries' channels, for codes by token
  if (byToken) {
    const u32 even = bits(__float2half2_rn(1 / QUERY_SCALE)), odd = bits(__float2half2_rn(16 / QUERY_SCALE));
    float c[4] = {};
#pragma unroll
    for (int i = 0; i < D / 16; i++) mma(c, even, even, odd, odd, q[2 * i], q[2 * i + 1]);
    sum[0] = c[0] * steps, sum[1] = c[1] * steps;
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
    if (b + u.warps < r.end) {  // a lane fetches ahead half a page of the warp's next block
      marks = marks_of(b + u.warps);
      const size_t ahead = r.slab(p, u, b + u.warps);
      const u32 mine = (u.lane < 16 ? u.lane < 8 ? marks.x : marks.y : u.lane < 24 ? marks.z : marks.w) >> (u.lane / 2 % 4 * 8) & 0xff;
      if (mine) {
#pragma unroll
        for (int i = 0; i < D * 4 / 128; i++) prefetch(source + (ahead * BLOCK + u.lane * 8) * (D / 2) + i * 128);
      }
      if (!byToken && u.lane < D * 2 / 128) prefetch((const u8 *)p.range + ahead * D * 4 + D * 2 + u.lane * 128);
    }
    u32 todo = nonzero(here.x) | nonzero(here.y) << 4 | nonzero(here.z) << 8 | nonzero(here.w) << 12;
    const int full = r.encoded - b * PAGES;
    if (full < PAGES) todo &= full > 0 ? (1u << full) - 1 : 0;
    if (r.newest / PAGES == b) todo &= ~(1u << r.newest % PAGES);
    if (todo == 0) continue;
    const size_t bh = r.slab(p, u, b);
    u32 a[D / 8];
    float start[2] = {-reference[0] * PER_OCTAVE, -reference[1] * PER_OCTAVE};
    if (byToken) {
#pragma unroll
      for (int i = 0; i < D / 8; i++) a[i] = q[i];
    } else {
      load<D / 8>(a, p.range + (bh * 2 + 1) * D + j * (D / 4));
      const float2 base = *(const float2 *)(r.bases + b * 2 * HEADS + g0);
      start[0] += base.x * PER_OCTAVE, start[1] += base.y * PER_OCTAVE;
#pragma unroll
      for (int i = 0; i < D / 8; i++) a[i] = times(q[i], a[i]);
    }
    while (todo) {
      constexpr int AT_ONCE = 4;
      int page[AT_ONCE];
      u32 codes[AT_ONCE][2][D / 32];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        page[i] = todo ? __ffs(todo) - 1 : -1;
        todo &= todo - 1;
        if (page[i] >= 0) {
          const u8 *at = source + (bh * BLOCK + page[i] * PAGE + row) * (D / 2) + j * (D / 8);
          load<D / 32>(codes[i][0], at);
          load<D / 32>(codes[i][1], at + 8 * (D / 2));
        }
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        if (page[i] < 0) break;
        const u32 who = shared ? 3 : r.marks[b * PAGES + page[i]] >> g0;
        float c[4] = {};
        coded<D>(c, codes[i][0], codes[i][1], a);
        const int token = page[i] * PAGE + row;
#pragma unroll
        for (int k = 0; k < 2; k++) {
          float x = c[2 * k] * (CODED * steps), y = c[2 * k + 1] * (CODED * steps);
          if (byToken) {
            const u32 par = *(const u32 *)(p.tokenScale + bh * BLOCK + token + k * 8);
            x = half_of(par, 0) * x + half_of(par, 1) * sum[0], y = half_of(par, 0) * y + half_of(par, 1) * sum[1];
          }
          put(b * BLOCK + token + k * 8, x + start[0], y + start[1], who);
        }
      }
    }
  }
}

// find_thresholds joins the ranks' histograms of weights and tells all ranks the last bins that hold the masses.
template <int GP> __device__ inline void find_thresholds(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u) {
  u.sync();
  for (int g = u.rank; g < u.G; g += u.ranks) {
    join(sh, g, u.ranks);
    if (u.warp < 3) {
      const int bin = u.warp == 2 ? last_bin(sh, 1, u.lane) : mass_bin(sh, u.warp == 0 ? p.exactMass : p.mass, u.lane);
      if (u.lane < u.ranks) poke(&sh.threshold[g][u.warp], u.lane, bin);
    }
    __syncthreads();
  }
  u.sync();
}
