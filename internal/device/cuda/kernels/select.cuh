// select runs Twilight's pipeline up to the lists of survivors, in one launch: page bounds → candidate pages → estimated logits → threshold on the weights → lists.
// A cluster of `ranks` thread blocks shares a unit, each a range of its blocks. Grid: batch·kvHeads·ranks, 256 threads; GP is the group rounded up to a power of two.
#pragma once
#include "product.cuh"

constexpr int WARPS = 8;

struct SelectShared {
  u32 histogram[HEADS][BINS];
  u32 joined[BINS];
  int threshold[HEADS][2];  // last bin that is kept: exactly read, at all
  int top[HEADS], bottom[HEADS], most[HEADS];
  float best[HEADS], span[HEADS], reference[HEADS];
  int heaviest[HEADS];
  float mass[WARPS][HEADS][4];  // total, kept, own survivors, candidates
  float unitMass[HEADS][4];
  u32 found[2][WARPS];
  int survivors[2];
};

// join sums head g's histogram over the ranks into `joined`.
__device__ inline void join(SelectShared &sh, int g, int ranks) {
  for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
    u32 n = 0, x[RANKS];
#pragma unroll
    for (int r = 0; r < RANKS; r++) x[r] = r < ranks ? peek(&sh.histogram[g][i], r) : 0;
#pragma unroll
    for (int r = 0; r < RANKS; r++) n += x[r];
    sh.joined[i] = n;
  }
  __syncthreads();
}

// last_bin is the first bin by whose end the joined histogram holds `count` elements. One warp calls it.
__device__ inline int last_bin(const SelectShared &sh, int count, int lane) {
  int sum = 0;
  for (int i = 0; i < BINS / 32; i++) sum += sh.joined[lane * (BINS / 32) + i];
  int before = sum;
  for (int d = 1; d < 32; d *= 2) {
    int x = __shfl_up_sync(~0u, before, d);
    if (lane >= d) before += x;
  }
  before -= sum;
  int at = BINS - 1;
  for (int i = BINS / 32 - 1, n = before + sum; i >= 0; i--) {
    if (n >= count) at = lane * (BINS / 32) + i;
    n -= sh.joined[lane * (BINS / 32) + i];
  }
  if (before + sum < count) at = BINS - 1;
  return __reduce_min_sync(~0u, at);
}

// mass_bin is the first bin by whose end the weights hold share p of all. What is kept counts at its bin's lower edge and the rest at its upper, so that the
// true share is never less. One warp calls it.
__device__ inline int mass_bin(const SelectShared &sh, float p, int lane) {
  if (p >= 1) return BINS - 1;
  float step = exp2f(-1.0f / (PER_OCTAVE >> BIN_SHIFT)), edge = exp2f(-(float)(lane * (BINS / 32)) / (PER_OCTAVE >> BIN_SHIFT));
  float sum = 0, e = edge;
  for (int i = 0; i < BINS / 32; i++, e *= step) sum += e * sh.joined[lane * (BINS / 32) + i];
  float before = sum;
  for (int d = 1; d < 32; d *= 2) {
    float x = __shfl_up_sync(~0u, before, d);
    if (lane >= d) before += x;
  }
  float all = __shfl_sync(~0u, before, 31), held = before - sum;
  int at = BINS - 1;
  bool done = false;
  e = edge;
  for (int i = 0; i < BINS / 32; i++, e *= step) {
    held += e * sh.joined[lane * (BINS / 32) + i];
    float lower = held * step;
    if (!done && lower >= p * (lower + fmaxf(all - held, 0))) at = lane * (BINS / 32) + i, done = true;
  }
  return __reduce_min_sync(~0u, at);
}

// enqueue cuts a unit's work into items. One warp calls it.
__device__ inline void enqueue(const Params &p, int unit, int cost, int dense, int lane) {
  const int quantum = dense ? p.denseQuantum : p.quantum, parts = min(max((cost + quantum - 1) / quantum, 1), p.maxParts);
  int at = 0;
  if (lane == 0) at = atomicAdd(&p.control[0], parts);
  at = __shfl_sync(~0u, at, 0);
  for (int i = lane; i < parts; i += 32) p.items[at + i] = make_int4(unit, i, parts, dense);
}

