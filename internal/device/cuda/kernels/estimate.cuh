// The middle of select: estimated logits of the candidates from 4-bit codes, and the weights' thresholds from their histogram.
#pragma once
#include <string.h>
#include "pages.cuh"

// A warp's ring of candidate pages in shared memory, which copies fill while the warp computes: a page's codes; its block's steps, unless the page before is of the same block, or its tokens' scales;
// which page it is; and its block and the heads whose candidate it is. Each part stands by itself and begins with a bank: a copy of 128 bytes that does not takes twice as long. operator.go knows the
// size.
template <int D> struct alignas(128) Ring {
  static constexpr int SLOTS = D <= 128 ? 768 / D : 4;
  static_assert(SLOTS % 2 == 0, "pages are computed by pairs");
  u8 codes[SLOTS][PAGE * D / 2];
  __half step[SLOTS][D];
  int page[SLOTS];
  u32 kind[SLOTS];  // block << 8 | heads
};

// A float so large has units for its last place: adding it rounds, and what was added stands in the low bits.
constexpr float ROUND = 12582912.0f;
// Estimates start there for a head whose candidate a page is not: out of reach. For them the distance is NONE, which is added to FAR in two heads' word.
constexpr float OUT_OF_REACH = 1e30f;
constexpr u32 AWAY = NONE << 16 | NONE;

// distance_of is an estimate's distance from the window's upper end, in the low 16 bits: `scale` times x below `start`, which has ROUND in it.
__device__ inline u32 distance_of(float x, float scale, float start) { return __float_as_int(fminf(fmaxf(fmaf(x, scale, start), ROUND), ROUND + FAR)); }

// count_distance counts one in a head's histogram, or `elsewhere` if it is far: a place of the thread's own costs less than a branch, and ptxas makes one of a predicate.
__device__ inline void count_distance(u32 *histogram, u32 *elsewhere, u32 distance, u32 one) {
  atomicAdd(distance < (u32)__float_as_int(ROUND + FAR) ? histogram + (distance >> BIN_SHIFT & (BINS - 1)) : elsewhere, one);
}

// keep_queries puts the scaled queries, [GP][D], where the estimate of all warps finds them, and each one's channels summed in sh.span. One warp calls it; where ranks split a unit, another one may write
// to that place before, and each thread keeps its own.
template <int D, int GP, bool SPLIT> __device__ inline void keep_queries(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const u32 (&q)[D / 8]) {
  const int j = u.lane % 4, row = u.lane / 4;
  static_assert(sizeof sh.coarse >= GP * D * sizeof(__half), "queries find room");
  if (!SPLIT && row < GP) {
#pragma unroll
    for (int i = 0; i < D / 8; i++) ((u32 *)sh.coarse)[row * (D / 2) + j * (D / 8) + i] = q[i];
  }
  if (!(p.flags & TOKEN_CODES)) return;
  const u32 even = bits(__float2half2_rn(1 / QUERY_SCALE)), odd = bits(__float2half2_rn(16 / QUERY_SCALE));
  float c[4] = {};
#pragma unroll
  for (int i = 0; i < D / 16; i++) mma(c, even, even, odd, odd, q[2 * i], q[2 * i + 1]);
  if (row == 0) sh.span[2 * j] = c[0], sh.span[2 * j + 1] = c[1];
}

