// The list of survivors.
#pragma once
#include "estimate.cuh"

// What the listing keeps of two pages of candidates at a time, in select's dynamic shared memory: which of their tokens are read exactly, and which otherwise.
struct Near {
  u32 exact, others;
};
constexpr int LISTED = 4096;  // pages that are gone through at once

// window_end is the upper end of a head's window of weights, in octaves.
template <int GP> __device__ inline float window_end(const SelectShared<GP> &sh, int g) { return unordered(sh.reference[g]) + (WINDOW - 1) * (1.0f / PER_OCTAVE); }

// list_survivors returns how many the rank has listed: to be read exactly, and others. A warp goes through a run of the candidates, and writes its part of the list once it is known how
// many the others have. What the exactly read ones weigh it leaves in sh.mass.
template <int D, int GP, bool LOCAL>
__device__ inline int2 list_survivors(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, LOCAL> &r, Near *nears, int found, bool every) {
  constexpr int WORDS = (GP + 1) / 2, TURNS = 4;  // a warp takes two pages a turn
  const bool perHead = p.flags & PER_HEAD;
  const int lane = u.lane, warp = u.warp, G = u.G;
  // Distances lie below 2^15: added to the negative of what is the first too far, they are negative where they are near enough. Two heads a word.
  u32 beyondA[WORDS], beyondB[WORDS];
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    beyondA[i] = beyondB[i] = 0;
#pragma unroll
    for (int k = 0; k < 2; k++) {
      const int g = 2 * i + k;
      if (g >= GP || g >= G) continue;
      const int a = sh.threshold[g].exact, b = sh.threshold[g].last;
      beyondA[i] |= (u32)(-(a == BINS - 1 ? NONE : (a + 1) << BIN_SHIFT) & 0xffff) << 16 * k;
      beyondB[i] |= (u32)(-(b == BINS - 1 ? NONE : (b + 1) << BIN_SHIFT) & 0xffff) << 16 * k;
    }
  }
  // distances reads a token's, two heads a word.
  auto distances = [&](u32 (&d)[WORDS], int token) {
    if constexpr (GP == 1) d[0] = *(const unsigned short *)(r.logits + token) | (u32)NONE << 16;
    else load<WORDS>(d, r.logits + (size_t)token * GP);
  };
  auto near = [&](const u32 (&d)[WORDS], const u32 (&beyond)[WORDS]) {
    u32 least = 0;
#pragma unroll
    for (int i = 0; i < WORDS; i++) least = __viaddmin_s16x2(d[i], beyond[i], least);
    return (least & 0x80008000) != 0;
  };
  // heads is whose survivor a token is, if each head reads its own alone.
  auto heads = [&](const u32 (&d)[WORDS]) {
    u32 mask = 0;
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      const u32 x = __viaddmin_s16x2(d[i], beyondB[i], 0);
      mask |= (x >> 15 & 1) << 2 * i | x >> 31 << (2 * i + 1);
    }
    return mask;
  };
  auto page_of = [&](int i) { return every ? i : r.candidate[i]; };
  u32 *const list = r.list;
  const int end = r.own * BLOCK, newest = r.newestHere ? r.pages() - 1 : -1;
  int exact = 0, others = 0;
  float kept[GP], owed[GP];
