// Package eval measures what sparse attention costs in quality: perplexity and divergence on text, retrieval of a needle. It compares specs side by side on one
// dense prefill, so that what differs is decoding alone.
package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/bench"
)

// ErrText is in the error of a text that is too short.
var ErrText = errors.New("the text is too short")

// Perplexity scores the last tokens of a text, teacher-forced, each as a decode step of the spec; everything before them is prefilled densely, once.
type Perplexity struct {
	Model  string // named in the rows
	Text   string
	Load   string   // a saved cache of the text's beginning, to prefill less; ""
	Tokens int      // of the text, counted from its start
	Score  int      // how many of them, at the end, are scored
	Specs  []string // of attention
	Time   int      // decode steps that are timed one by one at the start of the scored part; 0: none
	// Progress is told of tokens done. May be nil.
	Progress func(stage string, done, total int64)
}

// PerplexityRow is the result of one spec. Means are over the scored positions, and those of attention over the sparse layers and their heads.
type PerplexityRow struct {
	Eval       string  `json:"eval"` // "ppl"
	Model      string  `json:"model"`
	Device     string  `json:"device"`
	Spec       string  `json:"spec"`
	Context    int     `json:"ctx"`
	Scored     int     `json:"scored"`
	Perplexity float64 `json:"ppl"`
	KL         float64 `json:"kl"`     // KL(dense ‖ spec) of the next-token distribution, nats
	KL99       float64 `json:"kl_p99"` // one position in a hundred diverges more
	Agree      float64 `json:"top1_agreement"`
	Mean       float64 `json:"context_mean"` // tokens in sight
	Kept       float64 `json:"kept_mean"`    // survivors of a head: the paper's B1
	Pruned     float64 `json:"pruned"`       // 1 − kept/context
	Union      float64 `json:"union_mean"`   // tokens read by a KV head: the union of its group's survivors
	Mass       float64 `json:"mass"`         // true attention mass of what was attended
	OutErr     float64 `json:"out_err"`      // ‖o − o_dense‖/‖o_dense‖ of a head's output
	Bytes      float64 `json:"bytes_per_step"`
	DenseBytes float64 `json:"dense_bytes_per_step"` // a KV head and step
	MicrosStep float64 `json:"us_per_step"`          // median time of a decode step, without measuring; 0 if not timed
	Speedup    float64 `json:"speedup_vs_dense"`
}

// batch is how many positions are scored before the next spec has its turn: what is kept of the dense distribution is a batch, not the whole text.
const batch = 64

// Options are o with what the evaluation needs of the model.
func (c *Perplexity) Options(o twilight.Options) twilight.Options {
	o.Attention, o.Also = "dense", c.Specs
	o.Context, o.ScoreRows = max(o.Context, c.Tokens), batch
	o.Spare = (len(c.Specs) + 1) * ((c.Score+attention.BlockTokens-1)/attention.BlockTokens + 2)
	return o
}

