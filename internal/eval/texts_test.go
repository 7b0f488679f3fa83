package eval

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/testmodel"
)

const (
	exactSpec = "full+int4+top-p:1+when:min-context=16,dense-layers=1"
	roughSpec = "quest:keep=0.2+int4+top-p:0.7+when:min-context=16,dense-layers=1"
)

func texts(l *Log) *Texts {
	return &Texts{Documents: []Document{{"prose", prose}}, Lengths: []int{400}, Score: 150, Specs: []string{exactSpec, "dense", roughSpec}, Log: l}
}

func (t *Texts) open(tt *testing.T) *twilight.Model {
	tt.Helper()
	o, err := t.Options(twilight.Options{Threads: 2})
	if err != nil {
		tt.Fatal(err)
	}
	return tiny(tt, o, testmodel.Config{Seed: 5})
}

func TestTexts(t *testing.T) {
	c := texts(openLog(t, ""))
	c.Time = 2
	var done, total int64
	c.Progress = func(d, n int64) { done, total = d, n }
	m := c.open(t)
	rows, err := c.Run(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 || rows[0].Label != exactSpec || rows[1].Spec != "dense" || done == 0 || done > total {
		t.Fatalf("%+v, progress %d of %d", rows, done, total)
	}
	// Without the batches, from the definition: one decode step a token.
	s, err := m.NewSession("dense")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	text := m.Encode(prose)[:400]
	var nll float64
	for i, id := range text[:399] {
		logits, err := s.Step(id)
		if err != nil {
			t.Fatal(err)
		}
		if i+1 >= 250 {
			nll -= logSoftmax(logits)[text[i+1]]
		}
	}
	want := math.Exp(nll / 150)
	dense := rows[1]
	if math.Abs(dense.Perplexity/want-1) > 0.01 || dense.KL != 0 || dense.Agree != 1 || dense.Pruned != 0 || dense.Mass != 1 || dense.Bytes != dense.DenseBytes || dense.KeptHeads != nil {
		t.Errorf("dense %+v %+v, want a perplexity of %g", dense.Text, dense.Attention, want)
	}
	if e := rows[0]; e.KL != 0 || e.KL99 != 0 || e.Perplexity != dense.Perplexity || e.Kept != e.ContextMean || math.Abs(e.Mass-1) > 1e-6 || e.OutErr != 0 {
		t.Errorf("top-p 1 over everything is dense, but %+v", e)
	}
	r := rows[2]
	if !(r.KL > 0 && r.KL99 >= r.KL && r.Pruned > 0.3 && r.Mass > 0.1 && r.Mass < 1 && r.OutErr > 0 && r.Kept <= r.Union && r.Bytes < r.DenseBytes && r.MicrosStep > 0 && r.Speedup > 0) {
		t.Errorf("%+v %+v", r.Text, r.Attention)
	}
	if dense.ContextMean != 324.5 { // from 250 to 399 tokens in sight, each with itself
		t.Errorf("mean context %g, want 324.5", dense.ContextMean)
	}
	// The lists are about the same as the means.
	points := (150 + window - 1) / window
	if len(r.KeptSteps) != points || len(r.MassSteps) != points || len(r.KLSteps) != points || len(r.NLLSteps) != points || r.StepTokens != window {
		t.Errorf("time lines of %d, %d, %d and %d points, want %d", len(r.KeptSteps), len(r.MassSteps), len(r.KLSteps), len(r.NLLSteps), points)
	}
	for name, x := range map[string][2]float64{
		"kept by step": {weighted(r.KeptSteps), r.Kept}, "mass by step": {weighted(r.MassSteps), r.Mass}, "kl by step": {weighted(r.KLSteps), r.KL}, "nll by step": {weighted(r.NLLSteps), math.Log(r.Perplexity)},
		"kept by head": {overHeads(r.KeptHeads), r.Kept}, "mass by head": {overHeads(r.MassHeads), r.Mass},
	} {
		if math.Abs(x[0]/x[1]-1) > 1e-3 {
			t.Errorf("%s has a mean of %g, want %g", name, x[0], x[1])
		}
	}
	if len(r.KeptHeads) != 4 || len(r.KeptHeads[0]) != 0 || len(r.KeptHeads[1]) != 6 {
		t.Errorf("kept by head %v", r.KeptHeads)
	}
}

// weighted is the mean over 150 positions of windows.
func weighted(points []float64) (sum float64) {
	for i, x := range points {
		sum += x * float64(min(window, 150-i*window))
	}
	return sum / 150
}

func overHeads(layers [][]float64) (sum float64) {
	n := 0
	for _, l := range layers {
		for _, x := range l {
			sum += x
			n++
		}
	}
	return sum / float64(n)
}

// Longer texts go on with the cache of shorter ones, saved ones are gone on with, and specs come in passes: nothing of it changes a result.
func TestTextsShare(t *testing.T) {
	var alone []Row
	c := texts(openLog(t, ""))
	c.Specs = []string{roughSpec, "dense", exactSpec, "snapkv:keep=0.1+when:min-context=16", "h2o:keep=0.1+when:min-context=16"} // two passes
	c.Lengths, c.Score = []int{400, 700}, 70
	m := c.open(t)
	for _, n := range []int{400, 700} {
		for _, spec := range c.Specs {
			one := *c
			one.Lengths, one.Specs, one.Log = []int{n}, []string{spec}, openLog(t, "")
			rows, err := one.Run(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			alone = append(alone, rows...)
		}
	}
	rows, err := c.Run(t.Context(), m)
	if diff := cmp.Diff(alone, rows); diff != "" || err != nil {
		t.Errorf("together %v, %s", err, diff)
	}

	cache := filepath.Join(t.TempDir(), "cache")
	s, err := m.NewSession("dense")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Prefill(t.Context(), m.Encode(prose)[:700], nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(cache); err != nil {
		t.Fatal(err)
	}
	c.Load = cache
	for _, docs := range [][]Document{nil, c.Documents} {
		l := *c
		l.Documents, l.Log = docs, openLog(t, "")
		rows, err := l.Run(t.Context(), m)
		if diff := cmp.Diff(alone, rows, cmpopts.IgnoreFields(Row{}, "Sample")); diff != "" || err != nil {
			t.Errorf("loaded, with %d texts: %v, %s", len(docs), err, diff)
		}
	}
	c.Documents = []Document{{"another", "x" + prose}}
	if _, err := c.Run(t.Context(), m); !errors.Is(err, ErrText) || !strings.Contains(err.Error(), "does not hold the beginning of another") {
		t.Error(err)
	}
}

func TestTextsResume(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	c := texts(openLog(t, path))
	c.Lengths, c.Score = []int{300, 400}, 40
	c.Specs = []string{"dense", "quest:keep=0.1", "quest:keep=0.2", "quest:keep=0.3", "quest:keep=0.4", "quest:keep=0.5"}
	m := c.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	c.Row = func(*Row, bool) {
		if n++; n == 10 { // the first pass of the second length
			cancel()
		}
	}
	rows, err := c.Run(ctx, m)
	cancel()
	if !errors.Is(err, context.Canceled) || len(rows) != 10 {
		t.Fatalf("%v, %d rows", err, len(rows))
	}
	found := 0
	c.Log = openLog(t, path)
	c.Row = func(_ *Row, was bool) {
		if was {
			found++
		}
	}
	rows, err = c.Run(t.Context(), m)
	if err != nil || len(rows) != 12 || found != 10 {
		t.Fatalf("%v, %d rows, %d found", err, len(rows), found)
	}
	c.Log, c.Row = openLog(t, ""), nil
	if fresh, err := c.Run(t.Context(), m); err != nil || cmp.Diff(fresh, rows) != "" {
		t.Errorf("%v, %s", err, cmp.Diff(fresh, rows))
	}
}

func TestTextsErrors(t *testing.T) {
	c := texts(openLog(t, ""))
	m := c.open(t)
	for want, change := range map[string]func(*Texts){
		"expected at least 1, and some before": func(c *Texts) { c.Score = 400 },
		"it has 3 tokens, expected 400":        func(c *Texts) { c.Documents = []Document{{"short", "short"}} },
		"2 texts and a saved cache":            func(c *Texts) { c.Documents, c.Load = make([]Document, 2), "x" },
		"unknown selector":                     func(c *Texts) { c.Specs = []string{"nonsense"} },
	} {
		bad := *c
		change(&bad)
		if rows, err := bad.Run(t.Context(), m); err == nil || len(rows) > 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%v with %d rows, want %q", err, len(rows), want)
		}
	}
	c.Load = filepath.Join(t.TempDir(), "none")
	if _, err := c.Options(twilight.Options{}); err == nil {
		t.Error("no cache, no error")
	}
}
