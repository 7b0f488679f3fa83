package cuda

import (
	"errors"
	"fmt"
	"testing"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/tensor"
)

// stepModels are the shapes and formats of the models' layers, of which as many are made as do not fit the L2 cache.
var stepModels = []stepModel{
	{"qwen1.5b", 1536, 8960, 12, 2, 128, 5, tensor.Q4_K, tensor.Q4_K, tensor.Q4_K, tensor.Q6_K},
	{"qwen0.5b", 896, 4864, 14, 2, 64, 12, tensor.Q5_0, tensor.Q5_0, tensor.Q5_0, tensor.Q6_K},
	{"smollm2", 576, 1536, 9, 3, 64, 30, tensor.Q5_0, tensor.Q5_0, tensor.Q4_1, tensor.Q5_0},
}

type stepModel struct {
	name                                    string
	embed, ffn, heads, kvHeads, dim, layers int
	qkv, out, up, down                      tensor.Type
}

// stepParts are the operations of a layer that BenchmarkStep leaves out one by one: what they cost is what is gained.
var stepParts = []string{"norms", "qkv", "attend", "out", "up", "gate", "down"}

// BenchmarkStep prints the µs of a layer of a decode step, and what each of its operations adds to it, as graph replays of models with random weights over a short context.
func BenchmarkStep(b *testing.B) {
	if emulated {
		b.Skip("no GPU")
	}
	for i := range stepModels {
		if err := benchStep(&stepModels[i], max(b.N, 9)); err != nil {
			b.Fatal(err)
		}
	}
}

func benchStep(m *stepModel, times int) error {
	const most = 96
	d, err := Open(Options{})
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // the process ends
	s := stepBench{stepModel: m, d: d}
	if err := s.take(most); err != nil {
		return err
	}
	defer s.cache.Close() //nolint:errcheck // the process ends
	for _, n := range []int{1, 8, 16, 32, 56, most} {
		whole, err := s.run(times, n, "")
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%-9s %3d sequences: %6.2f", m.name, n, whole)
		for _, left := range stepParts {
			us, err := s.run(times, n, left)
			if err != nil {
				return err
			}
			line += fmt.Sprintf("  %s %5.2f", left, whole-us)
		}
		fmt.Println(line)
	}
	return nil
}

// stepBench is a model's layers and activations.
type stepBench struct {
	*stepModel
	d                                  *Device
	cache                              device.Cache
	of                                 []stepLayer
	x, h, y, att, q, k, v, gate, upper device.Tensor
	segments                           []device.Segment
	norm                               []float32
	rope                               *device.Rope
}

type stepLayer struct{ q, k, v, out, gate, up, down device.Weight }

func (s *stepBench) take(n int) error {
	var errs []error
	weight := func(typ tensor.Type, rows, cols int) device.Weight {
		w, err := s.d.Weight(randomMatrix(typ, rows, cols))
		errs = append(errs, err)
		return w
	}
	for range s.layers {
		s.of = append(s.of, stepLayer{weight(s.qkv, s.heads*s.dim, s.embed), weight(s.qkv, s.kvHeads*s.dim, s.embed), weight(s.qkv, s.kvHeads*s.dim, s.embed),
			weight(s.out, s.embed, s.heads*s.dim), weight(s.up, s.ffn, s.embed), weight(s.up, s.ffn, s.embed), weight(s.down, s.embed, s.ffn)})
	}
	for _, t := range []struct {
		at   *device.Tensor
		cols int
	}{{&s.x, s.embed}, {&s.h, s.embed}, {&s.y, s.embed}, {&s.att, s.heads * s.dim}, {&s.q, s.heads * s.dim}, {&s.k, s.kvHeads * s.dim}, {&s.v, s.kvHeads * s.dim}, {&s.gate, s.ffn}, {&s.upper, s.ffn}} {
		var err error
		*t.at, err = s.d.Alloc(n, t.cols)
		errs = append(errs, err)
	}
	var err error
	s.cache, err = s.d.Cache(kvcache.Shape{Layers: s.layers, KVHeads: s.kvHeads, Dim: s.dim, Group: s.heads / s.kvHeads, Sequences: n, Tokens: 256}, n+1, densely.Planes())
	if errs = append(errs, err); errors.Join(errs...) != nil {
		return errors.Join(errs...)
	}
	for i := range n {
		seq := s.cache.NewSequence()
		errs = append(errs, seq.Reserve(200))
		s.segments = append(s.segments, device.Segment{Seq: seq, Row: i, N: 1, Pos: 199, Mode: device.Decode, Pipeline: densely})
	}
	s.norm, s.rope = make([]float32, s.embed), &device.Rope{Freq: make([]float64, s.dim/2), Magnitude: 1}
	return errors.Join(errs...)
}

