"""Decode attention of PyTorch (SDPA, flash) and of FlashInfer (paged, pages of 16 in scattered order), the baselines of docs/results/gpu-attention.md: medians of graph
replays over rotated buffers, fp16, 32 query heads of 128 channels.

python3 peers.py [sdpa] [flashinfer]: one line a point: peer, view, batch, context, microseconds. View gqa has 8 KV heads, mha 32. FlashInfer is measured with its plain
kernel and with the one on tensor cores; the better counts."""
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DIM, HEADS, PAGE = 128, 32, 16
POINTS = [(view, batch, ctx) for view in ("gqa", "mha") for batch in (1, 8, 16, 64) for ctx in (8192, 16384, 32768)]
POINTS += [("gqa", batch, 65536) for batch in (1, 8, 16, 64)]


def sets_of(kv, batch, ctx):
    return max(1, min(8, -(-400_000_000 // (batch * kv * ctx * DIM * 4))))  # together far beyond the L2 cache


def median(step, sets):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for i in range(14):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        b.synchronize()
        if i >= 3:
            times.append(a.elapsed_time(b) * 1000 / sets)
    return sorted(times)[len(times) // 2]


def half(*shape):
    return torch.empty(*shape, dtype=torch.half, device="cuda").normal_()


def sdpa(view, batch, ctx):
    kv = 8 if view == "gqa" else HEADS
    sets = sets_of(kv, batch, ctx)
    q = [half(batch, HEADS, 1, DIM) for _ in range(sets)]
    k = [half(batch, kv, ctx, DIM) for _ in range(sets)]
    v = [half(batch, kv, ctx, DIM) for _ in range(sets)]

    def step():
        for i in range(sets):
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                F.scaled_dot_product_attention(q[i], k[i], v[i], enable_gqa=kv != HEADS)

    return median(step, sets)


def flashinfer(view, batch, ctx):
    import flashinfer as fi

    kv = 8 if view == "gqa" else HEADS
    sets, pages = sets_of(kv, batch, ctx), batch * ctx // PAGE
    q = [half(batch, HEADS, DIM) for _ in range(sets)]
    cache = [half(pages, 2, PAGE, kv, DIM) for _ in range(sets)]
    out = torch.empty_like(q[0])
    best = float("inf")
    for tensor_cores in (False, True):
        w = fi.BatchDecodeWithPagedKVCacheWrapper(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"), "NHD", use_tensor_cores=tensor_cores)
        indptr = torch.arange(batch + 1, dtype=torch.int32, device="cuda") * (ctx // PAGE)
        indices = torch.randperm(pages, device="cuda").to(torch.int32)
        w.plan(indptr, indices, torch.full((batch,), PAGE, dtype=torch.int32, device="cuda"), HEADS, kv, DIM, PAGE, q_data_type=torch.half, kv_data_type=torch.half)

        def step():
            for i in range(sets):
                w.run(q[i], cache[i], out=out)

        best = min(best, median(step, sets))
        # What it computes is attention: one sequence and head in float32.
        own = indices[: ctx // PAGE].long()
        keys, values = (cache[-1][own, i, :, 0].reshape(ctx, DIM).float() for i in (0, 1))
        want = torch.softmax(keys @ q[-1][0, 0].float() / DIM**0.5, 0) @ values
        error = ((out[0, 0].float() - want).norm() / want.norm()).item()
        assert error < 1e-2, f"FlashInfer is off by {error}"
    return best


print("peers", torch.__version__, torch.cuda.get_device_name())
for name, measure in (("sdpa", sdpa), ("flashinfer", flashinfer)):
    if len(sys.argv) > 1 and name not in sys.argv[1:]:
        continue
    for point in POINTS:
        try:
            print(name, *point, f"{measure(*point):.1f}", flush=True)
        except (ImportError, RuntimeError, AssertionError) as e:  # one that fails is no reason to lose the others
            print(name, *point, "failed:", str(e).splitlines()[0], flush=True)
            if isinstance(e, ImportError):
                break
        torch.cuda.empty_cache()