template <int D, int GP> __device__ void select_unit(const Params &p) {
  __shared__ SelectShared sh;
  wait_for_previous();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, j = lane % 4, head8 = lane / 4;
  const int ranks = p.ranks, rank = ranks > 1 ? cluster_rank() : 0;
  const int unit = blockIdx.x / ranks, s = unit / p.kvHeads, h = unit % p.kvHeads, G = p.group;
  const int n = p.lens[s], blocks = (n + BLOCK - 1) / BLOCK;
  if (n <= 0) return;
  if (n < p.denseBelow) {
    if (threadIdx.x == 0) p.counts[unit * RANKS + rank] = make_int2(-1, -1);
    if (rank == 0 && warp == 0) {
      enqueue(p, unit, n * 5, 1, lane);
      if (lane < G) p.held[unit * HEADS + lane] = make_float2(1, 0), p.stats[unit * HEADS + lane] = make_float4(n, n, n, 0);
    }
    let_next_start();
    return;
  }
  const int firstBlock = blocks * rank / ranks, endBlock = blocks * (rank + 1) / ranks;
  const int newest = (n - 1) / PAGE, encoded = n / PAGE;
  const int *table = p.table + s * p.tableStride;
  const size_t cap = (size_t)p.maxBlocks * BLOCK;
  float *scores = p.scores + (size_t)unit * G * p.maxBlocks * PAGES;
  u8 *pages = p.pages + (size_t)unit * p.maxBlocks * PAGES;
  short *logits = p.logits + unit * cap * GP;
  const bool shared = p.flags & SHARED, perHead = p.flags & PER_HEAD, byToken = p.flags & TOKEN_CODES;

  u32 q[D / 8];
  queries<D>(q, p, unit, lane);
  const u32 even = bits(__float2half2_rn(QUERY_SCALE)), odd = bits(__float2half2_rn(QUERY_SCALE / 16));
  if (threadIdx.x < HEADS) {
    sh.top[threadIdx.x] = sh.most[threadIdx.x] = ordered(-INFINITY), sh.bottom[threadIdx.x] = ordered(-INFINITY);
    sh.heaviest[threadIdx.x] = NONE;
  }
  for (int i = threadIdx.x; i < HEADS * BINS; i += blockDim.x) sh.histogram[i / BINS][i % BINS] = 0;
  __syncthreads();

  // The newest page has no codes, or they are young: its logits are exact, and the reference of all others.
  float fresh[2][4] = {};
  if (warp == 0) {
    const size_t row = ((size_t)table[newest * PAGE / BLOCK] * p.kvHeads + h) * BLOCK + newest * PAGE % BLOCK;
    float top = -INFINITY;
#pragma unroll
    for (int tile = 0; tile < 2; tile++) {
      u32 k[D / 8] = {};
      if (newest * PAGE + tile * 8 + head8 < n) load<D / 8>(k, p.k + (row + tile * 8 + head8) * D + j * (D / 4));
      products<D>(fresh[tile], q, k);
      for (int e = 0; e < 2; e++) {
        fresh[tile][e] *= p.scale;
        if (newest * PAGE + tile * 8 + j * 2 + e < n) top = fmaxf(top, fresh[tile][e]);
      }
    }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1)), top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    if (j == 0) sh.reference[head8] = top;
  }

  // Page bounds: q⁺·largest + q⁻·smallest.
  {
    float top = -INFINITY, bottom = INFINITY;
    for (int b = firstBlock + warp; b < endBlock; b += WARPS) {
      const size_t bh = (size_t)table[b] * p.kvHeads + h;
      if (b + WARPS < endBlock) {
        const size_t ahead = (size_t)table[b + WARPS] * p.kvHeads + h;
        if (lane < PAGES * D / 128) prefetch(p.bounds + ahead * PAGES * D + lane * 128);
        else if (lane - PAGES * D / 128 < D * 4 / 128) prefetch((const u8 *)p.range + ahead * D * 4 + (lane - PAGES * D / 128) * 128);
      }
      u32 low[D / 8], step[D / 8], up[D / 8];
      load<D / 8>(low, p.range + bh * 2 * D + j * (D / 4));
      load<D / 8>(step, p.range + (bh * 2 + 1) * D + j * (D / 4));
      u32 codes[2][2][D / 32];
#pragma unroll
      for (int tile = 0; tile < 2; tile++) {
        const u8 *at = p.bounds + (bh * PAGES + tile * 8 + head8) * D + j * (D / 8);
        load<D / 32>(codes[tile][0], at);
        load<D / 32>(codes[tile][1], at + D / 2);
      }
      float base[4] = {};
      products<D>(base, q, low);
#pragma unroll
      for (int i = 0; i < D / 8; i++) {
        __half2 a = __hmul2(halves(q[i]), halves(times(step[i], i % 2 ? odd : even))), zero = __float2half2_rn(0);
        up[i] = bits(__hmax2(a, zero)), step[i] = bits(__hmin2(a, zero));
      }
#pragma unroll
      for (int tile = 0; tile < 2; tile++) {
        float c[4] = {};
        coded<D>(c, up, codes[tile][0]);
        coded<D>(c, step, codes[tile][1]);
        for (int e = 0; e < 2; e++) {
          int page = b * PAGES + tile * 8 + j * 2 + e;
          if (page < encoded && page != newest && head8 < G) {
            float x = (base[0] + c[e] * CODED) * p.scale;
            scores[head8 * p.maxBlocks * PAGES + page] = x;
            top = fmaxf(top, x), bottom = fminf(bottom, x);
          }
        }
      }
    }
    for (int d = 1; d < 4; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d)), bottom = fminf(bottom, __shfl_xor_sync(~0u, bottom, d));
    if (j == 0) atomicMax(&sh.top[head8], ordered(top)), atomicMax(&sh.bottom[head8], ordered(-bottom));
  }
  cluster_sync();
  if (warp < G) {  // a warp for each head, a lane for each rank
    int top = ordered(-INFINITY), bottom = top;
    if (lane < ranks) top = peek(&sh.top[warp], lane), bottom = peek(&sh.bottom[warp], lane);
    top = __reduce_max_sync(~0u, top), bottom = __reduce_max_sync(~0u, bottom);
    if (lane == 0) sh.best[warp] = unordered(top), sh.span[warp] = fmaxf(unordered(top) + unordered(bottom), 1e-6f);
  }
  __syncthreads();

  // Candidate pages: the best by a histogram of the distance to the best; with one list for the group, by the head to which a page matters most.
  const int lists = shared ? 1 : G, old = encoded - (newest < encoded);
  const int budget = min(p.budget > 0 ? p.budget : (int)(p.keep * (newest + 1) + 0.5f), old);
  float widest = 0;
  for (int g = 0; g < G; g++) widest = fmaxf(widest, sh.span[g]);
  // The distance replaces the score that it came from; the same thread reads it again below.
  auto bin_of = [&](int list, int page) {
    return min((int)(scores[list * p.maxBlocks * PAGES + page] * ((BINS - 1) / (shared ? widest : sh.span[list]))), BINS - 1);
  };
