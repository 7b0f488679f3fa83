package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/bench"
	"github.com/twilight-go/twilight/internal/eval"
	"github.com/twilight-go/twilight/internal/testenv"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// result is what a command printed, and its exit code.
type result struct {
	code     int
	out, err string
}

func command(ctx context.Context, stdin string, args ...string) result {
	var out, errs bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &out, &errs)
	return result{code, out.String(), errs.String()}
}

// must runs a command that has to succeed.
func must(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	r := command(t.Context(), stdin, args...)
	if r.code != exitDone {
		t.Fatalf("twilight %q: exit code %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r
}

// decode reads JSON lines.
func decode[T any](t *testing.T, text string) (out []T) {
	t.Helper()
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var v T
		if err := d.Decode(&v); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		out = append(out, v)
	}
}

// tiny is the path of a small model, and a text that is longer than its context.
func tiny(t *testing.T) (model, text string) {
	t.Helper()
	dir := t.TempDir()
	model, text = filepath.Join(dir, "tiny.gguf"), filepath.Join(dir, "text.txt")
	if err := testmodel.Write(model, testmodel.Config{Seed: 1}); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := 0; b.Len() < 20000; i++ {
		b.WriteString([]string{"the old house ", "stood by the sea. ", "nobody knew why, ", "and the wind sang. "}[i*i%7%4])
	}
	if err := os.WriteFile(text, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return model, text
}

func TestMisuse(t *testing.T) {
	t.Setenv("TWILIGHT_MODELS", t.TempDir())
	for _, x := range []struct {
		args string
		want string
	}{
		{"run -a foo hi", `unknown selector or preset "foo"; known: dense, twilight-paper, twilight`},
		{"run -a quest:keep=2 hi", "keep=2: expected a number from 0 to 1"},
		{"run -m no-such-model hi", `unknown model "no-such-model"`},
		{"run --threads 9999 hi", "--threads=9999: expected 0 to 1024"},
		{"run --temp=-1 hi", "temperature -1: expected 0 to 100"},
		{"run --device gpu hi", "--device must be one of"},
		{"run --raw -s x hi", "--system needs the chat template"},
		{"run --head-tokens 3 hi", "--head-tokens needs --file"},
		{"run --load x -s y hi", "give it to 'twilight prefill'"},
		{"run", "the prompt is empty"},
		{"run --gpu-memory 3XB hi", `"3XB": expected a size such as 4GiB`},
		{"run --gpu-memory 3GiB hi", "--gpu-memory goes with --device=cuda, not cpu"},
		{"inspect x --kv-offload", "--kv-offload goes with --device=cuda, not cpu"},
		{"chat --ctx=-5", "--ctx=-5: expected a number of tokens"},
		{"prefill", "give a text with --file"},
		{"prefill -f x", "give a file with --save"},
		{"eval ppl", "give one with --file"},
		{"eval kl -f x --length 10 --score 10", "more tokens than those"},
		{"eval ppl -f x -f y --load z", "--load goes with one --file at most"},
		{"eval passkey --depths 101", "depth 101: expected 0 to 100 percent"},
		{"eval passkey --samples 0", "--samples=0: expected at least 1"},
		{"eval passkey --length=-3", "--length=[-3]: expected numbers of tokens"},
		{"eval needle", "give a long text with --file"},
		{"eval ruler", "give a long text with --file"},
		{"eval gsm8k", "give the benchmark's file with --file"},
		{"eval longbench -f x --samples 0", "--samples=0: expected at least 1"},
		{"bench decode", "--file or as --load"},
		{"bench serve -f x --prompt 5,4", "the least and the most tokens"},
		{"bench serve -f x --prompt 5 --shared 5", "less than the shortest prompt"},
		{"bench attention", "as --file, as --load or as --capture"},
		{"bench attention -f x --capture y --device cuda", "as --file, as --load or as --capture"},
		{"bench attention -f x --device reference", "expected cpu or cuda"},
		{"bench attention -f x --device cuda --save y", "leave --device out"},
		{"bench attention --capture y", "--capture goes with --device=cuda"},
		{"bench attention --capture y --device cuda --layers 3", "chosen when it was saved"},
		{"bench attention -f x --layers 3", "--layers goes with"},
		{"bench attention -f x --batch 8", "go with --device=cuda"},
		{"inspect", "expected \"<model>\""},
		{"pull nothing", `unknown model "nothing"`},
		{"rm nothing", `unknown model "nothing"`},
		{"sing", "unexpected argument sing"},
	} {
		r := command(t.Context(), "", strings.Fields(x.args)...)
		if r.code != exitMisuse || r.out != "" || !strings.HasPrefix(r.err, "twilight: ") || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, x.want) {
			t.Errorf("twilight %s: code %d, %q, %q; want %q", x.args, r.code, r.out, r.err, x.want)
		}
	}
}

func TestFailures(t *testing.T) {
	model, text := tiny(t)
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "-m", text, "hi"}, "this is not a GGUF file"},
		{[]string{"inspect", text}, "this is not a GGUF file"},
		{[]string{"run", "-m", model, "-f", text + "x", "hi"}, "reading the text: open"},
		{[]string{"run", "-m", model, "-f", text, "--raw"}, "but the context is 2048: context exceeded"},
		{[]string{"run", "-m", model, "--load", text, "hi"}, "saved cache refused: it begins with"},
		{[]string{"eval", "ppl", "-m", model, "-f", text, "--out=", "--ctx", "20000", "--length", "20000", "--score", "5"}, "the text does not do: it has"},
		{[]string{"eval", "ruler", "-m", model, "--out=", "-f", text, "--length", "300", "--task", "vt"}, "samples of 300 tokens, chat template and answer included"},
		{[]string{"eval", "passkey", "-m", model, "--out", text}, "line 1: not a row of an evaluation"},
	} {
		r := command(t.Context(), "", x.args...)
		if r.code != exitFailed || r.out != "" || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, x.want) {
			t.Errorf("twilight %q: code %d, %q, %q; want %q", x.args, r.code, r.out, r.err, x.want)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"run", "--help"}, {"eval", "ppl", "--help"}} {
		if r := must(t, "", args...); !strings.Contains(r.out, "Usage: twilight") || r.err != "" {
			t.Errorf("%q: %q, %q", args, r.out, r.err)
		}
	}
	if v := decode[versionResult](t, must(t, "", "version", "--json").out); len(v) != 1 || v[0].Go == "" {
		t.Errorf("version: %+v", v)
	}
}

