// Stands in for CUDA's header of this name, and for the compiler's own words, when the kernels are compiled for the emulator.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__

struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
struct int2 { int x, y; };
struct int4 { int x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float __fdividef(float x, float y) { return x / y; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }

inline float rsqrtf(float x) { return 1 / sqrtf(x); }

typedef _Float16 __half;
struct __half2 { __half x, y; };
inline float __half2float(__half h) { return h; }
inline float __fadd_rz(float x, float y) {
  const float r = x + y;
  return fabs((double)r) > fabs((double)x + y) ? nextafterf(r, 0) : r;
}
inline __half __float2half_rn(float f) { return f; }
inline __half __float2half_ru(float f) {
  __half h = f;
  uint16_t u;
  memcpy(&u, &h, 2);
  if ((float)h < f) u += u >> 15 ? -1 : 1;
  memcpy(&h, &u, 2);
  return h;
}
inline bool __hlt(__half a, __half b) { return a < b; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __float2half2_rn(float f) { return {(__half)f, (__half)f}; }
inline __half2 __floats2half2_rn(float x, float y) { return {(__half)x, (__half)y}; }
inline float2 __half22float2(__half2 h) { return {h.x, h.y}; }
inline float __low2float(__half2 h) { return h.x; }
inline float __high2float(__half2 h) { return h.y; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {(__half)((float)a.x * b.x), (__half)((float)a.y * b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {(__half)((float)a.x - b.x), (__half)((float)a.y - b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {(__half)fmaf(a.x, b.x, c.x), (__half)fmaf(a.y, b.y, c.y)}; }
inline __half2 __low2half2(__half2 h) { return {h.x, h.x}; }
inline __half2 __high2half2(__half2 h) { return {h.y, h.y}; }
inline __half2 __hmax2(__half2 a, __half2 b) { return {a.x < b.x ? b.x : a.x, a.y < b.y ? b.y : a.y}; }
inline __half2 __hmin2(__half2 a, __half2 b) { return {a.x < b.x ? a.x : b.x, a.y < b.y ? a.y : b.y}; }
inline __half2 __habs2(__half2 a) { return {a.x < 0 ? -a.x : a.x, a.y < 0 ? -a.y : a.y}; }
