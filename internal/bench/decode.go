// Package bench measures speed: decode steps at depth, prompts, and what the machine can do at all.
package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// Decode measures the time of a decode step at growing depths of a real text, for several attention specs side by side, of one sequence or of several that decode
// together. Run again with more threads, it says how much faster they are.
type Decode struct {
	Model   string   // named in the rows
	Text    string   // what the cache is filled with; repeated if it is too short
	Load    string   // a saved cache whose text is used instead; ""
	Depths  []int    // cached tokens before the first measured step, ascending
	Specs   []string // of attention
	Steps   int      // measured steps a spec and depth
	Threads int      // named in the rows
	// Sequences decode together; 0 is 1. Each has a cache of its own, the longest one of the depth, the shortest that share of it, the others evenly between.
	Sequences int
	Shortest  float64
	// Progress is told of prompt tokens done, Row of each result. Either may be nil.
	Progress func(stage string, done, total int64)
	Row      func(DecodeRow)

	first map[string]float64 // seconds a step of the first Run, by depth and spec
}

// DecodeRow is one measurement. For op "prefill", Context is the depth that the prompt reached and MicrosStep the time of one of its tokens.
type DecodeRow struct {
	Op          string  `json:"op"` // "prefill" or "decode"
	Model       string  `json:"model"`
	Device      string  `json:"device"`
	Threads     int     `json:"threads"`
	Sequences   int     `json:"sequences"` // decoded together
	Context     int     `json:"ctx"`       // of the longest of them
	ContextMean float64 `json:"ctx_mean"`  // tokens in sight
	Spec        string  `json:"spec"`
	Steps       int     `json:"steps"`
	MicrosStep  float64 `json:"us_per_step"` // median over the steps
	P99         float64 `json:"p99_over_median"`
	TokensSec   float64 `json:"tokens_per_s"` // of all sequences
	AllocsStep  float64 `json:"allocs_per_step"`
	KeptMean    float64 `json:"kept_mean"` // tokens a head, over the sparse layers
	KeptShare   float64 `json:"kept_share"`
	ExactMean   float64 `json:"exact_mean"`        // tokens whose exact keys and values were read, per KV head of a sparse layer: what crosses the bus of an offloaded cache
	BytesStep   float64 `json:"kv_bytes_per_step"` // read per KV head of a sparse layer
	DenseFactor float64 `json:"speedup_vs_dense"`  // over dense in this run; 0 if dense was not measured
	FirstFactor float64 `json:"speedup_vs_first"`  // over the first run's number of threads
}

// Options are o with what the measurement needs of the model.
func (d *Decode) Options(o twilight.Options) twilight.Options {
	o.Attention, o.Also = d.Specs[0], append(slices.Clone(d.Specs[1:]), "dense")
	if h, err := kvcache.ReadSaved(d.Load); err == nil { // what is wrong with it, Run will say
		o.Context = max(o.Context, h.Tokens)
	}
	o.Sequences = max(d.Sequences, 1)
	o.Context = max(o.Context, slices.Max(d.Depths)+turn(d.Steps, o.Sequences)+warmSteps)
	o.Spare = o.Sequences * StepBlocks(d.Steps, o.Sequences)
	for _, n := range d.lengths(slices.Max(d.Depths))[1:] { // copies, of which not all are that long
		o.Spare += attention.BlocksOf(n) - attention.BlocksOf(o.Context)
	}
	return o
}

// lengths are those of the sequences at a depth, falling.
func (d *Decode) lengths(depth int) []int {
	out := []int{depth}
	for i := 1; i < d.Sequences; i++ {
		out = append(out, depth-int(float64(depth)*(1-d.Shortest))*i/(d.Sequences-1))
	}
	return out
}