// jsonText is a text as it comes out of JSON, which has no bytes that are not UTF-8.
func jsonText(t *testing.T, text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return decode[string](t, string(b))[0]
}

func TestRun(t *testing.T) {
	model, text := tiny(t)
	base := []string{"run", "-m", model, "--max-tokens", "12"}
	with := func(args ...string) []string { return append(base[:len(base):len(base)], args...) }
	plain := must(t, "", with("hello there")...)
	for _, want := range []string{"prompt ", "attention twilight (full+block-range", "because texts under 512 stay dense", "of keys and values"} {
		if !strings.Contains(plain.err, want) {
			t.Errorf("summary %q lacks %q", plain.err, want)
		}
	}
	if r := must(t, "hello there\n", base...); r.out != plain.out {
		t.Errorf("from standard input: %q, from the arguments: %q", r.out, plain.out)
	}
	if r := must(t, "hello there", with("--file", "-")...); r.out != plain.out {
		t.Errorf("from --file -: %q, from the arguments: %q", r.out, plain.out)
	}
	s := decode[summary](t, must(t, "", with("--json", "hello there")...).out)[0]
	if s.Text+"\n" != jsonText(t, plain.out) || s.Generated != 12 || s.Reason != "length" || s.Prompt == 0 || s.KVBytes == 0 || s.CodesBytes == 0 || s.Sparse {
		t.Errorf("%+v, text %q", s, plain.out)
	}
	long := decode[summary](t, must(t, "", with("--json", "--file", text, "--head-tokens", "900", "what?")...).out)[0]
	if !long.Sparse || long.Prompt < 900 || long.KeptMean <= 0 || long.KeptMean >= long.ContextMean || math.Abs(long.Pruned-(1-long.KeptMean/long.ContextMean)) > 1e-9 {
		t.Errorf("%+v", long)
	}
	draw := func(seed string) string {
		return must(t, "", with("--temp", "1.5", "--seed", seed, "hello there")...).out
	}
	first, again, other := draw("1"), draw("1"), draw("2")
	if first != again || first == other {
		t.Error("equal seeds must draw equal texts, and these two different ones")
	}
	if s := decode[summary](t, must(t, "", with("--json", "--temp", "1", "hi")...).out)[0]; s.Seed == nil {
		t.Error("a drawn seed is not reported")
	}
}

