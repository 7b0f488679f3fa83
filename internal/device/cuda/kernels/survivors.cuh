// The list of survivors, and what mass they hold.
#pragma once
#include "estimate.cuh"

// window_end is the upper end of a head's window of weights, in octaves.
template <int GP> __device__ inline float window_end(const SelectShared<GP> &sh, int g) { return unordered(sh.reference[g]) + (WINDOW - 1) * (1.0f / PER_OCTAVE); }

// list_survivors returns how many the rank has listed: to be read exactly, and others.
template <int GP, bool LOCAL>
__device__ inline int2 list_survivors(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, LOCAL> &r, int found, bool every) {
  constexpr int WORDS = (GP + 1) / 2, TURNS = 4;  // a warp takes 32 tokens a turn
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
  struct Turns {
    int token[TURNS];  // −1: none
    u32 d[TURNS][WORDS];
  };
  int ahead[TURNS];  // pages of the turns after the next
  auto look = [&](int first) {
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
      const int i = first + 2 * t + lane / 16;
      ahead[t] = i < found ? every ? i : r.candidate[i] : -1;
    }
  };
  auto fetch = [&](Turns &v) {
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
      v.token[t] = ahead[t] < 0 ? -1 : ahead[t] * PAGE + lane % 16;
      if (ahead[t] >= 0) distances(v.d[t], v.token[t]);
    }
  };
  auto near = [&](const u32 (&d)[WORDS], const u32 (&beyond)[WORDS]) {
    u32 least = 0;
#pragma unroll
    for (int i = 0; i < WORDS; i++) least = __viaddmin_s16x2(d[i], beyond[i], least);
    return (least & 0x80008000) != 0;
  };
  u32 *const list = r.list;
  const int end = r.own * BLOCK, newest = r.newestHere ? r.pages() - 1 : -1;
  int exact = 0, others = 0;
  // What the listed tokens weigh, and of that what a head owes to the others' survivors, which the histogram has among the rest; and how many are its own.
  float kept[GP], owed[GP];
  int last[GP], own[GP];
#pragma unroll
  for (int g = 0; g < GP; g++) kept[g] = owed[g] = 0, own[g] = 0, last[g] = sh.threshold[g].last;
  Turns v;
  const int turn = u.warps * 2 * TURNS;  // pages
  look(warp * 2 * TURNS), fetch(v), look(turn + warp * 2 * TURNS);
  for (int first = 0, round = 0; first < found; first += turn, round ^= 1) {
    u32 a[TURNS], body[TURNS], entry[TURNS], count = 0;
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
      const int token = v.token[t];
      bool inA = false, in = false;
      u32 heads = 0xff;
      if (token >= 0) {
        const bool young = token / PAGE == newest;
        in = young ? token % PAGE <= (r.n - 1) % PAGE : near(v.d[t], beyondB);
        inA = young || perHead ? in : near(v.d[t], beyondA);
        if (perHead && !young) {
          heads = 0;
#pragma unroll
          for (int i = 0; i < WORDS; i++) {
            const u32 x = __viaddmin_s16x2(v.d[t][i], beyondB[i], 0);
            heads |= (x >> 15 & 1) << 2 * i | x >> 31 << (2 * i + 1);
          }
        }
      }
      entry[t] = (u32)token | heads << 24;
      a[t] = __ballot_sync(~0u, inA), body[t] = __ballot_sync(~0u, in && !inA);
      if ((a[t] | body[t]) != 0) {
#pragma unroll
        for (int g = 0; g < GP; g++) {
          const int x = v.d[t][g / 2] >> 16 * (g % 2) & 0xffff;
          const float w = !in || x == NONE || !(heads >> g & 1) ? 0 : power(x * (-1.0f / PER_OCTAVE));
          const bool far = x >> BIN_SHIFT > last[g];
          kept[g] += w;
          if (x < FAR && far) owed[g] += w;
          if (x < FAR && !far && in) own[g]++;
        }
      }
      count += __popc(a[t]) | __popc(body[t]) << 16;
    }
    if (lane == 0) sh.found[round][warp] = count;
    fetch(v), look(first + 2 * turn + warp * 2 * TURNS);
    __syncthreads();
    u32 below = 0, sum = 0;
    for (int w = 0; w < u.warps; w++) {
      if (w == warp) below = sum;
      sum += sh.found[round][w];
    }
    int atA = exact + (below & 0xffff), atB = end - 1 - others - (below >> 16);
    const u32 lower = (1u << lane) - 1;
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
      if (a[t] >> lane & 1) list[atA + __popc(a[t] & lower)] = entry[t];
      if (body[t] >> lane & 1) list[atB - __popc(body[t] & lower)] = entry[t];
      atA += __popc(a[t]), atB -= __popc(body[t]);
    }
    exact += sum & 0xffff, others += sum >> 16;
  }
  if (threadIdx.x == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(exact, others);
  if (!LOCAL && u.rank == 0 && threadIdx.x < G) p.reference[u.unit * HEADS + threadIdx.x] = window_end(sh, threadIdx.x);
#pragma unroll
  for (int g = 0; g < GP; g++) {
    for (int d = 16; d > 0; d /= 2) kept[g] += __shfl_xor_sync(~0u, kept[g], d), owed[g] += __shfl_xor_sync(~0u, owed[g], d);
    const int count = __reduce_add_sync(~0u, own[g]);
    if (lane == 0) sh.mass[warp][g][0] = kept[g], sh.mass[warp][g][1] = owed[g], sh.mass[warp][g][2] = count;
  }
  __syncthreads();
  if (threadIdx.x < G) {
    const int g = threadIdx.x;
    float kept = 0, owed = 0, own = 0;
    for (int w = 0; w < u.warps; w++) kept += sh.mass[w][g][0], owed += sh.mass[w][g][1], own += sh.mass[w][g][2];
    const Threshold &t = sh.threshold[g];
    const float all = kept + ((u.rank == 0 ? t.rest : 0) - owed) * t.shrink;
    sh.held[g] = make_float2(all, kept);
    p.sums[((size_t)u.unit * RANKS + u.rank) * HEADS + g] = make_float4(all, kept, own, sh.candidates[g]);
  }
  __syncthreads();
  return make_int2(exact, others);
}
