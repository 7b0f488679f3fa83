package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twilight-go/twilight/attention"
)

// The views of Attention: the model's own groups of query heads, or every query head with a KV head of its own.
const (
	ViewGQA = "gqa"
	ViewMHA = "mha"
)

// Attention measures the attention operator by itself, on the queries that a model asks while it reads a real text and on the keys that it has cached of it. Every
// step is a decode step of the text's own next token; the specs take turns within it, each after memory far larger than the caches was read, so that keys come
// from memory as they do between the products of a model.
type Attention struct {
	Model    string
	Text     string // what the cache is filled with; or
	Load     string // a saved cache
	Contexts []int  // tokens in sight of the last step, ascending; none: the whole text
	Specs    []string
	Views    []string // ViewGQA, ViewMHA
	Steps    int      // measured at each context
	Threads  int
	// Progress is told of tokens done, Row of each result. Either may be nil.
	Progress func(stage string, done, total int64)
	Row      func(AttentionRow)
}

// AttentionRow is one spec at one context. On a CPU times and bytes are means over the layers that every measured spec prunes, medians over steps; on a GPU they are of one step of the whole
// batch, and medians over replays.
type AttentionRow struct {
	Model      string             `json:"model"`
	Device     string             `json:"device"`
	Threads    int                `json:"threads"` // of the CPU; 0 on a GPU
	View       string             `json:"view"`
	Batch      int                `json:"batch"` // sequences
	Heads      int                `json:"heads"`
	KVHeads    int                `json:"kv_heads"` // on a CPU the model's, on a GPU the view's
	Dim        int                `json:"dim"`
	Layers     int                `json:"layers"` // measured
	Context    int                `json:"ctx"`
	Spec       string             `json:"spec"`
	Steps      int                `json:"steps"`
	Micros     float64            `json:"us_per_step"`     // of a layer
	BytesToken float64            `json:"bytes_per_token"` // read a token in sight and KV head of the view
	GBps       float64            `json:"gbps"`
	KeptMean   float64            `json:"kept_mean"` // tokens a query head keeps
	KeptShare  float64            `json:"kept_share"`
	UnionMean  float64            `json:"union_mean"`       // tokens that a KV head reads exactly
	Mass       float64            `json:"mass"`             // true attention mass of what is attended to
	OutErr     float64            `json:"out_err"`          // ‖o − o_dense‖/‖o_dense‖, the mean over heads
	Speedup    float64            `json:"speedup_vs_dense"` // on a CPU the median of the steps' ratios
	Stages     map[string]float64 `json:"stages_us"`        // of a layer, taken in a pass of its own
	*OnCPU
	*OnGPU
}

// OnCPU is what a row says of the machine: medians of what was measured between the specs with as many threads.
type OnCPU struct {
	ReadGBps float64 `json:"read_gbps"`  // what it reads from memory
	FMA      float64 `json:"fma_gflops"` // its float32 peak
	VNNI     float64 `json:"vnni_gops"`  // its int8 peak
}

// OnGPU is what only rows of a GPU have.
type OnGPU struct {
	Candidates float64            `json:"candidates_mean"` // tokens a query head selects
	Coded      float64            `json:"coded_mean"`      // tokens whose values a KV head reads as codes
	Whole      float64            `json:"whole_share"`     // of the KV heads that were read whole, because that is faster
	MassWorst  float64            `json:"mass_worst"`      // of the heads whose mass was taken
	MassHeads  int                `json:"mass_heads"`      // how many those were
	StageBytes map[string]float64 `json:"stages_bytes_per_token"`
	CopyGBps   float64            `json:"copy_gbps"` // what a plain copy on the device reads and writes
	Texts      int                `json:"texts"`
}

// StageNames are the keys of AttentionRow.Stages, in the order in which stages run.
func StageNames() []string {
	return slices.DeleteFunc(slices.Clone(attention.StageNames[:]), func(s string) bool { return s == "dense" || s == "compare" }) // the passes of a measurement
}

// contender is a spec in the running.
type contender struct {
	spec            string
	timed, measured operator
	times           []time.Duration
	stages          map[string]time.Duration
	stats           attention.Stats
}

