// The kernels, compiled for the host: a fibre a thread, so that they run without a GPU, if slowly. Warps, thread blocks and clusters wait for each other as on the device, in
// an order that changes from wait to wait; shared memory begins as rubbish. With mock.c, which has the driver's calls, it makes a library that tests load in the driver's place.
#include <dlfcn.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <algorithm>
#include <functional>
#include <vector>

#define TWILIGHT_INSTRUCTIONS
#define TWILIGHT_HOPPER
#define __CUDA_ARCH__ 900
#define __CUDA_ARCH_FEAT_SM90_ALL
#include "cuda_fp16.h"

typedef unsigned int u32;
typedef unsigned char u8;

namespace {

struct Dim { unsigned x, y, z; };

struct Meeting {  // what a fibre waits for is that `turn` changes
  int waiting = 0;
  unsigned turn = 0;
};

struct Exchange {
  u32 word[8];
  float a[8], b[4];
};

struct Warp {
  Meeting barrier;
  Exchange in[2][32];  // of this turn and of the one before, which slow lanes still read
};

struct TileCopy {  // a copy to a tile: what of a matrix, where to, and the barrier that is told; or a copy of bytes
  char map[128];
  char *to;
  int row, column;
  uint64_t *barrier;
  const void *from;
  int bytes;
};

struct Batch {  // products of a thread's rows that are under way; without d the end of a batch
  float *d;
  int count, columns;
  float a[2][16];
  uint64_t of_a, of_b;
  bool registers, add, inputs;  // inputs: rows of B are the inputs
};

struct Block {
  Dim index;
  Meeting barrier;
  std::vector<Warp> warps;
  alignas(256) char memory[64 << 10];
  alignas(1024) char dynamic[227 << 10];
  Meeting named[16];
  std::vector<TileCopy> tiles;  // begun, not yet seen to have happened
};

struct Copy {  // not yet seen to have happened; without a destination the end of a group
  void *to;
  const void *from;
  int bytes;
};

struct Fibre {
  std::vector<Copy> copies;
  std::vector<Batch> batches;
  ucontext_t start;
  jmp_buf here;
  bool begun = false, done = true;
  Meeting *waits = nullptr;
  unsigned turn, clusterTurn;
  bool arrived = false;  // at the cluster's barrier
  Block *block;
  unsigned thread;
  int rank;
};

constexpr size_t STACK = 128 << 10;
std::vector<Fibre *> fibres;
Fibre *current;
jmp_buf scheduler;
std::function<void()> *job;
Meeting clusterBarrier;
int clusterThreads, blockThreads;
std::vector<Block *> blocks;
u32 dice = 1;

u32 roll() { return dice ^= dice << 13, dice ^= dice >> 17, dice ^= dice << 5; }

void yield() {
  if (!_setjmp(current->here)) _longjmp(scheduler, 1);
}

unsigned wait(Meeting &b, int all) {
  const unsigned turn = b.turn;
  if (++b.waiting == all) {
    b.waiting = 0, b.turn++;
    return turn;
  }
  current->waits = &b, current->turn = turn;
  yield();
  return turn;
}

void fibre() {
  for (;;) {
    (*job)();
    current->done = true;
    yield();
  }
}

void resume(Fibre *f) {
  current = f;
  if (_setjmp(scheduler)) return;
  if (f->begun) _longjmp(f->here, 1);
  f->begun = true;
  setcontext(&f->start);
}

// exchange lets the lanes of a warp see each other's data.
const Exchange *exchange(const Exchange &mine) {
  Warp &w = current->block->warps[current->thread / 32];
  w.in[w.barrier.turn & 1][current->thread % 32] = mine;
  return w.in[wait(w.barrier, 32) & 1];
}

const Exchange *exchange(u32 x) {
  Exchange e;
  e.word[0] = x;
  return exchange(e);
}

template <typename T> T as(u32 u) { T t; memcpy(&t, &u, 4); return t; }
template <typename T> u32 word(T t) { u32 u; memcpy(&u, &t, 4); return u; }
float half_at(u32 u, int i) { __half h[2]; memcpy(h, &u, 4); return h[i]; }

}  // namespace

static Dim gridDim, blockDim;
#define blockIdx (current->block->index)
#define threadIdx (Dim{current->thread, 0, 0})
#define SHARED_MEMORY(type, name)                                                  \
  static_assert(sizeof(type) <= 48 << 10, "shared memory"); \
  type &name = *(type *)current->block->memory

#define DYNAMIC_MEMORY(name) char *name = current->block->dynamic

