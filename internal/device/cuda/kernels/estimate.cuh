// The middle of select: estimated logits of the candidates from 4-bit codes, and the weights' thresholds from their histogram.
#pragma once
#include <string.h>
#include "pages.cuh"

// A warp's ring of candidate pages in shared memory, which copies fill while the warp computes: a page's codes; its block's steps, or its tokens' scales; the logits of its
// block's low; and which page it is. operator.go knows the size.
template <int D> struct Slot {
  u8 codes[PAGE * D / 2];
  __half step[D];
  float base[HEADS];
  int page;  // −1: none
  u32 who;   // whose candidate it is
  int unused[2];
};
template <int D> struct Ring {
  static constexpr int SLOTS = D <= 128 ? 768 / D : 4;
  static_assert(SLOTS % 2 == 0, "pages are computed by pairs");
  Slot<D> slot[SLOTS];
};

// A float so large has units for its last place: adding it rounds, and what was added stands in the low bits.
constexpr float ROUND = 12582912.0f;
// start_of is where estimates start for a head whose candidate a page is not: out of reach. For them the distance is NONE.
constexpr float OUT_OF_REACH = 1e30f;

// distance_of is an estimate's distance from the window's upper end, in the low 16 bits: `scale` times x below `start`, which has ROUND in it, and at most `most`.
__device__ inline u32 distance_of(float x, float scale, float start, float most) { return __float_as_int(fminf(fmaxf(fmaf(x, scale, start), ROUND), most)); }

// count_distance counts one in a head's histogram, or `elsewhere` if it is far: a place of the thread's own costs less than a branch.
__device__ inline void count_distance(u32 *histogram, u32 *elsewhere, u32 distance, u32 one) {
  atomicAdd(distance < (u32)__float_as_int(ROUND + FAR) ? histogram + (distance >> BIN_SHIFT & (BINS - 1)) : elsewhere, one);
}