#pragma unroll 2
  for (int page = firstBlock * PAGES + threadIdx.x; page < min(endBlock * PAGES, encoded); page += blockDim.x) {
    float least = INFINITY;
    for (int g = 0; g < G; g++) {
      const float distance = sh.best[g] - scores[g * p.maxBlocks * PAGES + page];
      least = fminf(least, distance);
      if (!shared) scores[g * p.maxBlocks * PAGES + page] = distance;
    }
    if (shared) scores[page] = least;
    if (page == newest) continue;
    for (int l = 0; l < lists; l++) atomicAdd(&sh.histogram[l][bin_of(l, page)], 1);
  }
  cluster_sync();
  for (int l = rank; l < lists; l += ranks) {
    join(sh, l, ranks);
    if (warp == 0) {
      int bin = last_bin(sh, budget, lane);
      if (lane < ranks) poke(&sh.threshold[l][0], lane, bin);
    }
    __syncthreads();
  }
  cluster_sync();
  for (int i = threadIdx.x; i < HEADS * BINS; i += blockDim.x) sh.histogram[i / BINS][i % BINS] = 0;
  // The list of candidates takes the place of scores that were read before.
  int *candidate = (int *)scores + firstBlock * PAGES, found = 0;
  for (int first = firstBlock * PAGES, round = 0; first < endBlock * PAGES; first += blockDim.x, round ^= 1) {
    const int page = first + threadIdx.x;
    u32 who = 0;
    if (page >= endBlock * PAGES) {
      // beyond the rank's range
    } else if (page == newest) {
      who = 0xff;
    } else if (page < encoded && budget > 0) {
      for (int l = 0; l < lists; l++) who |= (bin_of(l, page) <= sh.threshold[l][0] ? 1u : 0u) << l;
      if (shared) who = who ? 0xff : 0;
    }
    if (page < endBlock * PAGES) pages[page] = who;
    const u32 marked = __ballot_sync(~0u, who != 0);
    if (lane == 0) sh.found[round][warp] = __popc(marked);
    __syncthreads();
    int before = found;
    for (int w = 0; w < WARPS; w++) {
      if (w < warp) before += sh.found[round][w];
      found += sh.found[round][w];
    }
    if (who) candidate[before + __popc(marked & ((1u << lane) - 1))] = page;
  }
  __syncthreads();

  // Estimated logits of the candidates.
  {
    int heaviest = NONE;
    const float reference = sh.reference[head8], unitScale = p.scale * PER_OCTAVE;
    short *mine = logits + head8;
    auto put = [&](int token, bool counts, float x) {  // x in steps from the reference
      const short i = counts ? nearest(x) : NONE;
      if (head8 < G) heaviest = max(heaviest, (int)i);
      if (head8 < GP) mine[(size_t)token * GP] = i;
    };
    if (warp == 0 && newest / PAGES >= firstBlock && newest / PAGES < endBlock) {
      for (int tile = 0; tile < 2; tile++) {
        for (int e = 0; e < 2; e++) {
          int token = newest * PAGE + tile * 8 + j * 2 + e;
          put(token, token < n, (fresh[tile][e] - reference) * PER_OCTAVE);
        }
      }
    }
    float sum = 0;  // of the query's channels, for codes by token
    if (byToken) {
      const u32 ones = bits(__float2half2_rn(1));
      float c[4] = {};
#pragma unroll
      for (int i = 0; i < D / 16; i++) mma(c, q[2 * i], 0, q[2 * i + 1], 0, ones, ones);
      sum = c[0] * unitScale;
    }
    const u8 *source = byToken ? p.tokenCodes : p.keyCodes;
    uint4 marks = firstBlock + warp < endBlock ? *(const uint4 *)(pages + (firstBlock + warp) * PAGES) : make_uint4(0, 0, 0, 0);
    for (int b = firstBlock + warp; b < endBlock; b += WARPS) {
      const uint4 here = marks;
      if (b + WARPS < endBlock) {  // a lane fetches ahead half a page of the warp's next block
        marks = *(const uint4 *)(pages + (b + WARPS) * PAGES);
        const size_t ahead = (size_t)table[b + WARPS] * p.kvHeads + h;
        const u32 mine = (lane < 16 ? lane < 8 ? marks.x : marks.y : lane < 24 ? marks.z : marks.w) >> (lane / 2 % 4 * 8) & 0xff;
        if (mine) {
#pragma unroll
          for (int i = 0; i < D * 4 / 128; i++) prefetch(source + (ahead * BLOCK + lane * 8) * (D / 2) + i * 128);
        }
        if (!byToken && lane < D * 4 / 128) prefetch((const u8 *)p.range + ahead * D * 4 + lane * 128);
      }
      auto nonzero = [](u32 w) { return __vminu4(w, 0x01010101) * 0x10204080u >> 28; };  // a bit a byte
      u32 todo = nonzero(here.x) | nonzero(here.y) << 4 | nonzero(here.z) << 8 | nonzero(here.w) << 12;
      if (newest / PAGES == b) todo &= ~(1u << newest % PAGES);
      if (todo == 0) continue;
      const size_t bh = (size_t)table[b] * p.kvHeads + h;
      u32 a[D / 8];
      float start = -reference * PER_OCTAVE;
      if (byToken) {
#pragma unroll
        for (int i = 0; i < D / 8; i++) a[i] = times(q[i], i % 2 ? odd : even);
      } else {
        u32 low[D / 8];
        load<D / 8>(low, p.range + bh * 2 * D + j * (D / 4));
        load<D / 8>(a, p.range + (bh * 2 + 1) * D + j * (D / 4));
        float c[4] = {};
        products<D>(c, q, low);
        start += c[0] * unitScale;
#pragma unroll
        for (int i = 0; i < D / 8; i++) a[i] = times(q[i], times(a[i], i % 2 ? odd : even));
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
            const u8 *at = source + (bh * BLOCK + page[i] * PAGE + head8) * (D / 2) + j * (D / 8);
            load<D / 32>(codes[i][0], at);
            load<D / 32>(codes[i][1], at + 8 * (D / 2));
          }
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
          if (page[i] < 0) break;
          const bool counts = shared || pages[b * PAGES + page[i]] >> head8 & 1;
#pragma unroll
          for (int tile = 0; tile < 2; tile++) {
            float c[4] = {};
            coded<D>(c, a, codes[i][tile]);
            const int token = page[i] * PAGE + tile * 8 + j * 2;
            float x[2] = {c[0] * (CODED * unitScale) + start, c[1] * (CODED * unitScale) + start};
            if (byToken) {
              const uint2 par = *(const uint2 *)(p.tokenScale + bh * BLOCK + token);
              x[0] = half_of(par.x, 0) * (c[0] * (CODED * unitScale)) + half_of(par.x, 1) * sum + start;
              x[1] = half_of(par.y, 0) * (c[1] * (CODED * unitScale)) + half_of(par.y, 1) * sum + start;
            }
            put(b * BLOCK + token, counts, x[0]);
            put(b * BLOCK + token + 1, counts, x[1]);
          }
        }
      }
    }
    heaviest = max(heaviest, __shfl_xor_sync(~0u, heaviest, 1)), heaviest = max(heaviest, __shfl_xor_sync(~0u, heaviest, 2));
    if (j == 0) atomicMax(&sh.heaviest[head8], heaviest);
  }
  cluster_sync();
  {
    const int m = __reduce_max_sync(~0u, lane < ranks ? (int)peek(&sh.heaviest[warp], lane) : NONE);
    if (lane == 0) sh.most[warp] = m;
  }
  __syncthreads();

  // A lane holds half a candidate page: eight tokens, [token][head]. A warp holds sixteen pages.
  union Lane {
    uint4 raw[GP];
    short x[8 * GP];
  };
  auto fetch = [&](Lane &v, int first) -> int {  // the first token, or −1
    const int i = first + lane / 2;
    if (i >= found) return -1;
    const int token = candidate[i] * PAGE + lane % 2 * 8;
    const uint4 *at = (const uint4 *)(logits + (size_t)token * GP);
#pragma unroll
    for (int i = 0; i < GP; i++) v.raw[i] = at[i];
    return token;
  };

  // Threshold: a histogram of the distance to the heaviest, then the bins that hold the mass.
  for (int first = warp * 16; first < found; first += WARPS * 16) {
    Lane v;
    if (fetch(v, first) < 0) continue;
#pragma unroll
    for (int g = 0; g < GP; g++) {
      if (g >= G) break;
      const int most = sh.most[g];
#pragma unroll
      for (int t = 0; t < 8; t++) {
        const int x = v.x[t * GP + g];
        if (x != NONE) atomicAdd(&sh.histogram[g][min((most - x) >> BIN_SHIFT, BINS - 1)], 1);
      }
    }
  }
  cluster_sync();
  for (int g = rank; g < G; g += ranks) {
    join(sh, g, ranks);
    if (warp < 2) {
      int bin = mass_bin(sh, warp == 0 ? p.exactMass : p.mass, lane);
      if (lane < ranks) poke(&sh.threshold[g][warp], lane, bin);
    }
    __syncthreads();
  }
  cluster_sync();
  let_next_start();

  // Survivors, in order of their position.
  u32 *list = p.list + unit * cap;
  const int start = firstBlock * BLOCK, end = endBlock * BLOCK;
  int exact = 0, others = 0;
  float total[GP], kept[GP];
  int own[GP], candidates[GP];
