#!/usr/bin/env python3
"""Everything about the attention operator on one GPU in one run: twilight bench attention --device cuda on captured queries, keys and values, then PyTorch's SDPA and FlashInfer
(peers.py) on the same shapes; printed as joined tables in Markdown.

    python3 bench/gpu/attention.py --twilight ./twilight --flashinfer DIR --out OUT captures/*.cap

Captures are made where the models are, with twilight bench attention --save. Those of one model are measured together, their texts in turn over a batch: as the model has its heads, and,
if heads have 128 channels, stacked to 32 query heads on 8 KV heads; each in both views. OUT gets the rows (rows.jsonl), the peers (peers.json) and the tables (attention.md).
"""
import argparse, json, os, struct, subprocess, sys
import peers

SPECS = [
    "twilight-paper+when:min-context=auto",
    "twilight+when:min-context=auto",
    "twilight-fast+when:min-context=auto",
    "quest:keep=0.25,shared+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:min-context=auto",
    "quest:keep=0.125,shared+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:min-context=auto",
    "quest:keep=0.08,reach=0.5,shared+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:min-context=auto",
    "quest:keep=0.0625,reach=0.5,shared+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:min-context=auto",
]
STAGES = ["begin", "scan", "choose", "estimate", "prune", "list", "attend"]


def header(path):
    """Model, channels, query heads a group, KV heads and contexts of a capture."""
    with open(path, "rb") as f:
        magic, dim, group, kv, _, contexts, _, name = struct.unpack("<8s7I", f.read(36))
        if magic != b"TWLTCAP2":
            sys.exit(f"{path}: no capture")
        at = struct.unpack(f"<{contexts}I", f.read(4 * contexts))
        return f.read(name).decode(), dim, group, kv, at


def runs(args):
    """Titles and arguments of the runs of the binary."""
    models = {}
    for path in args.captures:
        name, dim, group, kv, at = header(path)
        m = models.setdefault((name, dim, group, kv), {"paths": [], "contexts": set()})
        m["paths"].append(path)
        m["contexts"].update(at)
    for (name, dim, group, kv), m in models.items():
        contexts = sorted(m["contexts"] & set(args.ctx) if args.ctx else m["contexts"])
        if not contexts:
            continue
        flags = ["--capture", ",".join(m["paths"]), "--ctx", ",".join(map(str, contexts)), "--batch", args.batch, "--view", args.view]
        if dim == 128 and "stacked" in args.shapes:
            yield f"{name}, stacked", flags + ["--heads", "32", "--kv-heads", "8"]
        if "own" in args.shapes:
            yield f"{name}, its own heads", flags


def twilight(args, flags, keep):
    cmd = [args.twilight, "bench", "attention", "--device", "cuda", "--json", *flags]
    for spec in args.attention or SPECS:
        cmd += ["--attention", spec]
    print(" ".join(cmd), file=sys.stderr, flush=True)
    rows = []
    with subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True) as p:
        for line in p.stdout:
            rows.append(json.loads(line))
            keep.write(line)
            keep.flush()  # what there is when time is up
    if p.returncode:
        print(f"exit code {p.returncode} after {len(rows)} rows", file=sys.stderr, flush=True)  # the rows so far count
    return rows


def point(r):
    return r["heads"], r["kv_heads"], r["dim"], r["batch"], r["ctx"]


def name_of(spec):
    short = {"+block-range+top-p:": " ", ",union,exact=0.3,tail=mean": "", "+when:min-context=auto": "", "quest:": "", ",shared": ""}
    for a, b in short.items():
        spec = spec.replace(a, b)
    return spec


def shares(r):
    """How much of the copy's bandwidth the bytes of the selection, of the estimates and of attention reach in the time of their stages."""
    us, per_token = r["stages_us"], r["kept_mean"] / r["kept_share"] * r["batch"] * r["kv_heads"]
    out = []
    for name, stages in (("select", ("begin", "scan", "choose")), ("estimate", ("estimate",)), ("attend", ("attend",))):
        took = sum(us.get(s, 0) for s in stages)
        out.append(f"{100 * r['stages_bytes_per_token'][name] * per_token / took / 1e3 / r['copy_gbps']:.0f}" if took > 0 else "–")
    return " ".join(out)


