#!/usr/bin/env python3
"""Compares decode and prompt speed with llama.cpp: same file, threads and fp16 cache, in one run on one machine.

    python3 bench/peers.py --text book.txt --models smollm2-135m,qwen2.5-coder-1.5b --depths 0,8192 --threads 1

    python3 bench/peers.py --load book.kv --text book.txt --models qwen2.5-coder-0.5b --depths 32000 --threads 1 --steps 8 --rounds 1

llama.cpp is the one that the pip package llama-cpp-python vendors, built for this machine with flash attention off, its fastest setting at depth on CPUs (about six
minutes, once; kept in the user's cache folder, or in the folder that LLAMA_CPP names, which holds the package's source and its build). Its decode steps are timed by
bench/llama_depth.cc, which repeats the cache of a short prompt up to the depth; within noise that is what llama-bench -d says after computing all of it. Runs alternate: twilight, llama.cpp,
twilight, llama.cpp; of each the best run's median step is compared, because other load only ever slows a run down.
"""
import argparse, glob, json, os, platform, shutil, subprocess, sys, tarfile

PACKAGE = "llama-cpp-python==0.3.36"


def cache_dir():
    return os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "twilight")


def llama_cpp():
    """The folder with llama-bench and llama-depth."""
    root = os.environ.get("LLAMA_CPP", os.path.join(cache_dir(), "llama.cpp"))
    build = os.path.join(root, "build")
    bins = os.path.join(build, "bin")
    if not os.path.exists(os.path.join(bins, "llama-bench")):
        os.makedirs(root, exist_ok=True)
        print(f"building llama.cpp of {PACKAGE} (about six minutes, once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", "-d", root, PACKAGE], check=True, stdout=sys.stderr)
        with tarfile.open(glob.glob(os.path.join(root, "llama_cpp_python-*.tar.gz"))[0]) as t:
            t.extractall(root, filter="data")
        subprocess.run(["cmake", "-S", llama_source(root), "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DGGML_OPENMP=OFF", "-DLLAMA_CURL=OFF"], check=True, stdout=sys.stderr)
        subprocess.run(["cmake", "--build", build, "--target", "llama-bench", "-j", str(os.cpu_count())], check=True, stdout=sys.stderr)
    depth, code = os.path.join(bins, "llama-depth"), os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama_depth.cc")
    if not os.path.exists(depth) or os.path.getmtime(depth) < os.path.getmtime(code):
        source = llama_source(root)
        subprocess.run(["c++", "-O2", "-std=c++17", "-I", os.path.join(source, "include"), "-I", os.path.join(source, "ggml", "include"), code, "-o", depth, "-L", bins, "-lllama", "-lggml", "-lggml-base", "-Wl,-rpath,$ORIGIN"], check=True)
    return bins


def llama_source(root):
    return glob.glob(os.path.join(root, "llama_cpp_python-*", "vendor", "llama.cpp"))[0]


def run(cmd, pin):
    if pin and shutil.which("taskset"):
        cmd = ["taskset", "-c", pin, *cmd]
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(cmd)}: exit code {p.returncode}\n{p.stderr}")
    return p.stdout


def twilight(args, model):
    base = [args.twilight, "bench", "decode", "--model", model, "--steps", str(args.steps), "--threads", str(args.threads), "--json"]
    cmd = [*base, *(["--load", args.load] if args.load else ["--file", args.text]), "--depth", ",".join(map(str, args.depths))]
    for spec in args.specs:
        cmd += ["--attention", spec]
    lines = run(cmd, args.pin).splitlines()
    if args.text:
        lines += run([*base, "--file", args.text, "--depth", "512", "--attention", "dense"], args.pin).splitlines()
    out = {}
    for line in lines:
        r = json.loads(line)
        key = ("prompt", r["ctx"]) if r["op"] == "prefill" else (r["spec"], r["ctx"])
        out[key] = (r["us_per_step"] / 1e3, r)
    return out


def llama(args, path):
    """ms a token by ("llama.cpp", depth), and ("llama.cpp prompt", n)."""
    out, bins = {}, llama_cpp()
    for r in json.loads(run([os.path.join(bins, "llama-bench"), "-m", path, "-t", str(args.threads), "-fa", "0", "-r", "1", "-o", "json", "-p", "512", "-n", "0"], args.pin)):
        out["llama.cpp prompt", r["n_prompt"]] = 1e3 / r["avg_ts"]
    for line in run([os.path.join(bins, "llama-depth"), path, str(args.threads), str(args.steps), *map(str, args.depths)], args.pin).splitlines():
        r = json.loads(line)
        out["llama.cpp", r["depth"]] = r["ms"]
    return out


def best(into, values):
    for k, v in values.items():
        new = v[0] if isinstance(v, tuple) else v
        old = into.get(k)
        if old is None or new < (old[0] if isinstance(old, tuple) else old):
            into[k] = v


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--text", help="plain text that fills the cache")
    a.add_argument("--load", help="a saved cache of the one model in its place: twilight prefill --save")
    a.add_argument("--models", default="smollm2-135m,qwen2.5-coder-1.5b")
    a.add_argument("--depths", default="0,8192")
    a.add_argument("--specs", default="dense,twilight-paper,twilight", help="attention specs, comma-separated; write ; for commas inside one")
    a.add_argument("--steps", type=int, default=24)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--rounds", type=int, default=2)
    a.add_argument("--pin", default="", help="processors for taskset")
    a.add_argument("--twilight", default="./twilight", help="the binary: go build ./cmd/twilight")
    a.add_argument("--folder", default=os.environ.get("TWILIGHT_MODELS") or os.path.join(cache_dir(), "models"), help="where the models are")
    args = a.parse_args()
    if not args.text and not args.load:
        sys.exit("give a text with --text or a cache with --load")
    args.depths = [int(d) for d in args.depths.split(",")]
    args.specs = [s.replace(";", ",") for s in args.specs.split(",")]
    print(f"{platform.machine()}, {args.threads} thread(s), fp16 cache, median of {args.steps} steps, best of {args.rounds} alternating runs\n")
    print("| model | depth | attention | ms/token | tokens/s | over llama.cpp | over own dense | kept |\n|---|---|---|---|---|---|---|---|")
    for model in args.models.split(","):
        ours, theirs = {}, {}
        for _ in range(args.rounds):
            best(ours, twilight(args, model))
            best(theirs, llama(args, os.path.join(args.folder, model + ".gguf")))
        for d in args.depths:
            peer, dense = theirs["llama.cpp", d], ours.get(("dense", d), (0,))[0]
            print(f"| {model} | {d} | llama.cpp | {peer:.2f} | {1e3 / peer:.1f} | 1 | {dense / peer:.2f} | all |")
            for spec in args.specs:
                ms, r = ours[spec, d]
                kept = f"{r['kept_mean']:.0f} ({100 * r['kept_share']:.1f} %)" if r["kept_share"] else "all"
                print(f"| {model} | {d} | {spec} | {ms:.2f} | {1e3 / ms:.1f} | {peer / ms:.2f} | {dense / ms:.2f} | {kept} |")
        for key, v in theirs.items():
            if key[0] == "llama.cpp prompt":
                print(f"| {model} | prompt {key[1]} | llama.cpp | {v:.2f} | {1e3 / v:.1f} | 1 | - | - |")
        for key, (ms, _) in ours.items():
            if key[0] == "prompt":
                print(f"| {model} | prompt {key[1]} | twilight | {ms:.2f} | {1e3 / ms:.1f} | - | - | - |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