// Run measures. "dense" is measured in any case.
func (b *Attention) Run(ctx context.Context) (err error) {
	if b.Steps < 1 {
		return fmt.Errorf("bench: %d steps: expected at least 1", b.Steps)
	}
	if err := checkViews(b.Views); err != nil {
		return err
	}
	if !slices.IsSorted(b.Contexts) || len(b.Contexts) > 0 && b.Contexts[0] < b.Steps+3 {
		return fmt.Errorf("bench: contexts %v: expected them ascending, each with room for %d steps", b.Contexts, b.Steps+1)
	}
	if !slices.Contains(b.Specs, "dense") {
		b.Specs = append([]string{"dense"}, b.Specs...)
	}
	pipes, skip := make([]*attention.Pipeline, len(b.Specs)), 0
	for i, text := range b.Specs {
		spec, err := attention.Parse(text)
		if err != nil {
			return err
		}
		if pipes[i], err = attention.New(spec); err != nil {
			return err
		}
		if !spec.Dense() {
			skip = max(skip, spec.DenseLayers)
		}
	}
	s, err := openSource(ctx, b, pipes, 0)
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	layers := s.layers(skip)
	if len(layers) == 0 {
		return fmt.Errorf("bench: %s has no layers beyond the first %d, which stay dense, without a sliding window", b.Model, skip)
	}
	y, err := newYardstick(s.rec.Threads())
	if err != nil {
		return err
	}
	defer y.close()
	for _, n := range b.Contexts {
		for _, v := range b.Views {
			if err := b.at(ctx, s, y, n, viewOf(v, s.hyper.Group()), pipes, layers); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkViews(views []string) error {
	for _, v := range views {
		if v != ViewGQA && v != ViewMHA {
			return fmt.Errorf("bench: view %q: expected %s or %s", v, ViewGQA, ViewMHA)
		}
	}
	return nil
}

func (b *Attention) progress(stage string, done, total int64) {
	if b.Progress != nil {
		b.Progress(stage, done, total)
	}
}

// settling is how many steps come before those that are measured: the first makes room, and lists that adapt find their lengths.
const settling = 24

// at measures the steps that end with n tokens in sight.
func (b *Attention) at(ctx context.Context, s *source, y *yardstick, n int, v view, pipes []*attention.Pipeline, layers []int) error {
	list := make([]contender, len(pipes))
	before := min(settling, n-b.Steps-1)
	err := s.replay(ctx, n-b.Steps-before, n, func(i int) error {
		for j := range list {
			c := &list[(i+j)%len(list)]
			if i == 0 {
				p := pipes[j]
				*c = contender{spec: b.Specs[j], timed: newHostOperator(s.rec.Exec(), p, v, &s.rec.step), measured: newHostOperator(s.rec.Exec(), p, v, &s.rec.step),
					stages: map[string]time.Duration{}, stats: attention.Stats{Measure: true}}
			}
			if err := c.step(&s.rec.step, layers, y, i >= before); err != nil {
				return err
			}
		}
		b.progress(fmt.Sprintf("measuring at %d tokens", n), int64(i), int64(b.Steps+before))
		return nil
	})
	if err != nil {
		return err
	}
	for i := range list {
		b.row(s, y, &list[i], &list[slices.Index(b.Specs, "dense")], v, n, layers)
	}
	return nil
}

// step runs a spec once for its time and once for everything else. Steps that do not count only bring both to where those are that do; dense attention needs none.
func (c *contender) step(s *step, layers []int, y *yardstick, count bool) error {
	if !count {
		if c.spec == "dense" {
			return nil
		}
		if _, err := c.timed.run(s, layers, nil, nil); err != nil {
			return err
		}
		_, err := c.measured.run(s, layers, nil, nil)
		return err
	}
	y.sample()
	took, err := c.timed.run(s, layers, nil, nil)
	if err != nil {
		return err
	}
	c.times = append(c.times, took)
	y.sample()
	_, err = c.measured.run(s, layers, &c.stats, func(name string, t time.Duration) { c.stages[name] += t })
	return err
}

func (b *Attention) row(s *source, y *yardstick, c, dense *contender, v view, n int, layers []int) {
	if b.Row == nil {
		return
	}
	h, perLayer := &s.hyper, float64(len(layers))
	ratios := make([]float64, len(c.times))
	for i, t := range c.times {
		ratios[i] = float64(dense.times[i]) / float64(t)
	}
	sights := float64(n) - float64(b.Steps-1)/2 // mean over the steps
	r := AttentionRow{Model: b.Model, Device: s.rec.Name() + " (" + s.rec.Description() + ")", Threads: s.rec.Threads(), View: v.name, Batch: 1, Heads: h.Heads, KVHeads: h.KVHeads, Dim: h.HeadDim, Layers: len(layers),
		Context: n, Spec: c.spec, Steps: len(c.times), Speedup: median(ratios), Stages: map[string]float64{}}
	var times []float64
	for _, t := range c.times {
		times = append(times, micros(t.Seconds())/perLayer)
	}
	r.Micros = median(times)
	a := c.stats.Summary(h.HeadDim)
	if a.Steps == 0 { // dense, or below the spec's min-context
		a = attention.Summary{Context: sights, Kept: sights, Union: sights, Mass: 1, BytesStep: sights * float64(h.HeadDim) * 4}
	}
	r.KeptMean, r.KeptShare, r.UnionMean, r.Mass, r.OutErr = a.Kept, a.Kept/a.Context, a.Union, a.Mass, a.OutErr
	r.BytesToken = a.BytesStep / a.Context
	r.GBps = a.BytesStep * float64(h.KVHeads*v.passes) / r.Micros / 1e3
	for name, t := range c.stages {
		if slices.Contains(StageNames(), name) {
			r.Stages[name] = micros(t.Seconds()) / perLayer / float64(len(c.times))
		}
	}
	r.OnCPU = &OnCPU{}
	r.ReadGBps, r.FMA, r.VNNI = y.rates()
	b.Row(r)
}

// median is the middle of x, which it sorts.
func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}
