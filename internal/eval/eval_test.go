package eval

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/testmodel"
)

func TestDistribution(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rows, vocab := rapid.IntRange(1, 5).Draw(rt, "rows"), rapid.IntRange(2, 300).Draw(rt, "vocab")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		width := rapid.Float64Range(0.01, 30).Draw(rt, "width")
		p, q := make([]float32, rows*vocab), make([]float32, rows*vocab)
		for i := range p {
			p[i] = float32(rng.NormFloat64() * width)
			q[i] = p[i] + float32(rng.NormFloat64())
		}
		var d, same, other distribution
		d.set(p, rows, true)
		same.set(p, rows, false)
		other.set(q, rows, false)
		got, none := make([]float64, rows), make([]float64, rows)
		d.kl(got, &other)
		d.kl(none, &same)
		for i := range rows {
			// From the definition, in float64.
			lp, lq := logSoftmax(p[i*vocab:][:vocab]), logSoftmax(q[i*vocab:][:vocab])
			var want float64
			for j := range lp {
				want += math.Exp(lp[j]) * (lp[j] - lq[j])
			}
			if none[i] != 0 || math.Abs(got[i]-want) > 1e-5*(1+want) {
				rt.Fatalf("row %d: KL %g, want %g; of itself %g", i, got[i], want, none[i])
			}
			if id := int32(rng.IntN(vocab)); math.Abs(d.nll(i, id)+lp[id]) > 1e-9 {
				rt.Fatalf("row %d: nll %g, want %g", i, d.nll(i, id), -lp[id])
			}
		}
	})
}

func logSoftmax(x []float32) []float64 {
	var sum float64
	for _, v := range x {
		sum += math.Exp(float64(v)) // logits of the test are small enough
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v) - math.Log(sum)
	}
	return out
}

// tiny opens a small model for an evaluation.
func tiny(t *testing.T, o twilight.Options) *twilight.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, testmodel.Config{Seed: 5}); err != nil {
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

func TestPerplexity(t *testing.T) {
	exact := "full+int4+top-p:1+when:min-context=16,dense-layers=1"
	rough := "quest:keep=0.2+int4+top-p:0.7+when:min-context=16,dense-layers=1"
	c := Perplexity{Text: prose, Tokens: 400, Score: 150, Specs: []string{exact, "dense", rough}, Time: 2}
	var done int64
	c.Progress = func(_ string, d, _ int64) { done = d }
	m := tiny(t, c.Options(twilight.Options{Threads: 2}))
	rows, err := c.Run(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 || rows[0].Spec != exact || rows[1].Spec != "dense" || done == 0 {
		t.Fatalf("%+v, progress %d", rows, done)
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
	if math.Abs(dense.Perplexity/want-1) > 0.01 || dense.KL != 0 || dense.Agree != 1 || dense.Pruned != 0 || dense.Mass != 1 || dense.Bytes != dense.DenseBytes {
		t.Errorf("dense %+v, want a perplexity of %g", dense, want)
	}
	if e := rows[0]; e.KL != 0 || e.KL99 != 0 || e.Perplexity != dense.Perplexity || e.Kept != e.Mean || math.Abs(e.Mass-1) > 1e-6 || e.OutErr != 0 {
		t.Errorf("top-p 1 over everything is dense, but %+v", e)
	}
	if r := rows[2]; !(r.KL > 0 && r.KL99 >= r.KL && r.Pruned > 0.3 && r.Mass > 0.1 && r.Mass < 1 && r.OutErr > 0 && r.Kept <= r.Union && r.Bytes < r.DenseBytes && r.MicrosStep > 0 && r.Speedup > 0) {
		t.Errorf("%+v", r)
	}
	if dense.Mean != 324.5 { // from 250 to 399 tokens in sight, each with itself
		t.Errorf("mean context %g, want 324.5", dense.Mean)
	}
}

func TestPerplexityErrors(t *testing.T) {
	m := tiny(t, twilight.Options{})
	for _, c := range []Perplexity{{Text: "short", Tokens: 400, Score: 10, Specs: []string{"dense"}}, {Text: prose, Tokens: 10, Score: 10, Specs: []string{"dense"}}} {
		if rows, err := c.Run(t.Context(), m); err == nil || rows != nil {
			t.Errorf("%+v: no error", c)
		} else if c.Tokens > 10 && !errors.Is(err, ErrText) {
			t.Error(err)
		}
	}
	// Interrupted, it tells what was scored so far.
	c := Perplexity{Text: prose, Tokens: 400, Score: 300, Specs: []string{"dense"}}
	ctx, cancel := context.WithCancel(t.Context())
	c.Progress = func(stage string, done, _ int64) {
		if stage == "scoring" {
			cancel()
		}
	}
	if rows, err := c.Run(ctx, m); !errors.Is(err, context.Canceled) || len(rows) != 1 || rows[0].Scored != batch {
		t.Errorf("%v, %+v", err, rows)
	}
}

func TestInsert(t *testing.T) {
	const text = "One. Two. Three. Four."
	for _, x := range []struct {
		percent float64
		want    string
	}{
		{0, needle + " " + text}, {5, "One. " + needle + " Two. Three. Four."}, {25, "One. Two. " + needle + " Three. Four."}, {99, "One. Two. Three. " + needle + " Four."},
		{100, "One. Two. Three. " + needle + " Four."},
	} {
		if got := insert(text, x.percent); got != x.want {
			t.Errorf("%g %%: %q, want %q", x.percent, got, x.want)
		}
	}
	if got := insert("no sentence", 50); got != needle+" no sentence" {
		t.Errorf("%q", got)
	}
	if digits("8,271 946") != needleNumber {
		t.Error("a number with separators is the number")
	}
}

func TestNeedle(t *testing.T) {
	var rows []NeedleRow
	c := Needle{Text: prose, Tokens: 600, Depths: []float64{10, 90}, Specs: []string{"dense", "twilight"}, Row: func(r NeedleRow) { rows = append(rows, r) }}
	m := tiny(t, c.Options(twilight.Options{}))
	if err := c.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 4 {
		t.Fatalf("%+v", rows)
	}
	for _, r := range rows {
		// A model of random weights finds nothing.
		if r.Found || r.Context < 600 || (r.Pruned > 0) != (r.Spec == "twilight") || r.Kept <= 0 || r.Kept > float64(r.Context+answerTokens) {
			t.Errorf("%+v", r)
		}
	}
	c.Tokens = 1 << 20
	if err := c.Run(t.Context(), m); !errors.Is(err, ErrText) {
		t.Error(err)
	}
}
