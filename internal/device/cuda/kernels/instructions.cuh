// The few instructions that C++ has no name for. The tests' emulator has its own.
#ifndef TWILIGHT_INSTRUCTIONS
#define TWILIGHT_INSTRUCTIONS
#include <cuda_fp16.h>

typedef unsigned int u32;
typedef unsigned char u8;

// SHARED_MEMORY declares a thread block's shared memory.
#define SHARED_MEMORY(type, name) __shared__ type name

// DYNAMIC_MEMORY declares what more of it a launch asks for.
#define DYNAMIC_MEMORY(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ inline void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// store_matrices stores four matrices of 8 × 8 halves: a lane's word i is the pair lane%4 of row lane/4 of matrix i, and lane 8i+r says where row r of matrix i goes.
__device__ inline void store_matrices(void *row, const u32 (&w)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"((u32)__cvta_generic_to_shared(row)), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
#endif
}

// load_matrices loads four: a lane's word i is the pair lane%4 of row lane/4 of matrix i, and lane 8i+r says where row r of matrix i is, in shared memory.
__device__ inline void load_matrices(u32 (&w)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
}

// Launches overlap: a kernel may start while the one ahead of it still runs, and waits here before it touches anything.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The ranks of a cluster share a unit and see each other's shared memory. Older devices have clusters of one.
__device__ inline int cluster_rank() {
  int r = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
#endif
  return r;
}
// A thread that has arrived waits before it arrives again. What it wrote before it arrived others see who have waited.
__device__ inline void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
// cluster_read arrives without telling anybody what was written.
__device__ inline void cluster_read() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
// cluster_meet waits for all threads, and says nothing of what they wrote.
__device__ inline void cluster_meet() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
  cluster_wait();
}
__device__ inline void cluster_sync() { cluster_arrive(), cluster_wait(); }
__device__ inline u32 peek(const void *shared, int rank) {
#if __CUDA_ARCH__ >= 900
  u32 v;
  asm volatile("{ .reg .u32 a; mapa.shared::cluster.u32 a, %1, %2; ld.shared::cluster.u32 %0, [a]; }"
               : "=r"(v) : "r"((u32)__cvta_generic_to_shared(shared)), "r"(rank) : "memory");
  return v;
#else
  return *(const volatile u32 *)shared;
#endif
}
// push writes 16 bytes into a rank's shared memory.
__device__ inline void push(float4 *shared, int rank, float4 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .u32 a; mapa.shared::cluster.u32 a, %0, %1; st.shared::cluster.v4.f32 [a], {%2, %3, %4, %5}; }"
               :: "r"((u32)__cvta_generic_to_shared(shared)), "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
#else
  *shared = v;
#endif
}
__device__ inline void poke(void *shared, int rank, u32 v) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .u32 a; mapa.shared::cluster.u32 a, %0, %1; st.shared::cluster.u32 [a], %2; }"
               :: "r"((u32)__cvta_generic_to_shared(shared)), "r"(rank), "r"(v) : "memory");
#else
  *(volatile u32 *)shared = v;
#endif
}

// stream reads words that are read once, past the L1 cache, and in the order in which such reads are written down; zero if there are none.
template <int N> __device__ inline void stream(u32 (&w)[N], const void *at, bool there) {
#pragma unroll
  for (int i = 0; i < N; i++) w[i] = 0;
  if (!there) return;
  if constexpr (N == 1) asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(w[0]) : "l"(at));
  if constexpr (N == 2) asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(at));
  if constexpr (N == 4) asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(at));
}

// Copies of 4, 8 or 16 bytes to shared memory run beside the thread that starts them; with LINE the rest of the line is asked for as well, since a neighbour's copy wants it. They are committed in groups; wait_copies waits until at most N groups are under way.
template <int BYTES = 16, bool LINE = true> __device__ inline void copy_async(void *shared, const void *global) {
  if constexpr (BYTES == 16 && !LINE) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(shared)), "l"(global) : "memory");
  else if constexpr (BYTES == 16) asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(shared)), "l"(global) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"((u32)__cvta_generic_to_shared(shared)), "l"(global), "n"(BYTES) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ inline void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// prefetch brings a line towards the multiprocessors before it is asked for.
__device__ inline void prefetch(const void *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

__device__ inline float power(float octaves) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(octaves));
  return y;
}

#endif
