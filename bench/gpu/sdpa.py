"""Decode attention of PyTorch (flash, fp16), the baseline of results/gpu-attention.md: median microseconds of graph replays over rotated buffers.

python3 sdpa.py: one line a point: view, batch, context, microseconds. gqa is 32 query and 8 KV heads of 128 channels, mha the same expanded to 32 KV heads."""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DIM, HEADS = 128, 32


def median(view, batch, ctx):
    kv = 8 if view == "gqa" else HEADS
    size = batch * kv * ctx * DIM * 4
    sets = max(1, min(8, -(-400_000_000 // size)))  # together far beyond the L2 cache
    q = [torch.randn(batch, HEADS, 1, DIM, dtype=torch.half, device="cuda") for _ in range(sets)]
    k = [torch.randn(batch, kv, ctx, DIM, dtype=torch.half, device="cuda") for _ in range(sets)]
    v = [torch.randn(batch, kv, ctx, DIM, dtype=torch.half, device="cuda") for _ in range(sets)]

    def step():
        for i in range(sets):
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                F.scaled_dot_product_attention(q[i], k[i], v[i], enable_gqa=kv != HEADS)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for i in range(18):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        b.synchronize()
        if i >= 3:
            times.append(a.elapsed_time(b) * 1000 / sets)
    return sorted(times)[len(times) // 2]


print("sdpa", torch.__version__, torch.cuda.get_device_name())
for view in ("gqa", "mha"):
    for batch in (1, 8, 16, 64):
        for ctx in (8192, 16384, 32768):
            print("sdpa", view, batch, ctx, f"{median(view, batch, ctx):.1f}", flush=True)
            torch.cuda.empty_cache()