// A text that was saved and continued must answer as if it had been read at once.
func TestPrefillSaveLoad(t *testing.T) {
	model, text := tiny(t)
	cache := filepath.Join(t.TempDir(), "cache")
	for _, raw := range [][]string{nil, {"--raw"}} {
		save := append([]string{"prefill", "-m", model, "-f", text, "--head-tokens", "700", "--save", cache, "--json"}, raw...)
		p := decode[prefillResult](t, must(t, "", save...).out)[0]
		if p.Tokens < 700 || p.Rate <= 0 || p.KVBytes == 0 {
			t.Fatalf("%+v", p)
		}
		if r := must(t, "", "prefill", "-m", model, "--load", cache); !strings.Contains(r.err, "loaded") || r.out != "" {
			t.Fatalf("%+v", r)
		}
		args := append([]string{"run", "-m", model, "--max-tokens", "20", "--json"}, raw...)
		loaded := decode[summary](t, must(t, "", append(args, "--load", cache, "why?")...).out)[0]
		if loaded.Cached != p.Tokens || loaded.Prompt <= p.Tokens {
			t.Errorf("%d tokens of %d cached, want %d", loaded.Cached, loaded.Prompt, p.Tokens)
		}
		whole := decode[summary](t, must(t, "", append(args, "-f", text, "--head-tokens", "700", "why?")...).out)[0]
		if loaded.Text != whole.Text && loaded.Prompt == whole.Prompt { // where text and question meet, tokens may differ
			t.Errorf("loaded %q, read at once %q", loaded.Text, whole.Text)
		}
	}
	other := filepath.Join(t.TempDir(), "other.gguf")
	if err := testmodel.Write(other, testmodel.Config{Seed: 2}); err != nil {
		t.Fatal(err)
	}
	if r := command(t.Context(), "", "run", "-m", other, "--load", cache, "why?"); r.code != exitFailed || !strings.Contains(r.err, "saved from another model") {
		t.Errorf("%+v", r)
	}
}

func TestChat(t *testing.T) {
	model, _ := tiny(t)
	r := must(t, "/stats\n/what\nhello\n/stats\nand you?\n/stats\n/reset\nhello\n/exit\nnever read\n", "chat", "-m", model, "--max-tokens", "8")
	answers := strings.SplitAfter(r.out, "\n")
	for _, want := range []string{"nothing was asked yet", "unknown command /what", "prompt ", " cached), "} {
		if !strings.Contains(r.err, want) {
			t.Errorf("%q lacks %q", r.err, want)
		}
	}
	first := must(t, "hello", "chat", "-m", model, "--max-tokens", "8").out
	if !strings.HasPrefix(r.out, first) || !strings.HasSuffix(r.out, first) || len(answers) < 3 {
		t.Errorf("a first answer %q, but the conversation is %q", first, r.out)
	}
	full := must(t, strings.Repeat("a long line of some words to fill it\n", 4), "chat", "-m", model, "--ctx", "150", "--max-tokens", "8")
	if !strings.Contains(full.err, "but the context is 150: context exceeded; /reset begins anew") {
		t.Errorf("%q", full.err)
	}
}

// stopper cancels at the first write.
type stopper struct {
	text   []byte
	cancel func()
}

func (s *stopper) Write(b []byte) (int, error) {
	s.cancel()
	s.text = append(s.text, b...)
	return len(b), nil
}

