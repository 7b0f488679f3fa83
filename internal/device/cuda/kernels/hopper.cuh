// Hopper's asynchronous units, for kernels of many rows: barriers in shared memory, copies of tiles, and products by warpgroups. The tests' emulator has its own.
//
// Tiles of fp16 lie in shared memory in rows of 64 values, 128 bytes, whose eight chunks of 16 bytes are exchanged by row (chunk c of row r stands at c ^ r%8), so that
// neither rows nor columns of chunks meet in a bank. A tile begins at a multiple of 1024 bytes. Wider tiles are panels of 64 columns, one after the other.
#pragma once
#include "common.cuh"

typedef unsigned long long u64;

constexpr int PANEL = 64, PANEL_BYTES = 2 * PANEL;  // columns of a panel, bytes of its rows
constexpr int ALIGNED = 1024;                       // bytes, of tiles in shared memory

// TensorMap describes a matrix to the unit that copies tiles; driver.TensorMap makes it. It is part of a kernel's parameters.
struct alignas(64) TensorMap { u64 of[16]; };

// A Barrier in shared memory completes a phase when as many threads have arrived as it was made for and all bytes announced have been copied. Phases are even, odd, even…
typedef u64 Barrier;

// rows_of describes a tile, or a part of it from a multiple of 8 rows or of 16 columns within a panel on, to a product whose inputs are the columns.
__device__ inline u64 rows_of(u32 address) { return (u64)(1u << 30 | ALIGNED >> 4) << 32 | (1u << 16 | (address & 0x3ffff) >> 4); }

// columns_of describes a tile to a product whose inputs are the rows; its next panel is so many bytes further.
__device__ inline u64 columns_of(u32 address, int panel) { return (u64)1 << 62 | (u64)(ALIGNED >> 4) << 32 | (u64)(panel >> 4) << 16 | (address & 0x3ffff) >> 4; }

#ifndef TWILIGHT_HOPPER
#define TWILIGHT_HOPPER

__device__ inline u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

__device__ inline void barrier_make(Barrier *b, int arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory"); }
__device__ inline void barriers_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_arrive(Barrier *b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory"); }
__device__ inline void barrier_announce(Barrier *b, int bytes) {  // and arrive
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
// barrier_wait waits until the latest phase of that parity is over; before the first of all, an odd one is.
__device__ inline void barrier_wait(Barrier *b, int parity) {
  asm volatile("{\n.reg .pred over;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n@!over bra again;\n}" ::"r"(shared_address(b)), "r"(parity) : "memory");
}

// copy_tile begins to copy the box of a matrix that begins at a row and a column to a tile; what lies outside the matrix becomes zero. One thread calls it.
__device__ inline void copy_tile(void *tile, const TensorMap &map, int row, int column, Barrier *b) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(tile)), "l"(&map), "r"(column), "r"(row),
               "r"(shared_address(b)) : "memory");
}

// copy_block begins to copy bytes as they are, a multiple of 16 at multiples of 16.
__device__ inline void copy_block(void *shared, const void *global, int bytes, Barrier *b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(b)) : "memory");
}

// push writes 16 bytes into a rank's shared memory, where a barrier counts them.
__device__ inline void push(float4 *shared, int rank, float4 v, Barrier *b) {
  asm volatile("{ .reg .u32 to, counted; mapa.shared::cluster.u32 to, %0, %6; mapa.shared::cluster.u32 counted, %1, %6;"
               " st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%2, %3, %4, %5}, [counted]; }"
               ::"r"(shared_address(shared)), "r"(shared_address(b)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(rank) : "memory");
}

// add_pair adds to two neighbours in memory, aligned to 8 bytes; nothing waits for it.
__device__ inline void add_pair(float *at, float x, float y) { asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(at), "f"(x), "f"(y) : "memory"); }