// estimate_logits estimates the logits of the candidates and counts them by weight. `fresh` is warp 0's: the exact logits of the newest page. With `every`, each page is a
// candidate and is marked here. A warp goes through a run of the rank's candidates, two at a time, while those that follow are on their way to its ring.
template <int D, int GP, bool SHARED_LIST, bool BY_TOKEN, bool SPLIT>
__device__ inline void estimate_logits(SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r, const u32 (&q)[D / 8], const float (&fresh)[4], int found, bool every, Ring<D> &ring) {
  constexpr bool PAIRS = GP == HEADS;
  constexpr int STARTS = PAIRS ? 2 : GP, SLOTS = Ring<D>::SLOTS;
  const int j = u.lane % 4, row = u.lane / 4;
  const float steps = p.scale * PER_OCTAVE;
  const u32 one = one_of(p);
  auto head = [&](int i) { return PAIRS ? 2 * j + i : i; };
  float window[STARTS], sum[STARTS];  // the window's upper end, and ROUND; the query's channels summed
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
  auto emit_pair = [&](short *at, float x, float y, float scale, const float (&start)[2], const float (&most)[2]) {
    const u32 a = distance_of(x, scale, start[0], most[0]), b = distance_of(y, scale, start[1], most[1]);
    count_distance(histogram, elsewhere, a, one), count_distance(histogram + BINS, elsewhere, b, one);
    *(u32 *)at = __byte_perm(a, b, 0x5410);
  };
  auto emit_row = [&](int token, const float *products, float scale, const float (&start)[STARTS], const float (&most)[STARTS]) {
    union {
      short d[GP];
      u32 words[(GP + 1) / 2];
    } v;
    u32 x[GP];  // read before anything is counted, or each would wait for the one before it
    load<GP>(x, products);
#pragma unroll
    for (int g = 0; g < GP; g++) {
      const u32 d = distance_of(__int_as_float(x[g]), scale, start[g], most[g]);
      count_distance(histogram + g * BINS, elsewhere, d, one);
      v.d[g] = d;
    }
    if constexpr (GP == 1) {
      out[token] = v.d[0];
    } else {
      typename Vec<(GP + 1) / 2>::T words;
      memcpy(&words, &v, sizeof words);
      *(typename Vec<(GP + 1) / 2>::T *)(out + (size_t)token * GP) = words;
    }
  };
  auto base_of = [&](int page) { return r.bases + page / PAGES * 2 * HEADS; };
  // bounded sets where estimates start and end for a page.
  auto bounded = [&](float (&start)[STARTS], float (&most)[STARTS], const Slot<D> &x) {
#pragma unroll
    for (int i = 0; i < STARTS; i++) {
      const bool in = SHARED_LIST || x.who >> head(i) & 1;
      start[i] = !in ? OUT_OF_REACH : BY_TOKEN ? window[i] : window[i] - (SPLIT ? base_of(x.page) : x.base)[head(i)] * PER_OCTAVE;
      most[i] = ROUND + (in ? FAR : NONE);
    }
  };
  auto look = [&] {
#pragma unroll
    for (int i = 0; i < STARTS; i++) window[i] = head(i) < u.G ? unordered(sh.reference[head(i)]) * PER_OCTAVE + (WINDOW - 1) + ROUND : OUT_OF_REACH, sum[i] = 0;
    if (!BY_TOKEN) return;
    const u32 even = bits(__float2half2_rn(1 / QUERY_SCALE)), odd = bits(__float2half2_rn(16 / QUERY_SCALE));
    float c[4] = {};
#pragma unroll
    for (int i = 0; i < D / 16; i++) mma(c, even, even, odd, odd, q[2 * i], q[2 * i + 1]);
#pragma unroll
    for (int i = 0; i < STARTS; i++) sum[i] = (PAIRS ? c[i % 2] : __shfl_sync(~0u, c[i % 2], i / 2)) * steps;
  };
  // The warp's run, 32 candidates at a time: a lane holds a page, its block's slab and whose candidate it is; and those of the next 32.
  const int old = found - r.newestHere, from = u.share(old, u.warp), to = u.share(old, u.warp + 1);
  int begin = from, page = -1, pageAhead = -1;
  u32 place = 0, placeAhead = 0, who = 0xff, whoAhead = 0xff;  // place: of the page among all of the slabs'
  auto ahead = [&](int first) {
    const int i = first + u.lane;
    pageAhead = -1;
    if (i < to) {
      pageAhead = every ? i : r.candidate[i];
      placeAhead = (u32)r.slab(p, u, pageAhead / PAGES) * PAGES + pageAhead % PAGES;
      if (!SHARED_LIST) whoAhead = r.marks[pageAhead];
      if (every) r.marks[pageAhead] = 0xff;
    }
  };
  auto turn = [&] {
    page = pageAhead, place = placeAhead, who = whoAhead;
    ahead(begin + 32);
  };
  auto account = [&] {
    if (SHARED_LIST) {
      const int n = __popc(__ballot_sync(~0u, page >= 0)) * PAGE;
      if (u.lane < u.G) atomicAdd(&sh.candidates[u.lane], n);
    } else {
      for (int g = 0; g < u.G; g++) {
        const int n = __popc(__ballot_sync(~0u, page >= 0 && who >> g & 1)) * PAGE;
        if (u.lane == g) atomicAdd(&sh.candidates[g], n);
      }
    }
    if (!(p.flags & TAIL)) return;
#pragma unroll
    for (int g = 0; g < GP; g++) {
      const int x = __reduce_add_sync(~0u, page < 0 ? 0 : (int)(base_of(page)[HEADS + g] * 4096));
      if (u.lane == g) atomicAdd(&sh.shrink[g], x);
    }
  };
  // ask has candidate i copied to a slot, if there is one. The first of a pair has its 32 looked up.
  const u8 *const codesOfLane = (BY_TOKEN ? p.tokenCodes : p.keyCodes) + u.lane * 16;
  const u8 *const stepsOfLane = BY_TOKEN ? (const u8 *)p.tokenScale + u.lane * 16 : (const u8 *)(p.range + D) + u.lane * 16;
  const float *const basesOfLane = r.bases + u.lane * 4;
  auto ask = [&](int i, Slot<D> &x) {
    if (i < to) {
      const int mine = __shfl_sync(~0u, page, i - begin);
      const u32 at = __shfl_sync(~0u, place, i - begin), whose = SHARED_LIST ? 0xff : __shfl_sync(~0u, who, i - begin);
      if (u.lane == 0) x.page = mine, x.who = whose;
#pragma unroll
      for (int k = 0; k < D / 64; k++) copy_async(x.codes + (k * 32 + u.lane) * 16, codesOfLane + (size_t)at * (PAGE * D / 2) + k * 512);
      if (BY_TOKEN) {
        if (u.lane < PAGE / 4) copy_async((u8 *)x.step + u.lane * 16, stepsOfLane + (size_t)at * (PAGE * 4));
      } else {
        if (u.lane < D / 8) copy_async(x.step + u.lane * 8, stepsOfLane + (size_t)(at / PAGES) * (4 * D));
        if (!SPLIT && u.lane < HEADS / 4) copy_async(x.base + u.lane * 4, basesOfLane + (u32)mine / PAGES * 2 * HEADS);
      }
    } else if (u.lane == 0) {
      x.page = -1;
    }
  };
  auto compute = [&](const Slot<D> &x, float (&c)[4]) {
    u32 a[D / 8], codes[2][D / 32];
    if (BY_TOKEN) {
#pragma unroll
      for (int i = 0; i < D / 8; i++) a[i] = q[i];
    } else {
      load<D / 8>(a, x.step + j * (D / 4));
#pragma unroll
      for (int i = 0; i < D / 8; i++) a[i] = times(q[i], a[i]);
    }
    load<D / 32>(codes[0], x.codes + row * (D / 2) + j * (D / 8));
    load<D / 32>(codes[1], x.codes + (row + 8) * (D / 2) + j * (D / 8));
    coded<D>(c, codes[0], codes[1], a);
  };
  auto emit = [&](const Slot<D> &x, const float (&c)[4]) {  // of a page, as the tensor cores leave it
    if constexpr (PAIRS) {
      float start[2], most[2];
      bounded(start, most, x);
      short *const at = out + (size_t)(u32)x.page * (PAGE * GP);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float scale = -CODED * steps, first[2] = {start[0], start[1]};
        if (BY_TOKEN) {
          const u32 par = ((const u32 *)x.step)[row + half * 8];
          scale *= half_of(par, 0);
#pragma unroll
          for (int i = 0; i < 2; i++) first[i] -= half_of(par, 1) * sum[i];
        }
        emit_pair(at + half * 8 * GP, c[half * 2], c[half * 2 + 1], scale, first, most);
      }
    }
  };
  auto newest = [&] {
    if (u.warp != 0 || !r.newestHere) return;
    const int page = r.pages() - 1, token = page * PAGE, tokens = r.n - r.newest * PAGE;
    float start[STARTS], most[STARTS];
    if constexpr (PAIRS) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const bool in = row + 8 * i < tokens;
#pragma unroll
        for (int k = 0; k < 2; k++) start[k] = in ? window[k] : OUT_OF_REACH, most[k] = ROUND + (in ? FAR : NONE);
        emit_pair(out + (size_t)(token + 8 * i) * GP, fresh[2 * i], fresh[2 * i + 1], -PER_OCTAVE, start, most);
      }
    } else {
      spread(0, fresh);
      __syncwarp();
      const bool in = u.lane < tokens;
#pragma unroll
      for (int k = 0; k < STARTS; k++) start[k] = in ? window[k] : OUT_OF_REACH, most[k] = ROUND + (in ? FAR : NONE);
      if (u.lane < PAGE) emit_row(token + u.lane, tile + u.lane * GP, -PER_OCTAVE, start, most);
      __syncwarp();
    }
    if (u.lane < u.G) atomicAdd(&sh.candidates[u.lane], tokens);
    if (every && u.lane == 0) r.marks[page] = 0xff;
  };
  ahead(from);
  turn();
  Slot<D> *here = ring.slot, *fill = ring.slot, *const end = ring.slot + SLOTS;
  for (int i = from - (SLOTS - 2); i < to; i += 2) {  // at first there is nothing to compute
    wait_copies<SLOTS / 2 - 2>();
    __syncwarp();  // everybody's copies, and nobody reads the slots that are filled next
    const int next = i + SLOTS - 2;
    ask(next, fill[0]), ask(next + 1, fill[1]);
    commit_copies();
    fill = fill + 2 == end ? ring.slot : fill + 2;
    const bool first = i + 2 == from, last = next + 2 < to && next + 2 >= begin + 32;  // nothing is there yet; all of the 32 are asked for
    if (first || last) {
      if (last) begin += 32, turn();
      if (first) look(), newest();
      account();
    }
    if (i < from) continue;
    const Slot<D> &x = here[0], &y = here[1];
    const bool both = i + 1 < to;
    float c[2][4] = {};
    compute(x, c[0]);
    compute(y, c[1]);  // of rubbish, if there is none
    if constexpr (PAIRS) {
      emit(x, c[0]);
      if (both) emit(y, c[1]);
    } else {
      spread(0, c[0]), spread(16, c[1]);
      __syncwarp();
      if (u.lane < 16 || both) {
        const Slot<D> &mine = u.lane < 16 ? x : y;
        float scale = -CODED * steps, start[STARTS], most[STARTS];
        bounded(start, most, mine);
        if (BY_TOKEN) {
          const u32 par = ((const u32 *)mine.step)[u.lane % 16];
          scale *= half_of(par, 0);
#pragma unroll
          for (int g = 0; g < GP; g++) start[g] -= half_of(par, 1) * sum[g];
        }
        emit_row(mine.page * PAGE + u.lane % 16, tile + u.lane * GP, scale, start, most);
      }
      __syncwarp();
    }
    here = here + 2 == end ? ring.slot : here + 2;
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