// estimate_logits estimates the logits of the candidates and counts them by weight. `fresh` is warp 0's: the exact logits of the newest page. With `every`, each page is a
// candidate and is marked here. A warp goes through a run of the rank's candidates, two at a time, while those that follow are on their way to its ring.
template <int D, int GP, bool BY_TOKEN, bool SPLIT>
__device__ inline void estimate_logits(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r, const u32 (&q)[D / 8], const float (&fresh)[4], int found, bool every, Ring<D> &ring) {
  constexpr bool PAIRS = GP == HEADS;
  constexpr int STARTS = PAIRS ? 2 : GP, WORDS = (STARTS + 1) / 2, SLOTS = Ring<D>::SLOTS;
  const int j = u.lane % 4, row = u.lane / 4;
  const float steps = p.scale * PER_OCTAVE;
  const u32 one = one_of(p);
  auto head = [&](int i) { return PAIRS ? 2 * j + i : i; };
  float window[STARTS];  // the window's upper end, and ROUND
  u32 *const histogram = sh.histogram[head(0)], *const elsewhere = sh.elsewhere + u.lane;
  // Eight heads are taken as the tensor cores leave them: a thread has two of tokens row and row+8. Of fewer each lane gets all, through a tile, of one of 32 tokens.
  float *tile = PAIRS ? nullptr : sh.tile[u.warp];
  auto spread = [&](int first, const float (&c)[4]) {
    if (2 * j >= GP) return;
    float *at = tile + (first + row) * GP + 2 * j;
    if constexpr (GP > 1) *(float2 *)at = make_float2(c[0], c[1]), *(float2 *)(at + 8 * GP) = make_float2(c[2], c[3]);
    else at[0] = c[0], at[8] = c[2];
  };
  short *const out = r.logits + (PAIRS ? row * GP + 2 * j : 0);
  auto emit_pair = [&](short *at, float x, float y, float scale, const float (&start)[STARTS], u32 away) {
    const u32 a = distance_of(x, scale, start[0]), b = distance_of(y, scale, start[1]);
    count_distance(histogram, elsewhere, a, one), count_distance(histogram + BINS, elsewhere, b, one);
    *(u32 *)at = __byte_perm(a, b, 0x5410) | away;
  };
  auto emit_row = [&](bool in, int token, const float *products, float scale, const float (&start)[STARTS], const u32 (&away)[WORDS]) {
    u32 x[GP], words[WORDS];
    load<GP>(x, products);
#pragma unroll
    for (int g = 0; g < GP; g++) {
      x[g] = distance_of(__int_as_float(x[g]), scale, start[g]);
    }
#pragma unroll
    for (int g = 0; g < GP; g++) count_distance(histogram + g * BINS, elsewhere, in ? x[g] : ~0u, one);
#pragma unroll
    for (int i = 0; i < WORDS; i++) words[i] = (GP > 1 ? __byte_perm(x[2 * i], x[GP > 1 ? 2 * i + 1 : 0], 0x5410) : x[0]) | away[i];
    if (!in) return;
    if constexpr (GP == 1) {
      out[token] = words[0];
    } else {
      typename Vec<WORDS>::T v;
      memcpy(&v, words, sizeof v);
      *(typename Vec<WORDS>::T *)(out + (size_t)token * GP) = v;
    }
  };
  // bounded asks for the logits of the low of a slot's block, unless the page before is of the same block and the same heads' candidate; and keeps for whom it is none.
  float base[STARTS];
  u32 away[WORDS], bounds = ~0u;
  auto bounded = [&](int slot) {
    if (ring.kind[slot] == bounds) return;
    bounds = ring.kind[slot];
    const float *const at = r.bases + (bounds >> 8) * 2 * HEADS;
#pragma unroll
    for (int i = 0; i < STARTS; i++) {
      const bool in = bounds >> head(i) & 1;
      base[i] = !in ? -OUT_OF_REACH : BY_TOKEN ? 0 : at[head(i)];
      away[i / 2] = (i % 2 ? away[i / 2] : 0) | (in ? 0 : NONE << 16 * (i % 2));
    }
  };
  // started is where the estimates of that page start.
  auto started = [&](float (&start)[STARTS]) {
#pragma unroll
    for (int i = 0; i < STARTS; i++) start[i] = fmaf(base[i], -PER_OCTAVE, window[i]);
  };
  auto look = [&] {
#pragma unroll
    for (int i = 0; i < STARTS; i++) window[i] = head(i) < u.G ? unordered(sh.reference[head(i)]) * PER_OCTAVE + (WINDOW - 1) + ROUND : OUT_OF_REACH;
  };
  // The warp's run, 32 candidates at a time: a lane holds a page, its block's slab and whose candidate it is; and those of the next 32.
  const int old = found - r.newestHere, from = u.share(old, u.warp), to = u.share(old, u.warp + 1);
  int begin = from, page = -1, pageAhead = -1, pageBeyond = -1, slabAhead = 0;
  u32 place = 0, kind = 0xff, whoAhead = 0xff;  // place: of the page among all of the slabs', and whether the page before is of another block
  constexpr u32 NEW = 1u << 31;
  auto candidate = [&](int i) { return i >= to ? -1 : every ? i : r.candidate[i]; };
  // ahead asks for what is known only by the pages of the next 32, and for the pages of those after them.
  auto ahead = [&](int first) {
    pageAhead = pageBeyond;
    if (pageAhead >= 0) {
      slabAhead = r.table[pageAhead / PAGES];
      if (every) r.marks[pageAhead] = 0xff;
      else whoAhead = r.marks[pageAhead];
    }
    pageBeyond = candidate(first + 32 + u.lane);
  };
  auto turn = [&] {
    const int before = __shfl_sync(~0u, page, 31), left = __shfl_up_sync(~0u, pageAhead, 1);
    page = pageAhead, kind = (u32)page / PAGES << 8 | whoAhead;
    place = ((u32)slabAhead * p.kvHeads + u.head) * PAGES + (u32)page % PAGES | ((u32)((u.lane == 0 ? before : left) ^ page) >= PAGES ? NEW : 0);
    ahead(begin + 32);
  };
  auto account = [&] {
#pragma unroll
    for (int g = 0; g < GP; g++) {
      const int n = __popc(__ballot_sync(~0u, page >= 0 && kind >> g & 1)) * PAGE;
      if (u.lane == g && g < u.G) atomicAdd(&sh.candidates[g], n);
    }
    if (!(p.flags & TAIL)) return;
    u32 shrink[GP];
    load<GP>(shrink, r.bases + max(page, 0) / PAGES * 2 * HEADS + HEADS);
#pragma unroll
    for (int g = 0; g < GP; g++) {
      const int x = __reduce_add_sync(~0u, page < 0 ? 0 : (int)(__int_as_float(shrink[g]) * 4096));
      if (u.lane == g) atomicAdd(&sh.shrink[g], x);
    }
  };
  // ask has candidates i and i+1 copied to two slots, each by half of the warp; the last one twice, if it is alone. The first of them has its 32 looked up.
  const int side = u.lane / 16, sixteenth = u.lane % 16;
  const u8 *const codesOfLane = (BY_TOKEN ? p.tokenCodes : p.keyCodes) + sixteenth * 16;
  const u8 *const stepsOfLane = BY_TOKEN ? (const u8 *)p.tokenScale + sixteenth * 16 : (const u8 *)(p.range + D) + sixteenth * 16;
  auto ask = [&](int i, int slot) {
    if (i >= to) return;
    const int from = min(i + side, to - 1) - begin;
    const u32 of = __shfl_sync(~0u, kind, from), flagged = __shfl_sync(~0u, place, from), at = flagged & ~NEW;
    slot += side;
    if (sixteenth == 0) ring.page[slot] = of >> 8 << 4 | at % PAGES, ring.kind[slot] = of;
#pragma unroll
    for (int k = 0; k < D / 32; k++) copy_async(ring.codes[slot] + (k * 16 + sixteenth) * 16, codesOfLane + (size_t)at * (PAGE * D / 2) + k * 256);
    if (BY_TOKEN) {
      if (sixteenth < PAGE / 4) copy_async((u8 *)ring.step[slot] + sixteenth * 16, stepsOfLane + (size_t)at * (PAGE * 4));
    } else if (flagged & NEW) {
#pragma unroll
      for (int k = 0; k < D / 8; k += 16) {
        if (k + sixteenth < D / 8) copy_async(ring.step[slot] + (k + sixteenth) * 8, stepsOfLane + (size_t)(at / PAGES) * (4 * D) + k * 16);
      }
    }
  };
  // compute multiplies two pages with the queries times the steps of their block, which stay for the block's other pages.
  u32 a[D / 8], stepped = ~0u;
  auto step = [&](int slot) {
    if (ring.kind[slot] >> 8 == stepped) return;
    if (stepped == ~0u || !BY_TOKEN) {
      u32 kept[D / 8];
#pragma unroll
      for (int i = 0; i < D / 8; i++) kept[i] = SPLIT ? q[i] : 0;
      if (!SPLIT && row < GP) load<D / 8>(kept, (const u32 *)sh.coarse + row * (D / 2) + j * (D / 8));
      load<D / 8>(a, ring.step[slot] + j * (D / 4));
#pragma unroll
      for (int i = 0; i < D / 8; i++) a[i] = BY_TOKEN ? kept[i] : times(kept[i], a[i]);
    }
    stepped = ring.kind[slot] >> 8;
  };
  auto compute = [&](int x, int y, float (&c)[2][4]) {
    u32 codes[4][D / 32];
#pragma unroll
    for (int i = 0; i < 4; i++) load<D / 32>(codes[i], ring.codes[i < 2 ? x : y] + (row + i % 2 * 8) * (D / 2) + j * (D / 8));
    step(x);
    if (ring.kind[y] >> 8 == stepped) {  // nothing between, so that one's products fill the other's waits
      coded<D>(c[0], codes[0], codes[1], a), coded<D>(c[1], codes[2], codes[3], a);
    } else {
      coded<D>(c[0], codes[0], codes[1], a);
      step(y);
      coded<D>(c[1], codes[2], codes[3], a);
    }
  };
  auto emit = [&](int slot, const float (&c)[4]) {  // of a page, as the tensor cores leave it
    if constexpr (PAIRS) {
      float start[2];
      started(start);
      short *const at = out + (size_t)(u32)ring.page[slot] * (PAGE * GP);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float scale = -CODED * steps, first[2] = {start[0], start[1]};
        if (BY_TOKEN) {
          const u32 par = ((const u32 *)ring.step[slot])[row + half * 8];
          scale *= half_of(par, 0);
#pragma unroll
          for (int i = 0; i < 2; i++) first[i] -= half_of(par, 1) * (sh.span[head(i)] * steps);
        }
        emit_pair(at + half * 8 * GP, c[half * 2], c[half * 2 + 1], scale, first, away[0]);
      }
    }
  };
  auto newest = [&] {
    if (u.warp != 0 || !r.newestHere) return;
    const int page = r.pages() - 1, token = page * PAGE, tokens = r.n - r.newest * PAGE;
    float start[STARTS];
    if constexpr (PAIRS) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const bool in = row + 8 * i < tokens;
#pragma unroll
        for (int k = 0; k < 2; k++) start[k] = in ? window[k] : OUT_OF_REACH;
        emit_pair(out + (size_t)(token + 8 * i) * GP, fresh[2 * i], fresh[2 * i + 1], -PER_OCTAVE, start, in ? 0 : AWAY);
      }
    } else {
      spread(0, fresh);
      __syncwarp();
      const bool in = u.lane < tokens;
      u32 none[WORDS];
#pragma unroll
      for (int k = 0; k < STARTS; k++) start[k] = in ? window[k] : OUT_OF_REACH, none[k / 2] = in ? 0 : AWAY;
      emit_row(u.lane < PAGE, token + u.lane, tile + u.lane * GP, -PER_OCTAVE, start, none);
      __syncwarp();
    }
    if (u.lane < u.G) atomicAdd(&sh.candidates[u.lane], tokens);
    if (every && u.lane == 0) r.marks[page] = 0xff;
  };
  pageBeyond = candidate(from + u.lane), ahead(from);
  turn();
  int here = 0, fill = 0;
  for (int i = from - (SLOTS - 2); i < to; i += 2) {  // at first there is nothing to compute
    wait_copies<SLOTS / 2 - 2>();
    __syncwarp();  // everybody's copies, and nobody reads the slots that are filled next
    const int next = i + SLOTS - 2;
    ask(next, fill);
    commit_copies();
    fill = fill + 2 == SLOTS ? 0 : fill + 2;
    const bool first = i + 2 == from, last = next + 2 < to && next + 2 >= begin + 32;  // nothing is there yet; all of the 32 are asked for
    if (first || last) {
      if (last) begin += 32, turn();
      if (first) look(), newest();
      account();
    }
    if (i < from) continue;
    const int x = here, y = here + 1;
    here = y + 1 == SLOTS ? 0 : y + 1;
    const bool both = i + 1 < to;
    float c[2][4] = {};
    if constexpr (PAIRS) {
      bounded(x);
      compute(x, y, c);
      emit(x, c[0]);
      if (both) bounded(y), emit(y, c[1]);
    } else {
      const int mine = u.lane < 16 ? x : y;
      bounded(mine);
      compute(x, y, c);
      spread(0, c[0]), spread(16, c[1]);
      __syncwarp();
      float scale = -CODED * steps, start[STARTS];
      started(start);
      if (BY_TOKEN) {
        const u32 par = ((const u32 *)ring.step[mine])[u.lane % 16];
        scale *= half_of(par, 0);
#pragma unroll
        for (int g = 0; g < GP; g++) start[g] -= half_of(par, 1) * (sh.span[head(g)] * steps);
      }
      emit_row(u.lane < 16 || both, ring.page[mine] * PAGE + u.lane % 16, tile + u.lane * GP, scale, start, away);
      __syncwarp();
    }
  }
}

