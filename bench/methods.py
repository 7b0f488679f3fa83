#!/usr/bin/env python3
"""Every selector with top-p beside the same with a fixed budget equal to the mean of what top-p chose.

    python3 bench/methods.py top-p 8192 > specs            # each selector proposing a quarter of 8192 tokens, 4-bit estimates, top-p 0.9, 0.85, 0.95
    twilight eval kl … -n 8192 -o text.jsonl $(sed 's/^/--attention /' specs)
    python3 bench/methods.py fixed 8192 text.jsonl > specs # each selector's own budget, and top-k of its quarter: what top-p:0.9 kept there on average
    python3 bench/methods.py slim *.jsonl > rows.jsonl     # rows to keep: budgets of single heads of three specs alone
    python3 bench/methods.py merge old.jsonl new… > rows.jsonl # what is new of each model, of questions those that every spec of their file has answered, and what is old of it
    python3 bench/methods.py table rows.jsonl

Budgets are as written by the rows' kept_mean: survivors of a head, over the sparse layers.
"""
import collections, gzip, json, math, os, random, sys

PS = ("0.9", "0.85", "0.95")
SHOWN_HEADS = ("full+int4+top-p:0.9", "quest:keep=0.25+int4+top-p:0.9")  # and Twilight's presets


def proposers(n):
    q = n // 4
    return ["full", f"streaming:window={q - 4}", "quest:keep=0.25", "double-sparsity:keep=0.25", "sparq:keep=0.25", "tidal:keep=0.25", "h2o:keep=0.25", "snapkv:keep=0.25",
            f"hip:k={q - 272}", "double-p", "magicpig", "pqcache:keep=0.25", "pqcache:keep=0.25,recent=0.1,parts=8", "oracle-k:keep=0.25"]


def top_p(n):
    for p in PS:
        for s in proposers(n):
            yield f"{s}+int4+top-p:{p}"
        yield f"oracle-p:{p}"
        for select in ("full", "quest:keep=0.5,least=4096,reach=0.7,shared,middle"):  # twilight and twilight-fast
            yield f"{select}+block-range+top-p:{p},union,exact=0.3,tail=mean+when:dense-layers=0"


def alone(selector, kept, n):
    """The selector's own budget of that many tokens; None for those that have none."""
    name, share = selector.split(":")[0], f"{kept / n:.4f}"
    if name in ("full", "double-p", "magicpig"):
        return None
    if name == "streaming":
        return f"streaming:window={max(kept - 4, 16)}"
    if name == "hip":
        return f"hip:k={kept}"
    if "parts=8" in selector:
        return f"pqcache:keep={share},recent=0.1,parts=8"
    return f"{name}:keep={share}"


def fixed(n, rows):
    for r in rows:
        selector, pruned, _ = r["label"].partition("+int4+top-p:0.9")
        if not pruned or not r["label"].endswith("top-p:0.9"):
            continue
        kept = round(r["kept_mean"])
        if own := alone(selector, kept, n):
            yield own
        yield f"{selector}+int4+top-k:k={kept}"


def read(files):
    seen = set()
    for name in files:
        with gzip.open(name, "rt") if name.endswith(".gz") else open(name) as f:
            for line in f:
                if not line.endswith("\n") or line == "\n":
                    continue  # torn, or of no rows
                r = json.loads(line)
                r["model"] = os.path.basename(r["model"]).removesuffix(".gguf")
                key = r["kind"], r["task"], r["sample"], r["spec"], r["length"], r["model"], r["prompt_hash"], r["device"].split(" (")[0]
                if key not in seen:
                    seen.add(key)
                    yield r


def share(rows, over, under):
    return sum(r[over] for r in rows) / sum(r[under] for r in rows)


def mean(rows, field):
    return sum(r[field] for r in rows) / len(rows)


def mass(rows):
    return f"{mean(rows, 'mass'):.3f}" if all(r["measured"] for r in rows) else "–"


def nominal(length):
    """The context that a text or a question was made for: questions leave room for the answer."""
    return 1 << (length - 1).bit_length()


def interval(values):
    """A mean and its 95 % bootstrap interval."""
    rng, n = random.Random(1), len(values)
    means = sorted(sum(rng.choices(values, k=n)) / n for _ in range(1000))
    return sum(values) / n, means[25], means[974]


def scores(rows):
    """Points of each question, weighted such that their mean is that of the tasks' means."""
    of = collections.Counter(r["task"] for r in rows)
    return {(r["task"], r["sample"]): 100 * r["score"] * len(rows) / len(of) / of[r["task"]] for r in rows}


def paired(a, b):
    """How many points a is above b on the same questions, with the interval."""
    both = [a[k] - b[k] for k in a if k in b]
    if not both:
        return "–"
    d, lo, hi = interval(both)
    return f"{d:+.1f} ({lo:+.1f} to {hi:+.1f})"


