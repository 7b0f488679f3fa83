// What kernels/hopper.cuh has, for the emulator: copies and products happen as late as they may, and take their operands where descriptions say that they are.
typedef unsigned long long u64;
struct TensorMap;

struct MapFields {  // as mock.c makes them
  char *base;
  uint64_t columns, rows, rowBytes;
  unsigned boxColumns, boxRows;
};

struct Phases {  // a barrier in shared memory
  uint8_t done, count;
  int16_t missing;
  int bytes;
  void look() {
    if (missing == 0 && bytes == 0) done++, missing = count;
  }
};

static inline u32 shared_address(const void *p) { return 1024 + (u32)((const char *)p - current->block->dynamic); }
static inline char *shared_at(uint64_t address) {
  address ^= address >> 3 & 0x70;  // chunks are exchanged by row
  if (address < 1024 || address >= 1024 + sizeof current->block->dynamic) fprintf(stderr, "emulator: a product reads shared memory at %lld\n", (long long)address), abort();
  return current->block->dynamic + (address - 1024);
}
static inline void barrier_make(u64 *b, int arrivals) { *(Phases *)b = {0, (uint8_t)arrivals, (int16_t)arrivals, 0}; }
static inline void barriers_made() {}
static inline void barrier_arrive(u64 *b) { ((Phases *)b)->missing--, ((Phases *)b)->look(); }
static inline void barrier_announce(u64 *b, int bytes) { ((Phases *)b)->bytes += bytes, barrier_arrive(b); }
static inline void copy_tile(void *tile, const TensorMap &map, int row, int column, u64 *b) {
  TileCopy c = {{}, (char *)tile, row, column, (uint64_t *)b};
  memcpy(c.map, &map, sizeof c.map);
  if (shared_address(tile) % 1024) fprintf(stderr, "emulator: a tile begins at %u\n", shared_address(tile)), abort();
  current->block->tiles.push_back(c);
}
static inline void copy_block(void *to, const void *from, int bytes, u64 *b) {
  TileCopy c = {{}, (char *)to, 0, 0, (uint64_t *)b, from, bytes};
  if ((shared_address(to) | (uint64_t)from | bytes) % 16) fprintf(stderr, "emulator: a copy of %d bytes from %p to %u\n", bytes, from, shared_address(to)), abort();
  current->block->tiles.push_back(c);
}
static inline void copy_now(const TileCopy &c) {
  if (c.from) {
    memcpy(c.to, c.from, c.bytes);
    Phases *p = (Phases *)c.barrier;
    p->bytes -= c.bytes, p->look();
    return;
  }
  const MapFields &m = *(const MapFields *)c.map;
  for (unsigned r = 0; r < m.boxRows; r++) {
    for (unsigned x = 0; x < m.boxColumns; x++) {
      const int64_t row = c.row + (int64_t)r, column = c.column + (int64_t)x;
      __half h = 0;
      if (row >= 0 && row < (int64_t)m.rows && column >= 0 && column < (int64_t)m.columns) memcpy(&h, m.base + row * m.rowBytes + column * 2, 2);
      memcpy(shared_at(shared_address(c.to) + r * 128 + x * 2), &h, 2);
    }
  }
  Phases *p = (Phases *)c.barrier;
  p->bytes -= m.boxRows * m.boxColumns * 2, p->look();
}
static inline void barrier_wait(u64 *b, int parity) {
  for (int polls = 0; (((Phases *)b)->done & 1) == parity; polls++) {
    std::vector<TileCopy> &tiles = current->block->tiles;
    if (!tiles.empty() && roll() % 4 == 0) {
      const size_t i = roll() % tiles.size();
      copy_now(tiles[i]);
      tiles.erase(tiles.begin() + i);
    }
    if (polls > 1 << 20) fprintf(stderr, "emulator: a barrier's phase does not end\n"), abort();
    yield();
  }
}
static inline void push(float4 *shared, int rank, float4 v, u64 *barrier) {
  *(float4 *)remote(shared, rank) = v;
  Phases *p = (Phases *)remote(barrier, rank);
  p->bytes -= 16, p->look();
}
static inline void add_pair(float *at, float x, float y) { at[0] += x, at[1] += y; }
static inline void written() {}
static inline void meet(int barrier, int threads) { wait(current->block->named[barrier], threads); }
static inline void pass(int barrier, int threads) {
  Meeting &m = current->block->named[barrier];
  if (++m.waiting == threads) m.waiting = 0, m.turn++;
}
template <int N> void more_registers() {}
template <int N> void fewer_registers() {}
static inline void products_begin() {}
static inline void products_end() { current->batches.push_back({}); }
template <int R> void settled(float (&)[R]) {}
template <int R> void product(float (&d)[R], u64 a, u64 b, bool add) { current->batches.push_back({d, R, 2 * R, {}, a, b, false, add}); }
template <int R> void product(float (&d)[R], const u32 (&a)[4], u64 b, bool add, bool inputs = true) {
  Exchange x;
  for (int i = 0; i < 8; i++) x.a[i] = half_at(a[i / 2], i % 2);
  const Exchange *e = exchange(x);
  Batch p = {d, R, 2 * R, {}, 0, b, true, add, inputs};
  for (int t = 0; t < 4; t++) {
    const float *q = e[lane_id() / 4 * 4 + t].a;  // a0: row r, a1: row r+8, a2 and a3: the same, inputs 8 to 15
    for (int i = 0; i < 8; i++) p.a[i / 2 % 2][i / 4 * 8 + 2 * t + i % 2] = q[i];
  }
  current->batches.push_back(p);
}
template <int R> void product_of_rows(float (&d)[R], const u32 (&a)[4], u64 b) { product(d, a, b, true, false); }
// operand is element (i, input) of what a description says: see rows_of and columns_of.
static inline float operand(uint64_t of, int i, int input, bool columns) {
  const uint64_t start = (of & 0x3fff) << 4, leading = (of >> 16 & 0x3fff) << 4, stride = (of >> 32 & 0x3fff) << 4;
  if (of >> 62 != 1 || of >> 49 & 7) fprintf(stderr, "emulator: description %llx\n", (long long)of), abort();
  __half h;
  memcpy(&h, shared_at(columns ? start + i / 64 * leading + i % 64 * 2 + input / 8 * stride + input % 8 * 128 : start + i / 8 * stride + i % 8 * 128 + input * 2), 2);
  return h;
}
static inline void multiply_now(const Batch &p) {
  const int row = current->thread / 32 % 4 * 16 + lane_id() / 4;
  float a[2][16];
  memcpy(a, p.a, sizeof a);
  for (int r = 0; r < 2 && !p.registers; r++) {
    for (int k = 0; k < 16; k++) a[r][k] = operand(p.of_a, row + 8 * r, k, false);
  }
  for (int i = 0; i < p.count; i += 2) {
    for (int e = 0; e < 2; e++) {
      float sum = 0;
      for (int k = 0; k < 16; k++) sum += a[i / 2 % 2][k] * operand(p.of_b, i / 4 * 8 + lane_id() % 4 * 2 + e, k, p.inputs);
      p.d[i + e] = p.add ? p.d[i + e] + sum : sum;
    }
  }
}
template <int N> void products_wait() {
  std::vector<Batch> &all = current->batches;
  long batches = std::count_if(all.begin(), all.end(), [](const Batch &b) { return !b.d; });
  size_t i = 0;
  for (; batches > N; i++) {
    if (all[i].d) multiply_now(all[i]);
    else batches--;
  }
  all.erase(all.begin(), all.begin() + i);
}
