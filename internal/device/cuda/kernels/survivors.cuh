// The list of survivors.
#pragma once
#include "estimate.cuh"

// window_end is the upper end of a head's window of weights, in octaves.
template <int GP> __device__ inline float window_end(const SelectShared<GP> &sh, int g) { return unordered(sh.reference[g]) + (WINDOW - 1) * (1.0f / PER_OCTAVE); }

// list_survivors lists the rank's survivors. A warp goes through a run of the candidates, two pages a turn, and has its own part of the list; what its exactly read ones weigh it leaves in sh.mass.
template <int D, int GP, bool SPLIT>
__device__ inline void list_survivors(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r, int found, bool every) {
  constexpr int WORDS = (GP + 1) / 2, TURNS = SPLIT ? 2 : 4;  // two pages a turn; as many turns' distances are on their way while those of others are looked at
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
  const int old = found - r.newestHere, from = u.share(old, warp), to = u.share(old, warp + 1);
  Part part = {from * PAGE, (warp == u.warps - 1 ? found : to) * PAGE, 0, 0};
  // list adds the tokens of those lanes that have one, to the part's start or its end.
  auto list = [&](int token, u32 who, bool exactly, bool otherwise) {
    const u32 a = __ballot_sync(~0u, exactly), b = __ballot_sync(~0u, otherwise), below = (1u << lane) - 1;
    if (exactly) r.list[part.from + part.exact + __popc(a & below)] = (u32)token | who << 24;
    if (otherwise) r.list[part.to - 1 - part.others - __popc(b & below)] = (u32)token | 0xffu << 24;
    part.exact += __popc(a), part.others += __popc(b);
    if (SPLIT && (exactly || otherwise)) expect(token, exactly);
  };
  struct Turns {
    int token[TURNS];  // −1: none
    u32 d[TURNS][WORDS];
  } now, next;
  int ahead[TURNS];  // pages of the turns after the next
  auto look = [&](int i) {
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
      const int at = i + 2 * t + lane / 16;
      ahead[t] = at >= to ? -1 : every ? at : r.candidate[at];
    }
  };
  auto fetch = [&] {
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
      next.token[t] = ahead[t] < 0 ? -1 : ahead[t] * PAGE + lane % 16;
      if (ahead[t] >= 0) distances(next.d[t], next.token[t]);
    }
  };
  look(from), fetch(), look(from + 2 * TURNS);
  for (int i = from; i < to; i += 2 * TURNS) {
    now = next;
    fetch(), look(i + 4 * TURNS);
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
      const bool in = now.token[t] >= 0 && near(now.d[t], beyondB), inA = in && (perHead || near(now.d[t], beyondA));
      if (!__any_sync(~0u, in)) continue;
      const u32 who = perHead ? heads(now.d[t]) : 0xff;
      if (inA) weigh(now.d[t], who);
      list(now.token[t], who, inA, in && !inA);
    }
  }
  if (r.newestHere && warp == u.warps - 1) {  // it survives whole, whatever its tokens weigh
    const int token = (r.pages() - 1) * PAGE + lane;
    const bool in = lane < r.n - r.newest * PAGE;
    if (in) {
      u32 d[WORDS];
      distances(d, token);
      weigh(d, 0xff);
    }
    list(token, 0xff, in, false);
  }
  if (__any_sync(~0u, any)) {
#pragma unroll 1
    for (int d = 16; d > 0; d /= 2) {
#pragma unroll
      for (int g = 0; g < GP; g++) kept[g] += __shfl_xor_sync(~0u, kept[g], d), owed[g] += __shfl_xor_sync(~0u, owed[g], d);
    }
  }
  int4 *const parts = p.listParts + ((size_t)u.unit * RANKS + u.rank) * WARPS;
  if ((int)threadIdx.x >= u.warps && threadIdx.x < WARPS) parts[threadIdx.x] = make_int4(0, 0, 0, 0);
  if (lane == 0) {
#pragma unroll
    for (int g = 0; g < GP; g++) sh.mass[warp][g] = make_float2(kept[g], owed[g]);
    sh.part[warp] = part;
    parts[warp] = make_int4(part.from, part.to, part.exact, part.others);
  }
  if (lane > warp && lane <= u.warps) atomicAdd(&sh.listed[0][lane], part.exact), atomicAdd(&sh.listed[1][lane], part.others);
  if (SPLIT && !(p.flags & NEAR)) {  // for who wants to know
    for (int i = threadIdx.x; i < r.own; i += blockDim.x) *(uint4 *)(r.seen + i * PAGES) = *(const uint4 *)(r.marks + i * PAGES);
  }
  if (u.rank == 0 && threadIdx.x < G) p.reference[u.unit * HEADS + threadIdx.x] = window_end(sh, threadIdx.x);
  __syncthreads();  // the list is written
}