// written makes what this thread has stored to shared memory visible to products of warpgroups.
__device__ inline void written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Named barriers, 1 to 15, of some warps of a thread block: meet waits for all those threads, pass only counts as one.
__device__ inline void meet(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
__device__ inline void pass(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

// A warpgroup's registers a thread, a multiple of 8, instead of those that the thread block was launched with.
template <int N> __device__ inline void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ inline void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// Products of warpgroups: 64 rows of A with N columns of B over 16 inputs, d += or =. Thread t of the warpgroup holds rows t/32·16 + t%32/4 + e/2·8 and columns 8i + t%4·2 + e%2
// in d[4i+e]. They run beside the threads that begin them: products_begin before the first of a batch, products_end after the last, and products_wait until at most N
// batches are under way. What they use must not be touched before; settled says of registers that they may be used again.
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ inline void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
template <int R> __device__ inline void settled(float (&d)[R]) {
#pragma unroll
  for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// product(d, a, b, add): rows of both are in shared memory, the columns the inputs (rows_of). product(d, a, b, add) with registers: A as mma takes it, warp by warp, and B's rows
// the inputs (columns_of). product_of_rows(d, a, b): B as in the first, and d +=. N is twice the registers of d.
#define TW_D0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define TW_D1 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define TW_D2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define TW_D3 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define TW_D4 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define TW_D5 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define TW_D6 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define TW_D7 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define TW_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define TW_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TW_16(i) TW_4(i), TW_4(i + 4), TW_4(i + 8), TW_4(i + 12)
#define TW_32 TW_16(0), TW_16(16)
#define TW_48 TW_32, TW_16(32)
#define TW_64 TW_48, TW_16(48)
#define TW_128 TW_64, TW_16(64), TW_16(80), TW_16(96), TW_16(112)
#define TW_PRODUCT(N, D, R0, R1, R2, R3, R4, R5, LIST)                                                                                                                \
  __device__ inline void product(float (&d)[R0], u64 a, u64 b, bool add) {                                                                                             \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #R2 ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" LIST "}, %" #R0 ", %" #R1 ", p, 1, 1, 0, 0;}" \
                 : D : "l"(a), "l"(b), "r"((int)add) : "memory");                                                                                                      \
  }                                                                                                                                                                    \
  __device__ inline void product(float (&d)[R0], const u32 (&a)[4], u64 b, bool add) {                                                                                 \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #R5 ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" LIST "}, {%" #R0 ", %" #R1 ", %" #R2 ", %" #R3 "}, %" #R4 ", p, 1, 1, 1;}" \
                 : D : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add) : "memory");                                                                  \
  }                                                                                                                                                                    \
  __device__ inline void product_of_rows(float (&d)[R0], const u32 (&a)[4], u64 b) {                                                                                   \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" LIST "}, {%" #R0 ", %" #R1 ", %" #R2 ", %" #R3 "}, %" #R4 ", 1, 1, 1, 0;"                     \
                 : D : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b) : "memory");                                                                                  \
  }
TW_PRODUCT(8, TW_4(0), 4, 5, 6, 7, 8, 9, "%0,%1,%2,%3")
#define TW_4_8 TW_4(0), TW_4(4)
TW_PRODUCT(16, TW_4_8, 8, 9, 10, 11, 12, 13, TW_8)
TW_PRODUCT(32, TW_16(0), 16, 17, 18, 19, 20, 21, TW_D0)
TW_PRODUCT(64, TW_32, 32, 33, 34, 35, 36, 37, TW_D0 "," TW_D1)
TW_PRODUCT(96, TW_48, 48, 49, 50, 51, 52, 53, TW_D0 "," TW_D1 "," TW_D2)
TW_PRODUCT(128, TW_64, 64, 65, 66, 67, 68, 69, TW_D0 "," TW_D1 "," TW_D2 "," TW_D3)
TW_PRODUCT(256, TW_128, 128, 129, 130, 131, 132, 133, TW_D0 "," TW_D1 "," TW_D2 "," TW_D3 "," TW_D4 "," TW_D5 "," TW_D6 "," TW_D7)
#endif