def table(rows, found):
    cells = ["batch", "context", "attention", "µs", "× our dense", "× FlashInfer", "× SDPA", "bytes/token: select + estimate + attend", "GB/s", "% of copy", "select, estimate, attend: % of copy", "candidates", "kept", "exact", "coded", "true mass (worst)",
             "output error", "µs: " + " ".join(STAGES)]
    yield "| " + " | ".join(cells) + " |"
    yield "|" + "---|" * len(cells)
    seen = set()
    for r in rows:
        at = point(r)
        versus = lambda peer, us: f"{found[peer, at] / us:.2f}" if (peer, at) in found else ""
        if at not in seen:
            seen.add(at)
            for peer in peers.PEERS:
                if (peer, at) in found:
                    us = found[peer, at]
                    yield f"| {r['batch']} | {r['ctx']} | {peer} | {us:.1f} | {r['us_per_step'] * r['speedup_vs_dense'] / us:.2f} | {versus('FlashInfer', us)} | {versus('SDPA', us)} |" + " |" * (len(cells) - 7)
        us, b = r["us_per_step"], r["stages_bytes_per_token"]
        whole = r["spec"] != "dense" and r["whole_share"] == 1
        yield "| " + " | ".join([str(r["batch"]), str(r["ctx"]), name_of(r["spec"]) + (", read whole" if whole else ""), f"{us:.1f}", f"{r['speedup_vs_dense']:.2f}", versus("FlashInfer", us), versus("SDPA", us),
                                 f"{r['bytes_per_token']:.1f}: {b['select']:.1f} + {b['estimate']:.1f} + {b['attend']:.1f}", f"{r['gbps']:.0f}", f"{100 * r['gbps'] / r['copy_gbps']:.0f}", shares(r), f"{r['candidates_mean']:.0f}",
                                 f"{r['kept_mean']:.0f}", f"{r['union_mean']:.0f}", f"{r['coded_mean']:.0f}", f"{r['mass']:.4f} ({r['mass_worst']:.4f})", f"{r['out_err']:.4f}",
                                 " ".join(f"{r['stages_us'].get(s, 0):.1f}" for s in STAGES)]) + " |"


def summary(title, rows, found):
    """One short line a row, and which are slower than dense attention."""
    print(title)
    for r in rows:
        peer = "".join(f"  {found[p, point(r)] / r['us_per_step']:6.2f} × {p}" for p in peers.PEERS if (p, point(r)) in found)
        slow = "  SLOWER THAN DENSE" if r["speedup_vs_dense"] < 0.99 else ""
        print(f"{r['view']} {r['batch']:3} × {r['ctx']:5} {r['us_per_step']:8.1f} µs {r['speedup_vs_dense']:6.2f} × dense{peer}  mass {r['mass']:.3f}  error {r['out_err']:.3f}  {name_of(r['spec'])}{slow}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("captures", nargs="+")
    p.add_argument("--twilight", default="twilight", help="the binary")
    p.add_argument("--flashinfer", help="the folder that has the package flashinfer")
    p.add_argument("--out", default=".", help="a folder")
    p.add_argument("--attention", "-a", action="append", help="a spec beside dense; several")
    p.add_argument("--batch", default="1,8,16,64")
    p.add_argument("--ctx", type=lambda s: [int(x) for x in s.split(",")], help="contexts; left out: all that were captured")
    p.add_argument("--view", default="gqa,mha")
    p.add_argument("--shapes", default="stacked,own", type=lambda s: s.split(","))
    p.add_argument("--no-peers", action="store_true")
    args = p.parse_args()
    if args.flashinfer:
        sys.path.insert(0, args.flashinfer)
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "rows.jsonl"), "w") as keep:
        measured = [(title, twilight(args, flags, keep)) for title, flags in runs(args)]
    points = list(dict.fromkeys(point(r) for _, rows in measured for r in rows))
    found = {} if args.no_peers else peers.measure(points)
    with open(os.path.join(args.out, "peers.json"), "w") as f:
        json.dump([{"peer": name, "point": at, "us": us} for (name, at), us in found.items()], f)
    with open(os.path.join(args.out, "attention.md"), "w") as f:
        for title, rows in measured:
            for view in dict.fromkeys(r["view"] for r in rows):
                some = [r for r in rows if r["view"] == view]
                r = some[0]
                f.write(f"### {title}, view {view}: {r['heads']} query heads, {r['kv_heads']} KV heads, d = {r['dim']}\n\n{r['device']}; the copy kernel moves {r['copy_gbps']:.0f} GB/s.\n\n")
                f.writelines(line + "\n" for line in table(some, found))
                f.write("\n")
    for title, rows in measured:
        summary(title, rows, found)


if __name__ == "__main__":
    main()
