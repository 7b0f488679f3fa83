// The kernels, by name: operation, channels and, for select, the group rounded up to a power of two.
#include "common.cuh"
#include "cache.cuh"
#include "select.cuh"
#include "prompt.cuh"
#include "flash.cuh"
#include "rows.cuh"
#include "gemm.cuh"
#include "panel.cuh"
#include "wide.cuh"
#include "top.cuh"

#ifndef SELECT_THREADS
#define SELECT_THREADS 512
#define SELECT_BLOCKS 1
#endif
#define KERNEL extern "C" __global__ void __launch_bounds__
#define PARAMS const __grid_constant__ Params p

#define SELECT(D, GP) KERNEL(SELECT_THREADS, SELECT_BLOCKS) select_##D##_##GP(PARAMS) { select_unit<D, GP, false>(p); }
#define FEW(D, GP) KERNEL(D <= 128 ? 512 : 256, 1) few_##D##_##GP(PARAMS) { select_unit<D, GP, true>(p); }
#define WHOLE(D)                                                                                \
  KERNEL(128, D == 64 ? 4 : 3) whole_##D(PARAMS) { attend_whole<D, false>(p); }   \
  KERNEL(128, D == 64 ? 3 : 1) ringed_##D(PARAMS) { attend_whole<D, true>(p); }   \
  KERNEL(D == 256 ? 128 : 256, 1) cluster_##D(PARAMS) { whole_unit<D>(p); }
#define ALL(D)                                                        \
  KERNEL(256) append_##D(const __grid_constant__ AppendParams p) { append_token<D, 1>(p); } \
  KERNEL(128) parts_##D(const __grid_constant__ AppendParams p) { append_token<D, 4>(p); } \
  KERNEL(32) write_##D(PARAMS) { write_rows<D>(p); }                  \
  KERNEL(256) encode_##D(PARAMS) { encode_block<D>(p); }              \
  KERNEL(D) sums_##D(PARAMS) { running_sums<D>(p); }                \
  SELECT(D, 1) SELECT(D, 2) SELECT(D, 4) SELECT(D, 8) WHOLE(D)        \
  FEW(D, 1) FEW(D, 2) FEW(D, 4) FEW(D, 8)

ALL(64)
ALL(128)
ALL(256)

// The yardstick: a plain copy, 16 bytes a thread and turn. partial and out are the buffers, count the number of 16-byte words.
KERNEL(512) copy(PARAMS) {
  const uint4 *from = (const uint4 *)p.partial;
  uint4 *to = (uint4 *)p.out;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (size_t)p.count; i += (size_t)gridDim.x * blockDim.x) to[i] = from[i];
}

// Products with weights, by tiles of 8 columns; embedding and the choice of a token.
#define LINEAR(NT) KERNEL(256, 2) linear_##NT(const __grid_constant__ LinearParams p) { linear_tile<NT>(p); }
#define GEMM(NT, BLOCKS) KERNEL(128, BLOCKS) gemm_##NT(const __grid_constant__ LinearParams p) { gemm_tiles<NT>(p); }
LINEAR(1) LINEAR(2) LINEAR(4) GEMM(8, 3) GEMM(16, 2)
KERNEL(128) embed(const __grid_constant__ EmbedParams p) { embed_row(p); }
KERNEL(1024) argmax(const __grid_constant__ ArgmaxParams p) { largest_of(p); }
KERNEL(TOP_THREADS) top_tokens(const __grid_constant__ TopParams p) { top_of(p); }

// Rows of activations, and a prompt's attention.
#define ROWS(NAME, F) KERNEL(ROW_THREADS) NAME(const __grid_constant__ RowParams p) { F(p); }
ROWS(rows_norm_runs, norm_run) ROWS(rows_widen, widen_row)
ROWS(rows_add, add_rows) ROWS(rows_pick, pick_row)
#define WHOLE_ROWS(NAME, F) KERNEL(1024) NAME(const __grid_constant__ RowParams p) { F<1>(p); } KERNEL(1024) NAME##_long(const __grid_constant__ RowParams p) { F<8>(p); }
WHOLE_ROWS(rows_norm, norm_row) WHOLE_ROWS(rows_prepare, prepare_row) WHOLE_ROWS(rows_gate, gate_row)
KERNEL(ROW_THREADS) rows_heads(const __grid_constant__ HeadsParams p) { turn_heads(p); }
#define PROMPT(D) KERNEL(PROMPT_WARPS * 32) prompt_##D(const __grid_constant__ PromptParams p) { prompt_tile<D>(p); }
PROMPT(64) PROMPT(128) PROMPT(256)

// Kernels that only Hopper's image has.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define PANELS(NT, BLOCKS) KERNEL((BLOCKS + 1) * 128, 1) panel_##NT(const __grid_constant__ PanelParams p) { panel_tiles<NT>(p); }
PANELS(1, 6) PANELS(2, 6) PANELS(4, 5) PANELS(8, 5) PANELS(16, 4)
#define FLASH(D) KERNEL(FLASH_THREADS, 1) flash_##D(const __grid_constant__ FlashParams p) { flash_tile<D>(p); }
FLASH(64) FLASH(128) FLASH(256)
#define WIDE(ROWS) KERNEL(WIDE_THREADS, 1) wide_##ROWS(const __grid_constant__ WideParams p) { wide_tiles<ROWS, false>(p); }
WIDE(96) WIDE(128)
KERNEL(WIDE_THREADS, 1) wide_gated(const __grid_constant__ WideParams p) { wide_tiles<128, true>(p); }
#endif