// Run evaluates, with a model opened by Options. A cancelled ctx is an error, with the rows of the positions scored so far.
func (c *Perplexity) Run(ctx context.Context, m *twilight.Model) ([]PerplexityRow, error) {
	if c.Score < 1 || c.Score >= c.Tokens {
		return nil, fmt.Errorf("eval: scoring %d of %d tokens: expected at least 1, and some before them", c.Score, c.Tokens)
	}
	text := m.Encode(c.Text)
	if len(text) < c.Tokens {
		return nil, fmt.Errorf("eval: %w: it has %d tokens, expected %d", ErrText, len(text), c.Tokens)
	}
	text = text[:c.Tokens]
	base, err := m.NewSession("dense")
	if err != nil {
		return nil, err
	}
	defer base.Close()
	if c.Load != "" {
		if err := base.Load(c.Load); err != nil {
			return nil, err
		}
	}
	from := c.Tokens - c.Score - 1 // the step of token i gives the distribution of token i+1
	if from > 0 {
		if _, _, err := base.Prefill(ctx, text[:from], func(done, total int) { c.progress("reading the text", done, total) }); err != nil {
			return nil, err
		}
	}
	runs, err := c.fork(base)
	defer func() {
		for _, r := range runs {
			r.s.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	err = c.score(ctx, runs, text, from)
	if err == nil && c.Time > 0 {
		err = c.time(ctx, base, runs, text[from:])
	}
	var rows []PerplexityRow
	for _, spec := range c.Specs {
		if r := runs[slices.IndexFunc(runs, func(r *run) bool { return r.spec == spec })]; r.n > 0 {
			rows = append(rows, r.row(c, m, from))
		}
	}
	return rows, err
}

func (c *Perplexity) progress(stage string, done, total int) {
	if c.Progress != nil {
		c.Progress(stage, int64(done), int64(total))
	}
}

// run is one spec at work. The first run of all is dense: the others are compared with it.
type run struct {
	spec    string
	s       *twilight.Session
	dist    distribution
	n       int
	nll     float64
	kl      []float64
	agree   int
	seconds float64
	speedup float64
}

// fork starts the runs. They are to be closed, after an error too.
func (c *Perplexity) fork(base *twilight.Session) (runs []*run, err error) {
	for _, spec := range append([]string{"dense"}, slices.DeleteFunc(slices.Clone(c.Specs), func(s string) bool { return s == "dense" })...) {
		s, err := base.Fork(spec)
		if err != nil {
			return runs, err
		}
		s.Stats.Measure = true
		runs = append(runs, &run{spec: spec, s: s})
	}
	return runs, nil
}

func (c *Perplexity) score(ctx context.Context, runs []*run, text []int32, from int) error {
	kl := make([]float64, batch)
	for at := from; at < len(text)-1; {
		n := min(batch, len(text)-1-at)
		next := text[at+1 : at+1+n]
		dense := &runs[0].dist
		for i, r := range runs {
			if err := ctx.Err(); err != nil {
				return err
			}
			logits, err := r.s.Score(text[at : at+n])
			if err != nil {
				return err
			}
			r.dist.set(logits, n, i == 0)
			dense.kl(kl[:n], &r.dist)
			for j, id := range next {
				r.nll += r.dist.nll(j, id)
				if argmax(r.dist.row(j)) == argmax(dense.row(j)) {
					r.agree++
				}
			}
			r.kl = append(r.kl, kl[:n]...)
			r.n += n
			c.progress("scoring", (at-from)*len(runs)+n*(i+1), c.Score*len(runs))
		}
		at += n
	}
	return nil
}

// time measures decode steps by themselves: scoring has many rows a step, and the measuring of masses costs a dense pass.
func (c *Perplexity) time(ctx context.Context, base *twilight.Session, runs []*run, text []int32) error {
	specs := make([]string, len(runs))
	for i, r := range runs {
		specs[i] = r.spec
	}
	times, err := bench.Steps(ctx, base, specs, text[:min(c.Time, len(text))])
	if err != nil {
		return err
	}
	for i, r := range runs {
		r.seconds, r.speedup = times[i].Median(), times[0].Median()/times[i].Median()
	}
	return nil
}

func (r *run) row(c *Perplexity, m *twilight.Model, from int) PerplexityRow {
	a, n := bench.Summary(r.s, from), float64(r.n)
	var kl float64
	for _, x := range r.kl {
		kl += x
	}
	slices.Sort(r.kl)
	return PerplexityRow{
		Eval: "ppl", Model: c.Model, Device: m.Device(), Spec: r.spec, Context: c.Tokens, Scored: r.n,
		Perplexity: math.Exp(r.nll / n), KL: kl / n, KL99: r.kl[min(r.n-1, r.n*99/100)], Agree: float64(r.agree) / n,
		Mean: a.Context, Kept: a.Kept, Pruned: a.Pruned, Union: a.Union, Mass: a.Mass, OutErr: a.OutErr, Bytes: a.BytesStep, DenseBytes: a.DenseStep,
		MicrosStep: r.seconds * 1e6, Speedup: r.speedup,
	}
}
