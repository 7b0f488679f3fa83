// The end of select: a rank attends to its own survivors, each warp to a run of them, whose rows come to its shared memory by asynchronous copies; then warps and ranks are joined.
#pragma once
#include "cluster.cuh"
#include "survivors.cuh"

// CodedSlot holds sixteen tokens' value codes, their scales and their estimated logits. The codes' 16-byte chunks stand such that no two of the lanes that read at once meet in a bank.
template <int D, int GP> struct CodedSlot {
  static constexpr int CHUNKS = D / 32;
  uint4 codes[16 * CHUNKS];
  u32 scale[16][D / 32];
  u32 logits[16][(GP + 1) / 2];  // of two heads a word; of one head two tokens' a word, and bit t of odd says which of them is meant. If ranks split the unit, the token
  u32 odd, unused[3];
  __device__ static int place(int token, int chunk) { return (token * CHUNKS + chunk) ^ (token / 2 % 4 * 2); }
};

// Places walks a run [from,to) of a list of survivors, sixteen at a time. A lane holds one of 32 and its row, while the block of one of the next 32 and one after those are on their way.
struct Places {
  const u32 *list;  // the first entry; null: entry i is token i, of all heads
  const int *table;
  int step, to, kvHeads, head, lane;  // step: from entry to entry
  int first;                          // of those held
  u32 entry = 0, row = 0, entryAhead = 0, entryBeyond = 0;
  int blockAhead = 0;
  __device__ Places(const u32 *list, int step, int from, int to, const int *table, int kvHeads, int head, int lane)
      : list(list), table(table), step(step), to(to), kvHeads(kvHeads), head(head), lane(lane), first(from - 96) {
    turn(), turn(), turn();
  }
  __device__ void turn() {
    entry = entryAhead, row = ((u32)blockAhead * kvHeads + head) * BLOCK + (entry & 0xffffff) % BLOCK;
    entryAhead = entryBeyond, blockAhead = table[(entryAhead & 0xffffff) / BLOCK];
    const int i = min(first + 96 + lane, to - 1);  // beyond the end the last one again, whose rows are finite
    entryBeyond = list == nullptr ? (u32)i | 0xffu << 24 : list[(long long)i * step];
    first += 32;
  }
  // seek has the sixteen from i on held; they are those from lane (i−first) on.
  __device__ void seek(int i) {
    if (i >= first + 32) turn();
  }
};

// WarpMemory is a warp's share of select's dynamic shared memory; operator.go knows the size. Rows of more than 128 channels come keys first and then values, to the same place.
template <int D, int GP> union WarpMemory {
  static constexpr int SLOTS = (sizeof(Ring<D>) > 8192 ? sizeof(Ring<D>) : 8192) / sizeof(CodedSlot<D, GP>);
  Ring<D> candidates;
  CodedSlot<D, GP> coded[SLOTS];
  struct {
    uint4 k[16][D / 8], v[D <= 128 ? 16 : 1][D / 8];
  } exact;
  float sums[HEADS][D];
};