def table(rows):
    groups = collections.defaultdict(lambda: collections.defaultdict(lambda: collections.defaultdict(list)))
    for r in rows:
        kind = "text" if r["kind"] == "text" else "needle" if r["task"] == "needle" else "ruler"
        groups[r["model"], nominal(r["length"]), r["device"].split(" (")[0]][r["label"]][kind].append(r)
    for (model, length, device), specs in sorted(groups.items()):
        print(f"\n### {model}, {length} tokens, {device}\n")
        asked, texts = any(k["ruler"] for k in specs.values()), any(k["text"] for k in specs.values())
        head = ["attention"] + texts * ["ppl", "KL", "top-1", "kept", "bytes", "mass"] + asked * ["needle", "RULER", "RULER − dense (95 %)", "kept"]
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        answers = {label: {kind: scores(k[kind]) for kind in ("needle", "ruler")} for label, k in specs.items()}
        for label, kinds in sorted(specs.items(), key=lambda x: order(x[0])):
            t, cells = kinds["text"], []
            if t:
                nll = mean([{"x": math.log(r["ppl"])} for r in t], "x")
                cells = [f"{math.exp(nll):.2f}", f"{mean(t, 'kl'):.4f}", f"{100 * mean(t, 'top1_agreement'):.0f} %", f"{mean(t, 'kept_mean'):.0f}",
                         f"{100 * share(t, 'bytes_per_step', 'dense_bytes_per_step'):.1f} %", mass(t)]
            elif texts:
                cells = ["–"] * 6
            if asked:
                for kind in ("needle", "ruler"):
                    a = answers[label][kind]
                    cells.append(f"{sum(a.values()) / len(a):.1f} of {len(a)}" if a else "–")
                cells.append("–" if label == "dense" else paired(answers[label]["ruler"], answers.get("dense", {"ruler": {}})["ruler"]))
                cells.append(f"{mean(kinds['ruler'], 'kept_mean'):.0f}" if kinds["ruler"] else "–")
            print(f"| `{label}` | " + " | ".join(cells) + " |")
        if asked and texts:
            shape(specs, answers)


def shape(specs, answers):
    """Whether top-p is at least as accurate as a fixed budget of as many tokens."""
    pairs = []
    for label in sorted(specs, key=order):
        selector, pruned, _ = label.partition("+int4+top-p:0.9")
        if not pruned or not label.endswith("top-p:0.9"):
            continue
        for other in specs:
            name, small = order(other)[:2] if other != "dense" else (None, None)
            if other != label and name == order(label)[0] and small in (1, 2) and ("recent" in other) == ("recent" in label):
                pairs.append((label, other))
    print("\n| top-p:0.9 | a fixed budget of as many tokens | KL | needle and RULER: top-p − fixed (95 %) |\n|---|---|---|---|")
    for label, other in pairs:
        kl = [f"{mean(specs[x]['text'], 'kl'):.4f}" if specs[x]["text"] else "–" for x in (label, other)]
        both = [answers[x]["needle"] | answers[x]["ruler"] for x in (label, other)]
        print(f"| `{label}` | `{other}` | {kl[0]} – {kl[1]} | {paired(*both)} |")


def order(label):
    """Selectors in the order of the list above, and of one: top-p by p, then top-k of its quarter, then its own budget."""
    stage = label.split("+")[0]
    name = stage.split(":")[0] + ("8" if "parts=8" in stage else "")
    if label == "dense":
        return (0,)
    if "exact=" in label or label.startswith("twilight"):
        return (1, label)
    names = ["full", "streaming", "quest", "double-sparsity", "sparq", "tidal", "h2o", "snapkv", "hip", "double-p", "magicpig", "pqcache", "pqcache8", "oracle-k", "oracle-p"]
    return (2 + names.index(name), 0 if "top-p" in label or name == "oracle-p" else 1 if "top-k" in label else 2, label)


def whole(name):
    """A file's rows, of questions those that every spec has answered: a stopped run leaves others."""
    rows = list(read([name]))
    specs = {r["spec"] for r in rows}
    answered = collections.defaultdict(set)
    for r in rows:
        answered[r["task"], r["sample"], r["length"]].add(r["spec"])
    return [r for r in rows if r["kind"] == "text" or answered[r["task"], r["sample"], r["length"]] == specs]


def merge(old, new):
    rows = [r for name in new for r in whole(name)]
    about = lambda r: (r["kind"], r["model"], nominal(r["length"]))  # other tokens of a text, or prompts that another device read, are not to be compared with
    have = set(map(about, rows))
    rows += [r for r in read([old]) if about(r) not in have]
    return sorted(rows, key=lambda r: (r["model"], r["kind"] == "sample", r["device"].split(" (")[0], r["length"], r["task"], order(r["label"]), r["sample"]))


def slim(rows):
    for r in rows:
        if r["kind"] != "text" or r["label"] not in SHOWN_HEADS and not r["label"].startswith("twilight"):
            r.pop("kept_heads", None)
            r.pop("mass_heads", None)
        if r["kind"] != "text":
            for field in ("kept_by_step", "mass_by_step", "step_tokens", "expected"):
                r.pop(field, None)
            r["answer"] = r["answer"][:60]
        yield json.dumps(r, ensure_ascii=False, separators=(",", ":"))


def main():
    what, args = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if what == "top-p" and len(args) == 1:
        print("\n".join(top_p(int(args[0]))))
    elif what == "fixed" and len(args) == 2:
        print("\n".join(fixed(int(args[0]), read(args[1:]))))
    elif what == "table" and args:
        table(list(read(args)))
    elif what == "merge" and len(args) > 1:
        print("\n".join(slim(merge(args[0], args[1:]))))
    elif what == "slim" and args:
        print("\n".join(slim(read(args))))
    else:
        sys.exit(__doc__)


main()