static inline int lane_id() { return current->thread % 32; }
static inline void __syncthreads() { wait(current->block->barrier, blockThreads); }
static inline void __syncwarp() { exchange(0); }
static inline void __threadfence() {}
template <typename T> T __shfl_sync(u32, T x, int from) { return as<T>(exchange(word(x))[from % 32].word[0]); }
template <typename T> T __shfl_xor_sync(u32, T x, int d) { return as<T>(exchange(word(x))[lane_id() ^ d].word[0]); }
template <typename T> T __shfl_up_sync(u32, T x, int d) {
  const Exchange *e = exchange(word(x));
  return as<T>(e[lane_id() < d ? lane_id() : lane_id() - d].word[0]);
}
static inline u32 __ballot_sync(u32, bool b) {
  const Exchange *e = exchange(b);
  u32 m = 0;
  for (int i = 0; i < 32; i++) m |= e[i].word[0] << i;
  return m;
}
static inline bool __any_sync(u32, bool b) { return __ballot_sync(~0u, b); }
template <typename T, typename F> T reduce(T x, F f) {
  const Exchange *e = exchange(word(x));
  T y = as<T>(e[0].word[0]);
  for (int i = 1; i < 32; i++) y = f(y, as<T>(e[i].word[0]));
  return y;
}
template <typename T> T __reduce_min_sync(u32, T x) { return reduce(x, [](T a, T b) { return std::min(a, b); }); }
template <typename T> T __reduce_max_sync(u32, T x) { return reduce(x, [](T a, T b) { return std::max(a, b); }); }
template <typename T> T __reduce_add_sync(u32, T x) { return reduce(x, [](T a, T b) { return a + b; }); }
static inline int __popc(u32 x) { return __builtin_popcount(x); }
static inline int __ffs(u32 x) { return __builtin_ffs(x); }
static inline int __float_as_int(float f) { return as<int>(word(f)); }
static inline float __int_as_float(int i) { return as<float>(i); }
static inline int __double2loint(double d) { uint64_t u; memcpy(&u, &d, 8); return (int)u; }
static inline int __double2hiint(double d) { uint64_t u; memcpy(&u, &d, 8); return (int)(u >> 32); }
static inline double __hiloint2double(int hi, int lo) { const uint64_t u = (uint64_t)(u32)hi << 32 | (u32)lo; double d; memcpy(&d, &u, 8); return d; }
template <typename T> T __ldcg(const T *p) { return *p; }
static inline u32 __byte_perm(u32 x, u32 y, u32 pick) {
  const uint64_t all = (uint64_t)y << 32 | x;
  u32 r = 0;
  for (int i = 0; i < 4; i++) r |= (u32)(all >> (pick >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return r;
}
static inline u32 __vminu4(u32 a, u32 b) {
  u32 r = 0;
  for (int i = 0; i < 32; i += 8) r |= std::min(a >> i & 0xff, b >> i & 0xff) << i;
  return r;
}
static inline u32 __viaddmin_s16x2(u32 a, u32 b, u32 c) {
  u32 r = 0;
  for (int i = 0; i < 32; i += 16) r |= (u32)(uint16_t)std::min<int16_t>((int16_t)((a >> i) + (b >> i)), (int16_t)(c >> i)) << i;
  return r;
}
template <typename T, typename U> T atomicAdd(T *p, U x) { T old = *p; *p += x; return old; }
static inline int atomicMax(int *p, int x) { int old = *p; *p = std::max(old, x); return old; }

// What kernels/instructions.cuh has.
static inline void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  Exchange x;
  const u32 a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
  for (int i = 0; i < 8; i++) x.a[i] = half_at(a[i / 2], i % 2);
  for (int i = 0; i < 4; i++) x.b[i] = half_at(b[i / 2], i % 2);
  const Exchange *e = exchange(x);
  const int r = lane_id() / 4, j = lane_id() % 4;
  for (int i = 0; i < 4; i++) {  // row r + i/2·8, column 2j + i%2
    for (int t = 0; t < 4; t++) {
      const float *p = e[r * 4 + t].a, *q = e[(2 * j + i % 2) * 4 + t].b;
      const int low = i / 2 * 2;
      c[i] += p[low] * q[0] + p[low + 1] * q[1] + p[low + 4] * q[2] + p[low + 5] * q[3];
    }
  }
}
static inline void store_matrices(void *row, const u32 (&w)[4]) {
  const Exchange *e = exchange((u32)((char *)row - current->block->dynamic));
  for (int i = 0; i < 4; i++) memcpy(current->block->dynamic + e[i * 8 + lane_id() / 4].word[0] + lane_id() % 4 * 4, &w[i], 4);
}
static inline void load_matrices(u32 (&w)[4], const void *row) {
  Exchange x;
  memcpy(x.word, &row, 8);
  const Exchange *e = exchange(x);
  for (int i = 0; i < 4; i++) {
    const char *at;
    memcpy(&at, e[i * 8 + lane_id() / 4].word, 8);
    memcpy(&w[i], at + lane_id() % 4 * 4, 4);
  }
}
static inline void wait_for_previous() {}
static inline void let_next_start() {}
static inline int cluster_rank() { return current->rank; }
static inline void cluster_arrive() {
  Meeting &b = clusterBarrier;
  if (current->arrived) fprintf(stderr, "emulator: a thread arrives twice\n"), abort();
  current->arrived = true, current->clusterTurn = b.turn;
  if (++b.waiting == clusterThreads) b.waiting = 0, b.turn++;
}
static inline void cluster_wait() {
  if (!current->arrived) fprintf(stderr, "emulator: a thread waits that has not arrived\n"), abort();
  current->arrived = false;
  if (clusterBarrier.turn != current->clusterTurn) return;
  current->waits = &clusterBarrier, current->turn = current->clusterTurn;
  yield();
}
static inline void cluster_read() { cluster_arrive(); }
static inline void cluster_sync() { cluster_arrive(), cluster_wait(); }
static inline void cluster_meet() { cluster_sync(); }
static inline u32 *remote(const void *shared, int rank) { return (u32 *)(blocks[rank]->memory + ((const char *)shared - current->block->memory)); }
static inline u32 peek(const void *shared, int rank) { return *remote(shared, rank); }
static inline void push(float4 *shared, int rank, float4 v) { *(float4 *)remote(shared, rank) = v; }
static inline void poke(void *shared, int rank, u32 v) { *remote(shared, rank) = v; }
template <int N> void stream(u32 (&w)[N], const void *at, bool there) { there ? memcpy(w, at, sizeof w) : memset(w, 0, sizeof w); }
template <int BYTES = 16, bool LINE = true> void copy_async(void *shared, const void *global) { current->copies.push_back({shared, global, BYTES}); }
static inline void commit_copies() { current->copies.push_back({}); }
template <int N> void wait_copies() {  // no copy happens before it must
  std::vector<Copy> &c = current->copies;
  long groups = std::count_if(c.begin(), c.end(), [](Copy x) { return !x.to; });
  size_t i = 0;
  for (; groups > N; i++) {
    if (c[i].to) memcpy(c[i].to, c[i].from, c[i].bytes);
    else groups--;
  }
  c.erase(c.begin(), c.begin() + i);
}
static inline void prefetch(const void *) {}
static inline float power(float octaves) { return exp2f(octaves); }

#include "hopper.h"
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#include "../kernels/twilight.cu"

// A launch brings a block of parameters as large as any kernel's. The kernel takes a structure by value, which lies at the start of the block.
struct alignas(64) Block512 { char bytes[512]; };  // where a structure of any alignment would stand
static_assert(sizeof(AppendParams) <= sizeof(Block512) && sizeof(LinearParams) <= sizeof(Block512), "library.go's paramWords");
extern "C" const unsigned emulated_params = sizeof(Block512);

extern "C" void *emulated_kernel(const char *name) {
  Dl_info self;
  dladdr((void *)&emulated_params, &self);
  return dlsym(dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD), name);
}

