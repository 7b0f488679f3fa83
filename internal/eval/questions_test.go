package eval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/eval/grid"
	"github.com/twilight-go/twilight/internal/eval/task"
	"github.com/twilight-go/twilight/internal/testenv"
	"github.com/twilight-go/twilight/internal/testmodel"
	"github.com/twilight-go/twilight/tokenizer"
)

// tiny opens a small model for an evaluation.
func tiny(t *testing.T, o twilight.Options, c testmodel.Config) *twilight.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, c); err != nil {
		t.Fatal(err)
	}
	m, err := twilight.Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

var prose = strings.Repeat("It was a fine day. The house by the sea was old, and nobody knew its name. ", 60)

func openLog(t *testing.T, path string) *Log {
	t.Helper()
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

// early keeps the answers of a task short, and ends them as soon as one of the letters comes.
type early struct{ task.Task }

func (e early) Name() string { return "early" }

func (e early) Samples(n int, seed uint64, size task.Size) ([]task.Sample, error) {
	s, err := e.Task.Samples(n, seed, size)
	for i := range s {
		s[i].MaxTokens, s[i].Stop = 7, strings.Split("etaoin", "")
	}
	return s, err
}

func questions(l *Log) *Questions {
	return &Questions{Circumstances: Circumstances{Model: "tiny", Version: "v", Threads: 2}, Tasks: []task.Task{must(grid.Passkey([]float64{10, 90})), early{must(grid.Needle(prose, []float64{50}))}},
		Lengths: []int{500, 700}, Samples: 1, Seed: 3, Specs: []string{"dense", "twilight", "full+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:dense-layers=0", "quest:keep=0.1+when:min-context=16"}, Log: l}
}

// wall are the fields that no run repeats.
var wall = cmpopts.IgnoreFields(Answer{}, "Seconds", "Prefill")

func TestQuestions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	q := questions(openLog(t, path))
	var told []string
	var last, total int64
	q.Row = func(r *Row, found bool) { told = append(told, fmt.Sprint(r.Task, r.Sample, r.Size, r.Label, found)) }
	q.Progress = func(d, n int64) {
		if d < last {
			t.Errorf("progress went from %d to %d", last, d)
		}
		last, total = d, n
	}
	m := tiny(t, q.Options(twilight.Options{Threads: 2}), testmodel.Config{Seed: 5})
	rows, err := q.Run(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2*(2+1)*3 || len(told) != len(rows) || last != total {
		t.Fatalf("%d rows, %d told, progress %d of %d", len(rows), len(told), last, total)
	}
	for i := range rows {
		r := &rows[i]
		if r.Kind != KindSample || r.Model != "tiny" || r.Version != "v" || len(r.Fingerprint) != 16 || r.Threads != 2 || r.Seed != 3 || r.Context > r.Size || r.Context < r.Size/2 || len(r.Depths) != 1 {
			t.Errorf("%+v", r)
		}
		first := 6 // query heads of the first layer that are sparse: all of twilight's, none where it is not said
		if !strings.Contains(r.Spec, "dense-layers=0") {
			first = 0
		}
		if sparse := r.Label != "dense" && (r.Size == 700 || r.Label != "twilight"); sparse != (len(r.KeptHeads) == 4 && len(r.KeptHeads[0]) == first && len(r.KeptHeads[3]) == 6 && len(r.KeptSteps) >= r.Generated) {
			t.Errorf("%s at %d: kept by head %v, by step %v", r.Label, r.Size, r.KeptHeads, r.KeptSteps)
		}
		if r.Task == "early" && (r.Generated > 7 || strings.ContainsAny(r.Reply, "etaoin")) {
			t.Errorf("%q of %d tokens", r.Reply, r.Generated)
		}
		if r.Measured || r.MassHeads != nil || r.Mass != 0 {
			t.Errorf("measured unasked: %+v", r.Attention)
		}
	}
	// What stands in the file is not asked again.
	before := must(os.ReadFile(path))
	told = nil
	q.Log = openLog(t, path)
	again, err := q.Run(t.Context(), m)
	if err != nil || cmp.Diff(rows, again) != "" || !strings.HasSuffix(told[0], "true") || !bytes.Equal(before, must(os.ReadFile(path))) {
		t.Errorf("%v, %s: %s", err, told[0], cmp.Diff(rows, again))
	}
	// Tasks, lengths and specs in another order, on one thread, alone: each result is the same.
	o := questions(openLog(t, ""))
	o.Threads = 1
	slices.Reverse(o.Tasks)
	slices.Reverse(o.Lengths)
	slices.Reverse(o.Specs)
	turned, err := o.Run(t.Context(), tiny(t, o.Options(twilight.Options{Threads: 1}), testmodel.Config{Seed: 5}))
	if err != nil || len(turned) != len(rows) {
		t.Fatal(err, len(turned))
	}
	l := openLog(t, path)
	for i := range turned {
		found := l.Find(&turned[i])
		if found == nil {
			t.Fatalf("no row like %+v", turned[i])
		}
		if diff := cmp.Diff(*found, turned[i], wall, cmpopts.IgnoreFields(Row{}, "Label", "Threads", "Device")); diff != "" {
			t.Error(diff)
		}
	}
	// Another seed asks something else.
	o.Seed = 4
	if other, err := o.Run(t.Context(), m); err != nil || other[0].Prompt == turned[0].Prompt {
		t.Error("another seed, the same prompt", err)
	}
}

// However a run is shared out among models, shards, batches and a device that reads the prompts, each result is the same.
func TestShared(t *testing.T) {
	c := testmodel.Config{Seed: 5}
	q := questions(openLog(t, ""))
	q.Specs, q.Samples = append(q.Specs, "snapkv:keep=0.2+when:min-context=16", "h2o:keep=0.2+when:min-context=16"), 3
	q.Lengths = []int{400, 500}
	want := must(q.Run(t.Context(), tiny(t, q.Options(twilight.Options{Threads: 1}), c)))
	if len(want) != 2*9*5 {
		t.Fatalf("%d rows", len(want))
	}
	same := func(what string, got []Row) {
		t.Helper()
		if diff := cmp.Diff(want, got, wall, cmpopts.IgnoreFields(Row{}, "PromptDevice")); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	q.Together, q.Log = 2, openLog(t, "")
	o := q.Options(twilight.Options{Threads: 1})
	a, b := tiny(t, o, c), tiny(t, o, c)
	same("two models, two prompts each", must(q.Run(t.Context(), a, b)))
	q.Prompts, q.Log = tiny(t, q.PromptOptions(twilight.Options{Threads: 1}), c), openLog(t, "")
	moved := must(q.Run(t.Context(), a, b))
	same("prompts read by another", moved)
	if moved[0].PromptDevice != q.Prompts.Device() {
		t.Errorf("prompts read by %q", moved[0].PromptDevice)
	}
	q.Prompts, q.Log, q.Shards = nil, openLog(t, ""), 2
	var rows int
	for q.Shard = range q.Shards {
		rows += len(must(q.Run(t.Context(), a)))
	}
	if q.Shards, q.Shard = 0, 0; rows != len(want) {
		t.Errorf("%d rows of two shards, %d of all", rows, len(want))
	}
	same("two shards", must(q.Run(t.Context(), a))) // found
	q.Shards, q.Shard = 2, 2
	if _, err := q.Run(t.Context(), a); err == nil || !strings.Contains(err.Error(), "shard 2 of 2") {
		t.Error(err)
	}
}

// three is a task of three characters, whichever.
type three struct{ task.Task }

func (three) Score(_ *task.Sample, answer string) float64 { return min(1, float64(len(answer)/3)) }

// longer is three, of which it is known that more characters do no harm.
type longer struct{ three }

func (longer) Monotone() {}

// An answer that cannot get better ends, and is the beginning of what it would have been.
func TestScored(t *testing.T) {
	q := questions(openLog(t, ""))
	q.Lengths, q.Specs = []int{400}, []string{"dense"}
	m := tiny(t, q.Options(twilight.Options{}), testmodel.Config{Seed: 5})
	passkey := three{must(grid.Passkey([]float64{50}))}
	q.Tasks = []task.Task{passkey}
	whole := must(q.Run(t.Context(), m))[0]
	q.Tasks, q.Log = []task.Task{longer{passkey}}, openLog(t, "")
	part := must(q.Run(t.Context(), m))[0]
	if part.Reason != "scored" || part.Score != 1 || part.Generated >= whole.Generated || whole.Score != 1 || whole.Reason == "scored" || !strings.HasPrefix(whole.Reply, part.Reply) {
		t.Errorf("%+v, without an early end %+v", part.Answer, whole.Answer)
	}
}

// A spec that audits itself says in its rows what it found.
func TestAudit(t *testing.T) {
	q := questions(openLog(t, ""))
	q.Tasks, q.Lengths, q.Specs, q.Measure = []task.Task{must(grid.Passkey([]float64{50}))}, []int{400}, []string{"quest:keep=0.1+when:min-context=16,audit=1", "quest:keep=0.1+when:min-context=16"}, true
	rows := must(q.Run(t.Context(), tiny(t, q.Options(twilight.Options{}), testmodel.Config{Seed: 5})))
	if r := &rows[0]; r.Audits == 0 || !(r.AuditMass > 0 && r.AuditMass <= 1) || !(r.AuditHalf >= 0 && r.AuditHalf < 1) {
		t.Errorf("%d audits, %g ± %g, measured %g", r.Audits, r.AuditMass, r.AuditHalf, r.Mass)
	}
	if r := &rows[1]; r.Audits != 0 || r.AuditMass != 0 || r.AuditHalf != 0 {
		t.Errorf("not audited, but %d audits, %g ± %g", r.Audits, r.AuditMass, r.AuditHalf)
	}
}

// Stopped at any row and torn, a run that is started again ends with the same file, but for times.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "whole.jsonl")
	q := questions(openLog(t, path))
	q.Lengths, q.Specs, q.Measure = []int{400}, []string{"dense", "quest:keep=0.1+when:min-context=16"}, true
	m := tiny(t, q.Options(twilight.Options{}), testmodel.Config{Seed: 5})
	if _, err := q.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	want := must(ReadRows(bytes.NewReader(must(os.ReadFile(path)))))
	if len(want) != 6 || !want[1].Measured || len(want[1].MassSteps) == 0 || want[1].Mass <= 0 || want[1].Mass >= 1 || want[0].Mass != 1 {
		t.Fatalf("%+v", want)
	}
	for stop := range want {
		part := filepath.Join(dir, fmt.Sprint(stop))
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		q.Log = openLog(t, part)
		q.Row = func(*Row, bool) {
			if n++; n > stop {
				cancel()
			}
		}
		rows, err := q.Run(ctx, m)
		cancel()
		if stop < len(want)-1 && !errors.Is(err, context.Canceled) || len(rows) != n || n > stop+2 { // two answers may end in one step
			t.Fatalf("stopped after %d: %d rows, %d told, %v", stop+1, len(rows), n, err)
		}
		data := must(os.ReadFile(part))
		if err := os.WriteFile(part, data[:len(data)-stop*9], 0o600); err != nil { // torn in the last row; whole for 0
			t.Fatal(err)
		}
		q.Log, q.Row = openLog(t, part), nil
		if _, err := q.Run(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		got := must(ReadRows(bytes.NewReader(must(os.ReadFile(part)))))
		if diff := cmp.Diff(want, got, wall); diff != "" {
			t.Errorf("stopped after %d: %s", stop+1, diff)
		}
	}
}

func TestQuestionErrors(t *testing.T) {
	q := questions(openLog(t, ""))
	m := tiny(t, q.Options(twilight.Options{}), testmodel.Config{Seed: 5})
	q.Lengths = []int{700, 5000}
	if _, err := q.Run(t.Context(), m); err == nil || !strings.Contains(err.Error(), "samples of 5000 tokens: the model was opened for 700") {
		t.Error(err)
	}
	q.Lengths = []int{60}
	if _, err := q.Run(t.Context(), m); !errors.Is(err, task.ErrSize) || !strings.Contains(err.Error(), "a pass key in 30 tokens") || !strings.Contains(err.Error(), "samples of 60 tokens") {
		t.Error(err)
	}
	q.Lengths, q.Specs = []int{700}, []string{"dense", "full"}
	if _, err := q.Run(t.Context(), m); err == nil || !strings.Contains(err.Error(), `without attention "full"`) {
		t.Error(err)
	}
}

// Whatever the template writes and the tokenizer adds, a prompt begins with one BOS where the model uses one, and ends with the beginning of the answer.
func TestPromptTokens(t *testing.T) {
	for _, arch := range []string{"llama", "gemma3"} {
		m := tiny(t, twilight.Options{Context: 300}, testmodel.Config{Arch: arch, Seed: 5})
		tok := m.Tokenizer()
		for _, s := range []task.Sample{{Prompt: "the sea", Begin: " Once"}, {Prompt: "the sea"}, {Prompt: "the sea", Begin: " Once", Raw: true}, {Prompt: "the sea", Raw: true}} {
			for _, raw := range []bool{false, true} {
				ids, err := promptTokens(m, &s, raw)
				if err != nil {
					t.Fatal(err)
				}
				bos := 0
				for bos < len(ids) && ids[bos] == tok.BOS() {
					bos++
				}
				if want := map[bool]int{true: 1}[tok.AddBOS()]; bos != want {
					t.Errorf("%s, %+v: %d BOS, want %d", arch, s, bos, want)
				}
				text := tok.Decode(ids, tokenizer.DecodeOptions{Special: true})
				if !strings.HasSuffix(text, strings.TrimSpace(s.Begin)) || strings.Contains(text, "user") == (raw || s.Raw) {
					t.Errorf("%s, %+v: %q", arch, s, text)
				}
			}
		}
	}
}

// A real model finds a pass key in a short text, by every preset.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a real model")
	}
	q := questions(openLog(t, ""))
	q.Tasks, q.Lengths, q.Specs = []task.Task{must(grid.Passkey([]float64{90}))}, []int{1024}, []string{"dense", "twilight"}
	m, err := twilight.Open(t.Context(), testenv.Model(t, "smollm2-135m"), q.Options(twilight.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	rows, err := q.Run(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Score != 1 || (r.Pruned > 0.5) != (r.Spec != "dense") {
			t.Errorf("%s: %q, expected %q; pruned %g", r.Label, r.Reply, r.Expected, r.Pruned)
		}
	}
}