func TestInterrupt(t *testing.T) {
	model, _ := tiny(t)
	ctx, cancel := context.WithCancel(t.Context())
	out, errs := stopper{cancel: cancel}, bytes.Buffer{}
	code := run(ctx, []string{"run", "-m", model, "--max-tokens", "0", "hello there"}, strings.NewReader(""), &out, &errs)
	if code != exitInterrupted || len(out.text) == 0 || !strings.Contains(errs.String(), "of keys and values") || !strings.HasSuffix(errs.String(), "twilight: interrupted\n") {
		t.Errorf("code %d, %q, %q", code, out.text, errs.String())
	}
}

func TestModels(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TWILIGHT_MODELS", dir)
	rows := decode[modelRow](t, must(t, "", "list", "--json").out)
	if len(rows) < 4 || rows[0].State != "" {
		t.Fatalf("%+v", rows)
	}
	hf := filepath.Join(dir, "hf", "owner", "repo", "file.gguf")
	if err := os.MkdirAll(filepath.Dir(hf), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hf, make([]byte, 1234567), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := must(t, "", "list"); !strings.Contains(r.out, "hf:owner/repo/file.gguf   1.2 MB") && !strings.Contains(r.out, "1.2 MB") {
		t.Errorf("%s", r.out)
	}
	if r := must(t, "", "rm", "hf:owner/repo/file.gguf"); !strings.Contains(r.err, "removed hf:owner/repo/file.gguf, 1.2 MB") {
		t.Errorf("%+v", r)
	}
	if r := command(t.Context(), "", "rm", "smollm2-135m"); r.code != exitFailed || !strings.Contains(r.err, "not fetched") {
		t.Errorf("%+v", r)
	}
	methods := decode[methodRow](t, must(t, "", "list", "--methods", "--json").out)
	stages := map[string]int{}
	for _, m := range methods {
		stages[m.Stage]++
	}
	for _, s := range []string{"preset", "selector", "estimator", "pruner"} {
		if stages[s] == 0 {
			t.Errorf("no %s in %+v", s, methods)
		}
	}
	if r := must(t, "", "list", "--methods"); !strings.Contains(r.out, "quest:keep=0.25+int4+top-p:0.9") {
		t.Errorf("%s", r.out)
	}
}

func TestInspect(t *testing.T) {
	for _, arch := range []string{"llama", "gemma3"} {
		path := filepath.Join(t.TempDir(), "m.gguf")
		c := testmodel.Config{Arch: arch, Seed: 1}.Defaults()
		if err := testmodel.Write(path, c); err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(must(t, "", "inspect", "--json", path).out), &m); err != nil {
			t.Fatal(err)
		}
		memory := m["memory"].(map[string]any)
		if m["architecture"] != arch || m["layers"] != float64(c.Layers) || memory["kv_bytes_per_token"] != float64(4*c.Layers*c.KVHeads*c.HeadDim) || memory["codes_bytes_per_token"].(float64) <= 0 {
			t.Errorf("%v", m)
		}
		if (m["sliding_layers"].(float64) > 0) != (arch == "gemma3") {
			t.Errorf("%s has %v sliding layers", arch, m["sliding_layers"])
		}
		if r := must(t, "", "inspect", path, "--fit", "1000,5000", "-a", "dense", "-a", "twilight"); strings.Count(r.out, "5000") != 2 || strings.Contains(r.out, "%!") {
			t.Errorf("%s", r.out)
		}
		if r := must(t, "", "inspect", path); !strings.Contains(r.out, "architecture "+arch) || strings.Contains(r.out, "%!") {
			t.Errorf("%s", r.out)
		}
	}
}