// find_thresholds tells which bins survive, each rank for itself. The unit must wait once more before memory that others look at changes.
template <int GP> __device__ inline void find_thresholds(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u) {
  __syncthreads();
  gather<true>(sh, u, u.G);
  u.sync();
  for (int i = u.warp; i < 2 * u.G; i += u.warps) {  // two for a head: what is read exactly, and what survives
    const int g = i / 2;
    const float share = i % 2 ? p.mass : p.exactMass;
    const Weights w(sh, u, g);
    const int at = w.lane_of(share);
    const u32 held = u.total(&sh.histogram[g][max(at, 0) * EACH + u.lane]);
    float rest, shrink = 1;
    const int bin = w.cut(share, at, held, rest);
    if (i % 2 == 0) {
      if (u.lane == 0) sh.threshold[g].exact = bin;
      continue;
    }
    if (p.flags & TAIL) {
      const int sum = __reduce_add_sync(~0u, u.lane < u.ranks ? peek(&sh.shrink[g], u.lane) : 0), tokens = __reduce_add_sync(~0u, u.lane < u.ranks ? peek(&sh.candidates[g], u.lane) : 0);
      const int pages = (tokens - 1) / PAGE;  // but the newest, which may be full
      if (pages > 0) shrink = fminf(__fdividef(sum, 4096.0f * pages), 1.0f);
    }
    // For statistics, what survives of the rank.
    const int whole = (bin + 1) / EACH, over = (bin + 1) % EACH;
    const u32 own = __reduce_add_sync(~0u, (u.lane < whole ? sh.counts[g][u.lane] : 0) + (u.lane < over ? sh.histogram[g][whole * EACH + u.lane] : 0));
    if (u.lane == 0) sh.threshold[g].last = bin, sh.threshold[g].rest = rest, sh.threshold[g].shrink = shrink, sh.own[g] = own;
  }
  __syncthreads();
  u.read();
}