// run is the microseconds of a layer of n sequences without one of its parts.
func (s *stepBench) run(times, n int, left string) (us float64, err error) {
	d := s.d
	plan := &device.Plan{Cache: s.cache, Segments: s.segments[:n], Tokens: make([]int32, n)}
	for range n {
		plan.Pos = append(plan.Pos, 199)
	}
	for range 3 { // as it comes, recorded, replayed
		if err := d.Step(plan, func() error { return s.step(plan, n, left) }); err != nil {
			return 0, err
		}
	}
	err = d.gpu.Do(func(c *driver.Context) error {
		for _, g := range d.step.graphs {
			if us, err = replayed(c, d.stream, times, s.layers, g.graph); err != nil {
				return err
			}
		}
		return d.forget(c)
	})
	return us, err
}

// step is the operations of a step. What is left out leaves its results as they are.
func (s *stepBench) step(plan *device.Plan, n int, left string) (err error) {
	d := s.d
	x, h, y, att, q, k, v, gate, up := s.x.Top(n), s.h.Top(n), s.y.Top(n), s.att.Top(n), s.q.Top(n), s.k.Top(n), s.v.Top(n), s.gate.Top(n), s.upper.Top(n)
	do := func(part string, f func()) {
		if part != left {
			f()
		}
	}
	wide := func(all ...device.Tensor) {
		for _, t := range all {
			d.top(t).isWide = true
		}
	}
	norm := func(add bool) {
		if add {
			d.Add(x, y)
		}
		d.Norm(h, x, s.norm, 1e-6)
	}
	wide(x, y)
	for i := range s.of {
		l := &s.of[i]
		do("norms", func() { norm(i > 0) })
		d.top(h).isHalf = true
		do("qkv", func() { d.Linear(h, []device.Linear{{W: l.q, Dst: q}, {W: l.k, Dst: k}, {W: l.v, Dst: v}}) })
		wide(q, k, v)
		do("attend", func() {
			d.Rope(q, s.rope, s.dim, plan.Pos)
			d.Rope(k, s.rope, s.dim, plan.Pos)
			err = errors.Join(err, d.Attend(&device.Attention{Layer: i, Heads: s.heads, KVHeads: s.kvHeads, Dim: s.dim, Scale: 0.1, Q: q, K: k, V: v, Out: att, Cache: s.cache, Segments: plan.Segments}))
		})
		d.top(att).isHalf = true
		do("out", func() { d.Linear(att, []device.Linear{{W: l.out, Dst: y}}) })
		wide(y)
		do("norms", func() { norm(true) })
		d.top(h).isHalf = true
		do("up", func() { d.Linear(h, []device.Linear{{W: l.gate, Dst: gate}, {W: l.up, Dst: up}}) })
		wide(gate, up)
		do("gate", func() { d.Gate(gate, up, device.SiLU) })
		d.top(gate).isHalf = true
		do("down", func() { d.Linear(gate, []device.Linear{{W: l.down, Dst: y}}) })
		wide(y)
	}
	return err
}