// Run measures, with a model opened by Options.
func (d *Decode) Run(ctx context.Context, m *twilight.Model) error {
	if d.Steps < 1 || d.Sequences < 0 || !(d.Shortest >= 0 && d.Shortest <= 1) || !slices.IsSorted(d.Depths) || d.Depths[0] < 0 {
		return fmt.Errorf("bench: depths %v with %d steps of %d sequences, the shortest %g of the longest: expected ascending depths, at least 1 step, a share up to 1", d.Depths, d.Steps, d.Sequences, d.Shortest)
	}
	saved, err := m.NewSession("dense")
	if err != nil {
		return err
	}
	defer saved.Close()
	tokens, err := d.tokens(m, saved)
	if err != nil {
		return err
	}
	s, err := m.NewSession("dense")
	if err != nil {
		return err
	}
	defer func() { s.Close() }() // the last
	for _, depth := range d.Depths {
		if saved.Len() > 0 {
			f, err := saved.Fork("dense")
			if err != nil {
				return err
			}
			s.Close()
			s = f
			s.Truncate(depth)
		}
		if depth > s.Len() {
			if err := d.prefill(ctx, m, s, tokens[:depth]); err != nil {
				return err
			}
		}
		if err := d.at(ctx, m, s, tokens, depth); err != nil {
			return err
		}
	}
	return nil
}

// at measures behind the depth tokens that s has cached.
func (d *Decode) at(ctx context.Context, m *twilight.Model, s *twilight.Session, tokens []int32, depth int) error {
	bases, next := []*twilight.Session{s}, [][]int32{tokens[depth : depth+d.Steps]}
	for _, n := range d.lengths(depth)[1:] {
		c, err := s.Copy(n, "dense")
		if err != nil {
			return err
		}
		defer c.Close()
		bases, next = append(bases, c), append(next, tokens[n:n+d.Steps])
	}
	times, err := StepsTogether(ctx, bases, d.Specs, next)
	if err != nil {
		return err
	}
	if d.first == nil {
		d.first = map[string]float64{}
	}
	for i, t := range times {
		r := DecodeRow{Op: "decode", Sequences: len(bases), Context: depth, ContextMean: t.Context, Spec: d.Specs[i], Steps: len(t.Times), MicrosStep: micros(t.Median()), P99: t.P99() / t.Median(),
			TokensSec: float64(len(bases)) / t.Median(), AllocsStep: t.Allocs, KeptMean: t.Kept, KeptShare: t.Kept / max(t.Context, 1), ExactMean: t.Exact, BytesStep: t.Bytes}
		if j := slices.Index(d.Specs, "dense"); j >= 0 {
			r.DenseFactor = times[j].Median() / t.Median()
		}
		key := fmt.Sprint(depth, d.Specs[i])
		if d.first[key] == 0 {
			d.first[key] = t.Median()
		}
		r.FirstFactor = d.first[key] / t.Median()
		d.row(m, r)
	}
	return nil
}

func micros(seconds float64) float64 { return seconds * 1e6 }

func (d *Decode) row(m *twilight.Model, r DecodeRow) {
	r.Model, r.Device, r.Threads = d.Model, m.Device(), d.Threads
	if d.Row != nil {
		d.Row(r)
	}
}

// tokens is a text long enough for every depth.
func (d *Decode) tokens(m *twilight.Model, s *twilight.Session) ([]int32, error) {
	var text []int32
	if d.Load != "" {
		if err := s.Load(d.Load); err != nil {
			return nil, err
		}
		text = slices.Clone(s.Tokens())
	} else {
		text = m.Encode(d.Text)
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("bench: the text is empty")
	}
	out := slices.Clone(text)
	for len(out) < slices.Max(d.Depths)+d.Steps {
		out = append(out, text...)
	}
	return out, nil
}

func (d *Decode) prefill(ctx context.Context, m *twilight.Model, s *twilight.Session, tokens []int32) error {
	start := time.Now()
	_, cached, err := s.Prefill(ctx, tokens, func(done, total int) {
		if d.Progress != nil {
			d.Progress("reading the prompt", int64(done), int64(total))
		}
	})
	if n := len(tokens) - cached; err == nil && n >= 256 { // a shorter rest says nothing about prompts
		t := time.Since(start).Seconds() / float64(n)
		d.row(m, DecodeRow{Op: "prefill", Sequences: 1, Context: len(tokens), ContextMean: float64(cached+1+len(tokens)) / 2, Spec: "dense", Steps: n, MicrosStep: micros(t), P99: 1, TokensSec: 1 / t, KeptMean: float64(cached+1+len(tokens)) / 2, KeptShare: 1})
	}
	return err
}