#pragma unroll
  for (int g = 0; g < GP; g++) kept[g] = owed[g] = 0;
  for (int first = 0; first < found; first += LISTED) {
    const int pairs = (min(found - first, LISTED) + 1) / 2, from = first + pairs * warp / u.warps * 2, to = min(first + pairs * (warp + 1) / u.warps * 2, found);
    struct Turns {
      int token[TURNS];  // −1: none
      u32 d[TURNS][WORDS];
    } v;
    int ahead[TURNS];  // pages of the turns after the next
    auto look = [&](int i) {
#pragma unroll
      for (int t = 0; t < TURNS; t++) ahead[t] = i + 2 * t + lane / 16 < to ? page_of(i + 2 * t + lane / 16) : -1;
    };
    auto fetch = [&] {
#pragma unroll
      for (int t = 0; t < TURNS; t++) {
        v.token[t] = ahead[t] < 0 ? -1 : ahead[t] * PAGE + lane % 16;
        if (ahead[t] >= 0) distances(v.d[t], v.token[t]);
      }
    };
    u32 count = 0;
    look(from), fetch(), look(from + 2 * TURNS);
    for (int i = from; i < to; i += 2 * TURNS) {
      Near x[TURNS];
#pragma unroll
      for (int t = 0; t < TURNS; t++) {
        const int token = v.token[t];
        const bool young = token >= 0 && token / PAGE == newest;
        const bool in = token >= 0 && (young ? token % PAGE <= (r.n - 1) % PAGE : near(v.d[t], beyondB)), inA = in && (young || perHead || near(v.d[t], beyondA));
        x[t] = Near{__ballot_sync(~0u, inA), __ballot_sync(~0u, in && !inA)};
        count += __popc(x[t].exact) | __popc(x[t].others) << 16;
        if (x[t].exact != 0) {
          const u32 who = perHead && !young ? heads(v.d[t]) : 0xff;
#pragma unroll
          for (int g = 0; g < GP; g++) {
            const int d = v.d[t][g / 2] >> 16 * (g % 2) & 0xffff;
            const float w = !inA || d == NONE || !(who >> g & 1) ? 0 : power(d * (-1.0f / PER_OCTAVE));
            kept[g] += w;
            if (d < FAR && d >> BIN_SHIFT > sh.threshold[g].last) owed[g] += w;
          }
        }
      }
      fetch(), look(i + 4 * TURNS);
      if (lane == 0) {
#pragma unroll
        for (int t = 0; t < TURNS; t++) {
          if (i + 2 * t < to) nears[(i - first) / 2 + t] = x[t];
        }
      }
    }
    if (lane == 0) sh.found[0][warp] = count;
    __syncthreads();
    u32 below = 0, sum = 0;
    for (int w = 0; w < u.warps; w++) {
      if (w == warp) below = sum;
      sum += sh.found[0][w];
    }
    int atA = exact + (below & 0xffff), atB = end - 1 - others - (below >> 16);
    const u32 lower = (1u << lane) - 1;
    int page = 0;
    for (int i = from; i < to; i += 2) {
      if ((i - from) % 32 == 0 && i + lane < to) page = page_of(i + lane);
      const int token = __shfl_sync(~0u, page, (i - from) % 32 + lane / 16) * PAGE + lane % 16;
      const Near x = nears[(i - first) / 2];
      u32 who = 0xff;
      if (perHead && x.exact >> lane & 1 && token / PAGE != newest) {
        u32 d[WORDS];
        distances(d, token);
        who = heads(d);
      }
      const u32 entry = (u32)token | who << 24;
      if (x.exact >> lane & 1) list[atA + __popc(x.exact & lower)] = entry;
      if (x.others >> lane & 1) list[atB - __popc(x.others & lower)] = entry;
      atA += __popc(x.exact), atB -= __popc(x.others);
      if (LOCAL && (x.exact | x.others) >> lane & 1) {  // what will be read of it
        const size_t row = r.slab(p, u, token / BLOCK) * BLOCK + token % BLOCK;
        if (x.others >> lane & 1) {
          prefetch(p.valueCodes + row * (D / 2)), prefetch(p.valueScale + row * (D / 32));
        } else {
#pragma unroll
          for (int c = 0; c < D; c += 64) prefetch(p.k + row * D + c), prefetch(p.v + row * D + c);
        }
      }
    }
    exact += sum & 0xffff, others += sum >> 16;
    __syncthreads();  // the counts are read
  }
#pragma unroll
  for (int g = 0; g < GP; g++) {
    if (__any_sync(~0u, kept[g] != 0)) {
      for (int d = 16; d > 0; d /= 2) kept[g] += __shfl_xor_sync(~0u, kept[g], d), owed[g] += __shfl_xor_sync(~0u, owed[g], d);
    }
    if (lane == 0) sh.mass[warp][g] = make_float2(kept[g], owed[g]);
  }
  if (threadIdx.x == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(exact, others);
  if (!LOCAL && u.rank == 0 && threadIdx.x < G) p.reference[u.unit * HEADS + threadIdx.x] = window_end(sh, threadIdx.x);
  return make_int2(exact, others);
}
