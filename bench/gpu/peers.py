"""Decode attention of PyTorch (SDPA, flash) and of FlashInfer (paged, pages of 16 in scattered order): medians of graph replays over rotated buffers, fp16. attention.py asks for
the points that it has rows of; python3 peers.py HEADS,KV_HEADS,DIM,BATCH,CONTEXT ... measures some by themselves."""
import os
import sys

PAGE = 16
STEPS, WARMUP, REPLAYS = 4, 3, 11  # of a graph at least, and of graphs: as twilight bench attention


def sets_of(kv, dim, batch, ctx):
    return max(1, min(8, -(-400_000_000 // (batch * kv * ctx * dim * 4))))  # together far beyond the L2 cache


def median(step, sets):
    import torch

    rounds = -(-STEPS // sets)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            step()
    times = []
    for i in range(WARMUP + REPLAYS):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        b.synchronize()
        if i >= WARMUP:
            times.append(a.elapsed_time(b) * 1000 / sets / rounds)
    return sorted(times)[len(times) // 2]


def half(*shape):
    import torch

    return torch.empty(*shape, dtype=torch.half, device="cuda").normal_()


def sdpa(heads, kv, dim, batch, ctx):
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    sets = sets_of(kv, dim, batch, ctx)
    q = [half(batch, heads, 1, dim) for _ in range(sets)]
    k = [half(batch, kv, ctx, dim) for _ in range(sets)]
    v = [half(batch, kv, ctx, dim) for _ in range(sets)]

    def step():
        for i in range(sets):
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                F.scaled_dot_product_attention(q[i], k[i], v[i], enable_gqa=kv != heads)

    return median(step, sets)


def flashinfer(heads, kv, dim, batch, ctx):
    """The better of its plain kernel and of the one on tensor cores."""
    os.environ.setdefault("FLASHINFER_DISABLE_JIT", "1")  # kernels that were not compiled beforehand are left out: a machine without a compiler would only try
    import flashinfer as fi
    import torch

    sets, each = sets_of(kv, dim, batch, ctx), -(-ctx // PAGE)
    pages = batch * each
    q = [half(batch, heads, dim) for _ in range(sets)]
    cache = [half(pages, 2, PAGE, kv, dim) for _ in range(sets)]
    out = torch.empty_like(q[0])
    best, failed = float("inf"), None
    for tensor_cores in (False, True):
        try:
            w = fi.BatchDecodeWithPagedKVCacheWrapper(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"), "NHD", use_tensor_cores=tensor_cores)
            indptr = torch.arange(batch + 1, dtype=torch.int32, device="cuda") * each
            indices = torch.randperm(pages, device="cuda").to(torch.int32)
            w.plan(indptr, indices, torch.full((batch,), ctx - (each - 1) * PAGE, dtype=torch.int32, device="cuda"), heads, kv, dim, PAGE, q_data_type=torch.half, kv_data_type=torch.half)

            def step():
                for i in range(sets):
                    w.run(q[i], cache[i], out=out)

            best = min(best, median(step, sets))
        except (RuntimeError, ValueError) as e:  # not every group is in every kernel
            failed = e
            continue
        # What it computes is attention: one sequence and head in float32.
        own = indices[:each].long()
        keys, values = (cache[-1][own, i, :, 0].reshape(-1, dim)[:ctx].float() for i in (0, 1))
        want = torch.softmax(keys @ q[-1][0, 0].float() / dim**0.5, 0) @ values
        error = ((out[0, 0].float() - want).norm() / want.norm()).item()
        if not error < 1e-2:
            raise RuntimeError(f"FlashInfer is off by {error}")
    if failed and best == float("inf"):
        raise failed
    return best


PEERS = {"SDPA": sdpa, "FlashInfer": flashinfer}


def measure(points, log=lambda line: print(line, file=sys.stderr, flush=True)):
    """{(peer, point): microseconds} of every peer that there is at every point (heads, kv_heads, dim, batch, ctx); a peer that fails at one is left out there."""
    found = {}
    try:
        import torch
    except ImportError as e:
        log(f"peers: {e}")
        return found
    log(f"peers: PyTorch {torch.__version__} on {torch.cuda.get_device_name()}")
    for name, run in PEERS.items():
        for point in points:
            try:
                found[name, point] = run(*point)
            except ImportError as e:
                log(f"{name}: {e}")
                break
            except Exception as e:  # one that fails is no reason to lose the others
                log(f"{name} {point}: {str(e).splitlines()[0] if str(e) else type(e).__name__}")
            torch.cuda.empty_cache()
    return found


if __name__ == "__main__":
    for (name, point), us in measure([tuple(map(int, a.split(","))) for a in sys.argv[1:]]).items():
        print(name, *point, f"{us:.1f}")
