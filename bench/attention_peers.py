#!/usr/bin/env python3
"""Decode attention of PyTorch beside ours: scaled_dot_product_attention on the shapes, contexts and threads of a run of twilight bench attention.

    pip install torch numpy
    python3 bench/attention_peers.py --model qwen2.5-coder-0.5b --load cache.kv --ctx 8192,32000 --threads 1

PyTorch gets keys and values of the same sizes, float32 and bfloat16 (random: its time does not depend on them), as many layers of them as do not fit the caches, and the
better of its grouped form and of keys repeated beforehand. Rounds alternate: twilight, PyTorch, twilight, PyTorch; the best of each is compared, because other
load only ever slows a run down.
"""
import argparse, json, shutil, subprocess, sys, time

CACHED = 256 << 20  # bytes that are read before the same layer comes again


def pinned(cmd, pin):
    return ["taskset", "-c", pin, *cmd] if pin and shutil.which("taskset") else cmd


def twilight(args):
    cmd = [args.twilight, "bench", "attention", "--model", args.model, "--ctx", args.ctx, "--view", args.view, "--threads", str(args.threads), "--steps", str(args.steps), "--json"]
    cmd += ["--load", args.load] if args.load else ["--file", args.file]
    for spec in args.specs.split(";"):
        cmd += ["--attention", spec]
    p = subprocess.run(pinned(cmd, args.pin), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(cmd)}: exit code {p.returncode}\n{p.stderr}")
    return [json.loads(line) for line in p.stdout.splitlines()]


def torch_times(args):
    """Runs in a process of its own: best microseconds a layer of each shape and type, as JSON lines."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(args.threads)
    for heads, kv, dim, ctx in json.loads(args.shapes):
        for name in ("float32", "bfloat16"):
            t = getattr(torch, name)
            size = 2 * kv * ctx * dim * t.itemsize
            layers = max(2, -(-CACHED // size))
            q = torch.randn(1, heads, 1, dim, dtype=t)
            for form in ("grouped", "repeated") if kv != heads else ("plain",):
                wide = heads if form == "repeated" else kv
                # Fewer layers of repeated keys fill as much memory.
                cache = [[torch.randn(1, kv, ctx, dim, dtype=t) for _ in "kv"] for _ in range(layers)]
                if wide != kv:
                    cache = [[x[:, :, None].expand(1, kv, heads // kv, ctx, dim).reshape(1, heads, ctx, dim) for x in pair] for pair in cache[: max(2, layers * kv // heads)]]
                best = float("inf")
                with torch.inference_mode():
                    for round in range(args.steps + 1):
                        start = time.perf_counter()
                        for k, v in cache:
                            F.scaled_dot_product_attention(q, k, v, enable_gqa=form == "grouped")
                        took = (time.perf_counter() - start) / len(cache)
                        if round > 0:
                            best = min(best, took)
                print(json.dumps({"heads": heads, "kv_heads": kv, "dim": dim, "ctx": ctx, "type": name, "form": form, "us": best * 1e6, "version": torch.__version__}), flush=True)


def peers(args, shapes):
    cmd = [sys.executable, __file__, "--shapes", json.dumps(shapes), "--threads", str(args.threads), "--steps", str(args.steps)]
    p = subprocess.run(pinned(cmd, args.pin), stdout=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit("PyTorch failed")
    return [json.loads(line) for line in p.stdout.splitlines()]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--model", default="smollm2-135m")
    a.add_argument("--load", help="a saved cache of the model: twilight prefill --save")
    a.add_argument("--file", help="or a text to read")
    a.add_argument("--ctx", default="8000", help="tokens in sight, comma-separated")
    a.add_argument("--view", default="gqa", choices=["gqa", "mha"])
    a.add_argument("--specs", default="dense;twilight-paper;twilight", help="attention specs, separated by ;")
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--steps", type=int, default=8)
    a.add_argument("--rounds", type=int, default=2)
    a.add_argument("--pin", default="", help="processors for taskset")
    a.add_argument("--twilight", default="./twilight", help="the binary: go build ./cmd/twilight")
    a.add_argument("--shapes", help=argparse.SUPPRESS)
    args = a.parse_args()
    if args.shapes:
        return torch_times(args)
    if not args.load and not args.file:
        sys.exit("give a cache with --load or a text with --file")
    ours, theirs, version = {}, {}, ""
    for _ in range(args.rounds):
        rows = twilight(args)
        for r in rows:
            key = r["ctx"], r["spec"]
            if key not in ours or r["us_per_step"] < ours[key]["us_per_step"]:
                ours[key] = r
        shapes = {r["ctx"]: (r["heads"], r["heads"] if args.view == "mha" else r["kv_heads"], r["dim"], r["ctx"]) for r in rows}
        for r in peers(args, list(shapes.values())):
            version, key = r["version"], (r["ctx"], r["type"])
            if key not in theirs or r["us"] < theirs[key][0]:
                theirs[key] = r["us"], r["form"]
    one = next(iter(ours.values()))
    print(f"{args.model}, {args.view}: {one['heads']} query heads, {one['kv_heads']} KV heads, {one['dim']} channels; {args.threads} thread(s); best of {args.rounds} alternating runs; PyTorch {version}")
    print(f"this machine: {one['read_gbps']:.1f} GB/s from memory, {one['fma_gflops']:.0f} GFLOP/s of float32, {one['vnni_gops']:.0f} GOP/s of int8\n")
    print("| ctx | attention | µs/layer | GB/s | over PyTorch float32 | over PyTorch bfloat16 | over own dense |\n|---|---|---|---|---|---|---|")
    for ctx in sorted({c for c, _ in ours}):
        f32, bf16, dense = theirs[ctx, "float32"], theirs[ctx, "bfloat16"], ours[ctx, "dense"]["us_per_step"]
        kv = one["heads"] if args.view == "mha" else one["kv_heads"]
        for name, (us, form), width in (("float32", f32, 8), ("bfloat16", bf16, 4)):
            print(f"| {ctx} | PyTorch {name}, {form} | {us:.1f} | {kv * ctx * one['dim'] * width / us / 1e3:.1f} | {f32[0] / us:.2f} | {bf16[0] / us:.2f} | {dense / us:.2f} |")
        for (c, spec), r in ours.items():
            if c == ctx:
                us = r["us_per_step"]
                print(f"| {ctx} | {spec} | {us:.1f} | {r['gbps']:.1f} | {f32[0] / us:.2f} | {bf16[0] / us:.2f} | {dense / us:.2f} |")


if __name__ == "__main__":
    main()