// attend_coded takes in survivors [from,to) as codes with their estimated logits; `list` is the entry of the first, and they follow downwards. It returns what the thread's share of them
// weighs for head lane/4, and what of that the head owes to the others' survivors.
template <int D, int GP, bool SPLIT>
__device__ inline float2 attend_coded(Running<D> &run, float (&low)[4], WarpMemory<D, GP> &memory, const SelectShared<GP> &sh, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r,
                                    const u32 *list, int from, int to) {
  typedef CodedSlot<D, GP> Slot;
  constexpr int SLOTS = WarpMemory<D, GP>::SLOTS, CHUNKS = Slot::CHUNKS;
  static_assert(SLOTS >= 2, "one is read while others are filled");
  float2 mass = make_float2(0, 0);
  if (from >= to) return mass;
  const int lane = u.lane, j = lane % 4, head = lane / 4;
  Places at(list, -1, from, to, r.table, p.kvHeads, u.head, lane);
  auto ask = [&](int i, Slot &x) {
    if (i < to) {
      at.seek(i);
      const int base = i - at.first;
#pragma unroll
      for (int k = 0; k < D / 64; k++) {
        const int token = (k * 32 + lane) / CHUNKS, chunk = lane % CHUNKS;
        copy_async(&x.codes[x.place(token, chunk)], p.valueCodes + (size_t)__shfl_sync(~0u, at.row, base + token) * (D / 2) + chunk * 16);
      }
      const u32 row = __shfl_sync(~0u, at.row, base + lane % 16), token = __shfl_sync(~0u, at.entry, base + lane % 16) & 0xffffff;
      if (lane < 16) {
#pragma unroll
        for (int k = 0; k < D / 32; k += 4) copy_async<D == 64 ? 8 : 16>(&x.scale[lane][k], p.valueScale + (size_t)row * (D / 32) + k);
      } else if constexpr (SPLIT) {
        x.logits[lane - 16][0] = token;
      } else if constexpr (GP > 1) {
        copy_async<GP * 2>(x.logits[lane - 16], r.logits + (size_t)token * GP);
      } else {
        copy_async<4>(x.logits[lane - 16], r.logits + (token & ~1u));
      }
      const u32 odd = GP == 1 && !SPLIT ? __ballot_sync(~0u, token & 1) : 0;
      if (GP == 1 && !SPLIT && lane == 0) x.odd = odd;
    }
    commit_copies();
  };
  const float reference = head < u.G ? window_end(sh, head) : 0;
  const int last = head < u.G ? sh.threshold[head].last : BINS - 1;
  int here = 0, fill = 0;
  for (int i = from - (SLOTS - 1) * 16; i < to; i += 16) {  // at first there is nothing to attend to
    wait_copies<SLOTS - 2>();
    __syncwarp();  // everybody's copies, and nobody reads the slot that is filled next
    ask(i + (SLOTS - 1) * 16, memory.coded[fill]);
    fill = fill + 1 == SLOTS ? 0 : fill + 1;
    if (i < from) continue;
    const Slot &slot = memory.coded[here];
    here = here + 1 == SLOTS ? 0 : here + 1;
    float x[4];
    u32 codes[4][D / 64], scale[4][D / 32];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const int token = run.slot(k, lane);
      load<D / 64>(codes[k], (const u8 *)&slot.codes[slot.place(token, head * (D / 16) / 16)] + head * (D / 16) % 16);
      load<D / 32>(scale[k], slot.scale[token]);
      u32 distance = 0;
      if constexpr (SPLIT) distance = head < GP ? r.logits[slot.logits[token][0] * GP + head] : 0;
      else if constexpr (GP == 1) distance = slot.logits[token][0] >> (slot.odd >> token & 1) * 16 & 0xffff;
      else if (head < GP) distance = slot.logits[token][head / 2] >> head % 2 * 16 & 0xffff;
      const float octaves = (int)distance * (-1.0f / PER_OCTAVE), weight = i + token >= to || distance == NONE ? 0 : power(octaves);
      x[k] = i + token >= to ? NOTHING : head < u.G ? reference + octaves : 0;
      mass.x += weight;
      if (distance < FAR && (int)(distance >> BIN_SHIFT) > last) mass.y += weight;
    }
    u32 w[2], lows[2] = {0, 0};
    run.admit(x, w, low, lane);
#pragma unroll
    for (int group = 0; group < D / 32; group++) {
      const u32 b0 = times(w[0], __byte_perm(scale[0][group], scale[1][group], 0x5410)), b1 = times(w[1], __byte_perm(scale[2][group], scale[3][group], 0x5410));
      if (head == group) lows[0] = __byte_perm(scale[0][group], scale[1][group], 0x7632), lows[1] = __byte_perm(scale[2][group], scale[3][group], 0x7632);
      const int pick = group % 2 ? 0x7632 : 0x5410;
      const u32 c = __byte_perm(codes[0][group / 2], codes[1][group / 2], pick), d = __byte_perm(codes[2][group / 2], codes[3][group / 2], pick);
      mma(run.sums[2 * group], c & LOW, c & HIGH, d & LOW, d & HIGH, b0, b1);
      mma(run.sums[2 * group + 1], c >> 8 & LOW, c >> 8 & HIGH, d >> 8 & LOW, d >> 8 & HIGH, b0, b1);
    }
    mma(low, lows[0], 0, lows[1], 0, w[0], w[1]);
  }
#pragma unroll
  for (int group = 0; group < D / 32; group++) {
    const float a = __shfl_sync(~0u, low[0], group * 4 + j), b = __shfl_sync(~0u, low[1], group * 4 + j);
#pragma unroll
    for (int i = 2 * group; i < 2 * group + 2; i++) {
      run.sums[i][0] = run.sums[i][0] * 16777216.0f + a, run.sums[i][1] = run.sums[i][1] * 16777216.0f + b;
      run.sums[i][2] = run.sums[i][2] * 1048576.0f + a, run.sums[i][3] = run.sums[i][3] * 1048576.0f + b;
    }
  }
  wait_copies<0>();
  __syncwarp();
  return mass;
}