#pragma unroll
  for (int g = 0; g < GP; g++) total[g] = kept[g] = 0, own[g] = candidates[g] = 0;
  Lane next;
  int nextToken = fetch(next, warp * 16);
  for (int first = 0, round = 0; first < found; first += WARPS * 16, round ^= 1) {
    const Lane v = next;
    const int token = nextToken;
    nextToken = fetch(next, first + (WARPS + warp) * 16);
    u32 a = 0, any = 0;
    u32 mine[GP] = {};
    if (token >= 0) {
      const int page = token / PAGE, tokens = page == newest ? min(max(n - token, 0), 8) : 8;
      const u32 who = shared ? 0xff : pages[page];
#pragma unroll
      for (int g = 0; g < GP; g++) {
        if (g >= G) break;
        // The first logit that is kept: of the last bin all that is none.
        const int binA = sh.threshold[g][0], binB = sh.threshold[g][1], most = sh.most[g];
        const int leastA = binA == BINS - 1 ? NONE + 1 : max(most - (binA + 1 << BIN_SHIFT), (int)NONE) + 1;
        const int leastB = binB == BINS - 1 ? NONE + 1 : max(most - (binB + 1 << BIN_SHIFT), (int)NONE) + 1;
#pragma unroll
        for (int t = 0; t < 8; t++) {
          const int x = v.x[t * GP + g];
          a |= (x >= leastA ? 1u : 0u) << t;
          mine[g] |= (x >= leastB ? 1u : 0u) << t;
        }
        candidates[g] += who >> g & 1 ? tokens : 0;
        any |= mine[g];
      }
      if (page == newest) {
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
        const float top = sh.most[g] * (1.0f / PER_OCTAVE);
#pragma unroll
        for (int t = 0; t < 8; t++) {  // what is no candidate weighs nothing that counts
          const float w = power(v.x[t * GP + g] * (1.0f / PER_OCTAVE) - top);
          total[g] += w;
          if (in >> t & 1) kept[g] += w;
        }
      }
    }
    const u32 body = any & ~a;
    const u32 count = __popc(a) | __popc(body) << 16;
    u32 before = count;
    for (int d = 1; d < 32; d *= 2) {
      u32 x = __shfl_up_sync(~0u, before, d);
      if (lane >= d) before += x;
    }
    if (lane == 31) sh.found[round][warp] = before;
    before -= count;
    __syncthreads();
    u32 sum = 0;
    for (int w = 0; w < WARPS; w++) {
      if (w == warp) before += sum;
      sum += sh.found[round][w];
    }
    int atA = start + exact + (before & 0xffff), atB = end - 1 - others - (before >> 16);
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

  // What the unit's survivors hold, and the items of work that they make.
#pragma unroll
  for (int g = 0; g < GP; g++) {
    float x[4] = {total[g], kept[g], (float)own[g], (float)candidates[g]};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      for (int d = 16; d > 0; d /= 2) x[i] += __shfl_xor_sync(~0u, x[i], d);
      if (lane == 0) sh.mass[warp][g][i] = x[i];
    }
  }
  if (threadIdx.x == 0) {
    sh.survivors[0] = exact, sh.survivors[1] = others;
    p.counts[unit * RANKS + rank] = make_int2(exact, others);
  }
  __syncthreads();
  if (threadIdx.x < GP * 4) {
    float x = 0;
    for (int w = 0; w < WARPS; w++) x += sh.mass[w][threadIdx.x / 4][threadIdx.x % 4];
    sh.unitMass[threadIdx.x / 4][threadIdx.x % 4] = x;
  }
  cluster_sync();
  if (rank == 0) {
    exact = lane < ranks ? (int)peek(&sh.survivors[0], lane) : 0, others = lane < ranks ? (int)peek(&sh.survivors[1], lane) : 0;
    exact = __reduce_add_sync(~0u, exact), others = __reduce_add_sync(~0u, others);
    if (warp < G) {
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        x[i] = lane < ranks ? __uint_as_float(peek(&sh.unitMass[warp][i], lane)) : 0;
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        for (int d = 16; d > 0; d /= 2) x[i] += __shfl_xor_sync(~0u, x[i], d);
      }
      if (lane == 0) {
        p.held[unit * HEADS + warp] = make_float2(fminf(x[1] / x[0], 1.0f), sh.reference[warp]);
        p.stats[unit * HEADS + warp] = make_float4(x[3], x[2], exact, others);
      }
    }
    if (warp == WARPS - 1) enqueue(p, unit, exact * 5 + others, 0, lane);
  }
  cluster_sync();
}

// plan makes the items of dense attention: grid batch·kvHeads, one warp.
__device__ inline void plan_dense(const Params &p) {
  wait_for_previous();
  let_next_start();
  const int n = p.lens[blockIdx.x / p.kvHeads];
  if (n > 0) enqueue(p, blockIdx.x, n * 5, 1, threadIdx.x);
}