// emulate runs a launch to its end, a cluster at a time.
extern "C" void emulate(void *kernel, const unsigned *grid, unsigned threads, unsigned cluster, const void *params) {
  Block512 p;
  memcpy(&p, params, sizeof p);
  std::function<void()> call = [&] { ((void (*)(Block512))kernel)(p); };
  job = &call;
  gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads, 1, 1};
  clusterThreads = threads * cluster, blockThreads = threads;
  while (fibres.size() < threads * cluster) {
    Fibre *f = new Fibre;
    getcontext(&f->start);
    f->start.uc_stack.ss_sp = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    f->start.uc_stack.ss_size = STACK, f->start.uc_link = nullptr;
    makecontext(&f->start, fibre, 0);
    fibres.push_back(f);
  }
  while (blocks.size() < cluster) blocks.push_back(new Block);
  std::vector<unsigned> order((threads * cluster + 31) / 32);
  for (unsigned i = 0; i < order.size(); i++) order[i] = i;
  for (unsigned z = 0; z < grid[2]; z++) for (unsigned y = 0; y < grid[1]; y++) for (unsigned x = 0; x < grid[0]; x += cluster) {
    clusterBarrier = {};
    for (unsigned r = 0; r < cluster; r++) {
      blocks[r]->index = {x + r, y, z}, blocks[r]->barrier = {}, blocks[r]->tiles.clear();
      for (Meeting &m : blocks[r]->named) m = {};
      blocks[r]->warps.assign((threads + 31) / 32, {});
      memset(blocks[r]->memory, 0xcd, sizeof blocks[r]->memory), memset(blocks[r]->dynamic, 0xcd, sizeof blocks[r]->dynamic);
      for (unsigned t = 0; t < threads; t++) {
        Fibre *f = fibres[r * threads + t];
        f->done = f->arrived = false, f->copies.clear(), f->batches.clear(), f->waits = nullptr, f->block = blocks[r], f->thread = t, f->rank = r;
      }
    }
    for (unsigned left = threads * cluster; left > 0;) {
      bool moved = false;
      for (unsigned i = order.size() - 1; i > 0; i--) std::swap(order[i], order[roll() % (i + 1)]);
      for (unsigned w : order) {
        for (unsigned t = w * 32; t < std::min(w * 32 + 32, threads * cluster); t++) {
          Fibre *f = fibres[t];
          if (f->done || (f->waits && f->waits->turn == f->turn)) continue;
          f->waits = nullptr, moved = true;
          resume(f);
          left -= f->done;
        }
      }
      if (!moved) {
        fprintf(stderr, "emulator: all threads of a cluster wait\n");
        abort();
      }
    }
  }
}