// attend_exactly takes in survivors [from,to) of a list, or of all tokens if there is none.
template <int D, int GP, bool SPLIT>
__device__ inline void attend_exactly(Running<D> &run, float (&low)[4], WarpMemory<D, GP> &memory, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r, const u32 *list, int from, int to) {
  typedef WholeSlot<D> Rows;
  constexpr bool APART = D <= 128;
  constexpr int CHUNKS = Rows::CHUNKS, EACH_TIME = 32 / CHUNKS;  // rows
  if (from >= to) return;
  const int lane = u.lane, j = lane % 4, head = lane / 4;
  auto *const keys = memory.exact.k, *const values = APART ? memory.exact.v : memory.exact.k;
  Places at(list, 1, from, to, r.table, p.kvHeads, u.head, lane);
  auto ask = [&](int i, const __half *rows, bool ofKeys) {
    if (i < to) {
      at.seek(i);
      const int chunk = lane % CHUNKS;
#pragma unroll
      for (int k = 0; k < 16; k += EACH_TIME) {
        const int token = k + lane / CHUNKS;
        const __half *row = rows + (size_t)__shfl_sync(~0u, at.row, i - at.first + token) * D + chunk * 8;
        copy_async(ofKeys ? &keys[token][Rows::keyAt(token, chunk)] : &values[token][Rows::valueAt(token, chunk)], row);
      }
    }
    commit_copies();
  };
  u32 q[D / 8];
  Rows::channels(q, head < u.G ? p.q + ((size_t)u.unit * u.G + head) * D : nullptr, j);
  for (int i = from - 16; i < to; i += 16) {  // at first there is nothing to attend to
    const bool begun = i >= from;
    float x[4];
    if (begun) {
      wait_copies<APART ? 1 : 0>();
      __syncwarp();
      float c[2][4] = {};
#pragma unroll
      for (int tile = 0; tile < 2; tile++) {
        u32 k[D / 8];
        Rows::keys(k, keys[tile * 8 + head], tile * 8 + head, j);
        products<D>(c[tile], q, k);
      }
#pragma unroll
      for (int t = 0; t < 4; t++) {
        const int token = run.slot(t, lane);
        const u32 entry = __shfl_sync(~0u, at.entry, i - at.first + token);
        x[t] = i + token < to && entry >> 24 >> head & 1 ? c[t / 2][t % 2] * p.scale : NOTHING;
      }
      __syncwarp();  // the keys are read
    }
    if (APART) ask(i + 16, p.k, true);
    else if (begun) ask(i, p.v, false);
    if (begun) {
      u32 w[2], v[4][D / 16];
      run.admit(x, w, low, lane);
      wait_copies<APART ? 1 : 0>();
      __syncwarp();
#pragma unroll
      for (int t = 0; t < 4; t++) Rows::values(v[t], values[run.slot(t, lane)], run.slot(t, lane), head);
      run.add(v, w);
      __syncwarp();
    }
    if (APART) ask(i + 16, p.v, false);
    else ask(i + 16, p.k, true);
  }
  wait_copies<0>();
  __syncwarp();
}

// attend_survivors is the attention of a unit, of which this rank has listed so many survivors: exactly read ones, and others; `whole` says that it reads so many tokens of its range instead.
template <int D, int GP, bool SPLIT>
__device__ inline void attend_survivors(SelectShared<GP> &sh, ClusterJoin &join, WarpMemory<D, GP> *memory, const Params &p, const Rank<GP> &u, const Range<GP, SPLIT> &r, int2 count, bool whole) {
  const int lane = u.lane, warp = u.warp;
  // Tiles of sixteen, first of those read as codes; one that is read exactly costs as much as EXACT of them. A warp has a run.
  constexpr int EXACT = 3;
  const int coded = (count.y + 15) / 16, cost = coded + (count.x + 15) / 16 * EXACT;
  auto codedOf = [&](int w) { return min(min(u.share(cost, w), coded) * 16, count.y); };
  auto exactOf = [&](int w) { return min((max(u.share(cost, w) - coded, 0) + EXACT - 1) / EXACT * 16, count.x); };
  Running<D> run;
  float low[4] = {};  // row lane/4: group of channels; heads as the sums
  float2 mass = attend_coded<D>(run, low, memory[warp], sh, p, u, r, r.list + r.own * BLOCK - 1, codedOf(warp), codedOf(warp + 1));
  attend_exactly<D>(run, low, memory[warp], p, u, r, whole ? nullptr : r.list, exactOf(warp), exactOf(warp + 1));
  if (!whole) {
    __syncwarp();
    for (int d = 1; d < 4; d *= 2) mass.x += __shfl_xor_sync(~0u, mass.x, d), mass.y += __shfl_xor_sync(~0u, mass.y, d);
    if (lane % 4 == 0 && lane / 4 < GP) sh.mass[warp][lane / 4].x += mass.x, sh.mass[warp][lane / 4].y += mass.y;
  }
  join_unit<D>(join, run, memory[0].sums[0], sizeof(WarpMemory<D, GP>) / sizeof(float), sh.shares, sh.mass, p, u, r.n, 1, !whole && p.flags & TAIL, [&](int g, float2 of) {
    if (whole) return of;
    // What the rank's candidates weigh, and what survived of them.
    const Threshold &t = sh.threshold[g];
    const float mass = of.x + ((u.rank == 0 ? t.rest : 0) - of.y) * t.shrink;
    if (lane == 0) p.sums[((size_t)u.unit * RANKS + u.rank) * HEADS + g] = make_float4(mass, of.x, sh.own[g], sh.candidates[g]);
    return make_float2(mass, of.x);
  });
}
