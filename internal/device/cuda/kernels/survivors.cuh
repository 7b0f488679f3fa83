// The list of survivors.
#pragma once
#include "estimate.cuh"

// window_end is the upper end of a head's window of weights, in octaves.
template <int GP> __device__ inline float window_end(const SelectShared<GP> &sh, int g) { return unordered(sh.reference[g]) + (WINDOW - 1) * (1.0f / PER_OCTAVE); }

// list_survivors returns how many the rank has listed: to be read exactly, and others. A warp goes through a run of the candidates, of which each lane remembers two pages, and writes its part
// of the list once it is known how many the others have. What the exactly read ones weigh it leaves in sh.mass.
template <int D, int GP, bool SPLIT>
__device__ inline int2 list_survivors(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r, int found, bool every) {
  constexpr int WORDS = (GP + 1) / 2, TURNS = SPLIT ? 2 : 4;  // a warp takes two pages a turn
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
  int exact = 0, others = 0;
  bool any = false;
  float kept[GP], owed[GP];
#pragma unroll
  for (int g = 0; g < GP; g++) kept[g] = owed[g] = 0;
  // weigh adds what a token weighs that is read exactly, for the heads that read it.
  auto weigh = [&](const u32 (&d)[WORDS], u32 who) {
    any = true;
#pragma unroll
    for (int g = 0; g < GP; g++) {
      const int x = d[g / 2] >> 16 * (g % 2) & 0xffff;
      const float w = x == NONE || !(who >> g & 1) ? 0 : power(x * (-1.0f / PER_OCTAVE));
      kept[g] += w;
      if (x < FAR && x >> BIN_SHIFT > sh.threshold[g].last) owed[g] += w;
    }
  };
  // expect asks for what will be read of a token.
  auto expect = [&](int token, bool exactly) {
    const size_t row = r.slab(p, u, token / BLOCK) * BLOCK + token % BLOCK;
    if (exactly) {
#pragma unroll
      for (int c = 0; c < D; c += 64) prefetch(p.k + row * D + c), prefetch(p.v + row * D + c);
    } else {
      prefetch(p.valueCodes + row * (D / 2)), prefetch(p.valueScale + row * (D / 32));
    }
  };
  // The newest page survives whole, whatever its tokens weigh. It is the last candidate: the last lane of the last warp has it.
  const int old = found - r.newestHere, newest = r.newestHere ? r.pages() - 1 : -1, room = u.warps * 62;
  for (int first = 0; first < found; first += room) {
    const int pairs = (max(min(old - first, room), 0) + 1) / 2, from = first + u.share(pairs, warp) * 2, to = min(first + u.share(pairs, warp + 1) * 2, old);
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
    u32 exactly = 0, otherwise = 0;  // the tokens of the lane's pages
    int page = from + 2 * lane < to ? page_of(from + 2 * lane) : 0, second = from + 2 * lane + 1 < to ? page_of(from + 2 * lane + 1) : 0;
    look(from), fetch(), look(from + 2 * TURNS);
    for (int i = from; i < to; i += 2 * TURNS) {
#pragma unroll
      for (int t = 0; t < TURNS; t++) {
        const bool in = v.token[t] >= 0 && near(v.d[t], beyondB), inA = in && (perHead || near(v.d[t], beyondA));
        const u32 a = __ballot_sync(~0u, inA), b = __ballot_sync(~0u, in && !inA);
        if (a != 0 && inA) weigh(v.d[t], perHead ? heads(v.d[t]) : 0xff);
        if (lane == (i - from) / 2 + t) exactly = a, otherwise = b;
      }
      fetch(), look(i + 4 * TURNS);
    }
    if (r.newestHere && first + room >= found && warp == u.warps - 1) {
      const int tokens = r.n - r.newest * PAGE;
      if (lane < tokens) {
        u32 d[WORDS];
        distances(d, newest * PAGE + lane);
        weigh(d, 0xff);
      }
      if (lane == 31) page = newest, exactly = (1u << tokens) - 1;
    }
    const u32 count = __popc(exactly) | __popc(otherwise) << 16, below = before(count, lane);
    if (lane == 31) sh.found[0][warp] = below + count;
    __syncthreads();
    u32 of = below, sum = 0;
    for (int w = 0; w < u.warps; w++) {
      if (w < warp) of += sh.found[0][w];
      sum += sh.found[0][w];
    }
    auto token_of = [&](u32 left) {
      const int bit = __ffs(left) - 1;
      return (bit < 16 ? page : second) * PAGE + bit % 16;
    };
    u32 *at = r.list + exact + (of & 0xffff);
    for (u32 left = exactly; left != 0; left &= left - 1) {
      const int token = token_of(left);
      u32 who = 0xff;
      if (perHead && token / PAGE != newest) {
        u32 d[WORDS];
        distances(d, token);
        who = heads(d);
      }
      if (SPLIT) expect(token, true);
      *at++ = (u32)token | who << 24;
    }
    at = r.list + r.own * BLOCK - 1 - others - (of >> 16);
    for (u32 left = otherwise; left != 0; left &= left - 1) {
      const int token = token_of(left);
      if (SPLIT) expect(token, false);
      *at-- = (u32)token | 0xffu << 24;
    }
    exact += sum & 0xffff, others += sum >> 16;
    __syncthreads();  // the counts are read, and the list is written
  }
  if (__any_sync(~0u, any)) {
#pragma unroll 1
    for (int d = 16; d > 0; d /= 2) {
#pragma unroll
      for (int g = 0; g < GP; g++) kept[g] += __shfl_xor_sync(~0u, kept[g], d), owed[g] += __shfl_xor_sync(~0u, owed[g], d);
    }
  }
#pragma unroll
  for (int g = 0; g < GP; g++) {
    if (lane == 0) sh.mass[warp][g] = make_float2(kept[g], owed[g]);
  }
  if (SPLIT && !(p.flags & NEAR)) {  // for who wants to know
    for (int i = threadIdx.x; i < r.own; i += blockDim.x) *(uint4 *)(r.seen + i * PAGES) = *(const uint4 *)(r.marks + i * PAGES);
  }
  if (threadIdx.x == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(exact, others);
  if (u.rank == 0 && threadIdx.x < G) p.reference[u.unit * HEADS + threadIdx.x] = window_end(sh, threadIdx.x);
  return make_int2(exact, others);
}
