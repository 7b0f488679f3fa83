// The last stage of select: the list of survivors, what mass they hold, and the items of work that they make.
#pragma once
#include "estimate.cuh"

template <int GP>
__device__ inline void list_survivors(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP> &r, int found, bool every) {
  const bool shared = every || p.flags & SHARED, perHead = p.flags & PER_HEAD, tail = p.flags & TAIL;
  const int lane = u.lane, warp = u.warp, G = u.G;
  // A lane holds half a candidate page: eight tokens, [token][head]. A warp holds sixteen pages.
  union Lane {
    uint4 raw[GP];
    short x[8 * GP];
  };
  auto fetch = [&](Lane &v, int first) -> int {  // the first token, or −1
    const int i = first + lane / 2;
    if (i >= found) return -1;
    const int token = (every ? r.first * PAGES + i : r.candidate[i]) * PAGE + lane % 2 * 8;
    const uint4 *at = (const uint4 *)(r.logits + (size_t)token * GP);
#pragma unroll
    for (int i = 0; i < GP; i++) v.raw[i] = at[i];
    return token;
  };
  // The first logit that is kept exactly, and at all: of the last bin all that is none. And the logit that weighs one.
  int leastA[GP], leastB[GP];
  float top[GP];
#pragma unroll
  for (int g = 0; g < GP; g++) {
    const int binA = g < G ? sh.threshold[g][0] : 0, binB = g < G ? sh.threshold[g][1] : 0;
    leastA[g] = binA == BINS - 1 ? NONE + 1 : WINDOW - ((binA + 1) << BIN_SHIFT), leastB[g] = binB == BINS - 1 ? NONE + 1 : WINDOW - ((binB + 1) << BIN_SHIFT);
    top[g] = g < G ? (WINDOW - (sh.threshold[g][2] << BIN_SHIFT)) * (1.0f / PER_OCTAVE) : 0;
  }
  u32 *list = p.list + (size_t)u.unit * p.maxBlocks * BLOCK;
  const int start = r.first * BLOCK, end = r.end * BLOCK;
  int exact = 0, others = 0;
  float total[GP], kept[GP];
  int own[GP], candidates[GP];
#pragma unroll
  for (int g = 0; g < GP; g++) total[g] = kept[g] = 0, own[g] = candidates[g] = 0;
  Lane next;
  int nextToken = fetch(next, warp * 16);
  for (int first = 0, round = 0; first < found; first += u.warps * 16, round ^= 1) {
    const Lane v = next;
    const int token = nextToken;
    nextToken = fetch(next, first + (u.warps + warp) * 16);
    u32 a = 0, any = 0;
    u32 mine[GP] = {};
    if (token >= 0) {
      const int page = token / PAGE, tokens = page == r.newest ? min(max(r.n - token, 0), 8) : 8;
      const u32 who = shared ? 0xff : r.marks[page];
#pragma unroll
      for (int g = 0; g < GP; g++) {
        if (g >= G) break;
#pragma unroll
        for (int t = 0; t < 8; t++) {
          const int x = v.x[t * GP + g];
          a |= (x >= leastA[g] ? 1u : 0u) << t;
          mine[g] |= (x >= leastB[g] ? 1u : 0u) << t;
        }
        candidates[g] += who >> g & 1 ? tokens : 0;
        any |= mine[g];
      }
      if (page == r.newest) {
        a = any = (1u << tokens) - 1;
#pragma unroll
        for (int g = 0; g < GP; g++) mine[g] = any;
      }
      if (perHead) a = any;
#pragma unroll
      for (int g = 0; g < GP; g++) {
        if (g >= G) break;
        own[g] += __popc(mine[g]);
        const u32 in = perHead ? mine[g] : any;
        float all = 0, held = 0;
#pragma unroll
        for (int t = 0; t < 8; t++) {  // what is no candidate weighs nothing that counts
          const float w = power(v.x[t * GP + g] * (1.0f / PER_OCTAVE) - top[g]);
          all += w;
          if (in >> t & 1) held += w;
        }
        const float shrink = tail && page != r.newest ? r.bases[token / BLOCK * 2 * HEADS + HEADS + g] : 1;
        kept[g] += held, total[g] += held + (all - held) * shrink;
      }
    }
    const u32 body = any & ~a;
    u32 below = __popc(a) | __popc(body) << 16;
    const u32 mineCount = below;
    below = before(below, lane);
    if (lane == 31) sh.found[round][warp] = below + mineCount;
    __syncthreads();
    u32 sum = 0;
    for (int w = 0; w < u.warps; w++) {
      if (w == warp) below += sum;
      sum += sh.found[round][w];
    }
    int atA = start + exact + (below & 0xffff), atB = end - 1 - others - (below >> 16);
    for (u32 m = any; m; m &= m - 1) {
      const int t = __ffs(m) - 1;
      u32 heads = 0xff;
      if (perHead) {
        heads = 0;
#pragma unroll
        for (int g = 0; g < GP; g++) heads |= (mine[g] >> t & 1) << g;
      }
      list[a >> t & 1 ? atA++ : atB--] = (u32)(token + t) | heads << 24;
    }
    exact += sum & 0xffff, others += sum >> 16;
  }
#pragma unroll
  for (int g = 0; g < GP; g++) {
    float x[4] = {total[g], kept[g], (float)own[g], (float)candidates[g]};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      for (int d = 16; d > 0; d /= 2) x[i] += __shfl_xor_sync(~0u, x[i], d);
      if (lane == 0) sh.mass[warp][g][i] = x[i];
    }
  }
  if (warp == 0) {
    if (lane == 0) p.counts[u.unit * RANKS + u.rank] = make_int2(exact, others);
    enqueue(p, u.unit, u.rank, make_int2(exact, others), lane);
    if (u.rank == 0 && lane < G) p.reference[u.unit * HEADS + lane] = unordered(sh.reference[lane]);
  }
  __syncthreads();
  if (threadIdx.x < G * 4) {
    float x = 0;
    for (int w = 0; w < u.warps; w++) x += sh.mass[w][threadIdx.x / 4][threadIdx.x % 4];
    ((float *)&p.sums[((size_t)u.unit * RANKS + u.rank) * HEADS + threadIdx.x / 4])[threadIdx.x % 4] = x;
  }
}