func TestEvalAndBench(t *testing.T) {
	model, text := tiny(t)
	rowsFile, problems := filepath.Join(t.TempDir(), "rows.jsonl"), filepath.Join(t.TempDir(), "problems.jsonl")
	if err := os.WriteFile(problems, []byte(`{"question": "A house has two doors. How many have three?", "answer": "2*3=6\n#### 6"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"eval", "ppl", "-f", text, "--length", "700", "--score", "70", "--time", "2", "--out", rowsFile},
		{"eval", "kl", "-f", text, "--length", "700", "--score", "70", "--out", rowsFile},
		{"eval", "needle", "-f", text, "--length", "700,900", "--depths", "10,90", "--out", rowsFile},
		{"eval", "passkey", "--length", "900", "--depths", "10", "--samples", "2", "--out="},
		{"eval", "ruler", "-f", text, "--length", "900", "--task", "niah_single_2,niah_multiquery", "--task", "niah_single_1", "--out", rowsFile},
		{"eval", "gsm8k", "-f", problems, "--length", "900", "--samples", "3", "--out="},
		{"bench", "decode", "-f", text, "--depth", "0,300,600", "--steps", "3"},
		{"bench", "decode", "-f", text, "--depth", "600", "--steps", "2", "--sequences", "3", "--scaling"},
		{"bench", "serve", "-f", text, "--requests", "5", "--prompt", "30,300", "--answer", "4", "--shared", "20", "--sequences", "3", "--chunk", "64"},
		{"bench", "attention", "-f", text, "--ctx", "300,700", "--steps", "2"},
	} {
		args = append(args, "-m", model, "-a", "dense", "-a", "twilight")
		rows := decode[map[string]any](t, must(t, "", append(args, "--json")...).out)
		specs := map[any]int{}
		for _, r := range rows {
			name, ok := r["label"]
			if !ok {
				name = r["spec"]
			}
			specs[name]++
		}
		if specs["dense"] == 0 || specs["twilight"] != specs["dense"] && args[0] == "eval" {
			t.Errorf("%q: %v", args[:2], rows)
		}
		r := must(t, "", args...)
		if first, _, _ := strings.Cut(r.out, "\n\n"); strings.Count(strings.TrimSpace(first), "\n") != len(rows) || strings.Contains(r.out, "%!") {
			t.Errorf("%q: %d rows, but\n%s", args[:2], len(rows), r.out)
		}
	}
	captured := filepath.Join(t.TempDir(), "x.cap")
	if r := must(t, "", "bench", "attention", "-m", model, "-f", text, "--ctx", "300,700", "--steps", "2", "--layers", "1", "--save", captured); r.out != "" || !strings.Contains(r.err, "700 tokens, queries of 2 positions before [300 700]") {
		t.Errorf("%s%s", r.out, r.err)
	}
	if c, err := bench.ReadCapture(captured); err != nil || c.Tokens() != 700 || c.Window != 2 {
		t.Errorf("%v", err)
	}
	// The second face of a text's rows computed nothing, and neither did what was printed again.
	f, err := os.Open(rowsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if rows, err := eval.ReadRows(f); err != nil || len(rows) != 2+2*2*2+2*3 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	r := must(t, "", "eval", "kl", "-m", model, "-f", text, "--length", "700", "--score", "70", "--out", rowsFile, "-a", "twilight")
	if !strings.Contains(r.err, "0 new rows in "+rowsFile+", 1 found there") || !strings.Contains(r.out, "\nLAYER") {
		t.Errorf("%s%s", r.out, r.err)
	}
	if r := command(t.Context(), "", "eval", "ruler", "-m", model, "-f", text, "--task", "vt,tv", "--out="); r.code != exitMisuse || !strings.Contains(r.err, "--task=tv: unknown; known: niah_single_1") {
		t.Errorf("%+v", r)
	}
	if r := command(t.Context(), "", "eval", "passkey", "-m", model, "--length", "4096", "--out="); r.code != exitMisuse || !strings.Contains(r.err, "was trained for 2048 tokens; --ctx=4096 asks for more all the same") {
		t.Errorf("%+v", r)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 99_949: "99.9 kB", 99_960: "100 kB", 999_499: "999 kB", 999_500: "1.0 MB", 1_117_320_768: "1.1 GB", 5e15: "5000 TB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

// The first command of the README.
func TestCapital(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a real model")
	}
	r := must(t, "", "run", "-m", testenv.Model(t, "smollm2-135m"), "What is the capital of France?")
	if !strings.Contains(r.out, "Paris") || strings.Count(r.out, "\n") != 1 {
		t.Errorf("%q", r.out)
	}
}
