package cuda

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

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

// BenchmarkStep prints the µs of a layer of a decode step, what each of its operations adds to it, and what its kernels but the products take in chains of their own, as graph replays of models with
// random weights over a short context; and at last what steps take for whoever calls.
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
	defer s.codes.Close() //nolint:errcheck // the process ends
	for _, n := range []int{1, 8, 16, 32, 64, most} {
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
		chains, err := s.chains(times, n)
		if err != nil {
			return err
		}
		called, err := s.called(n)
		if err != nil {
			return err
		}
		fmt.Println(line + "; alone" + chains + called)
	}
	return nil
}

// chains times kernels that are no products, each in a chain of its own: a norm with its addition, the appending of tokens without codes, with them, and where that fills a page, and attention.
func (s *stepBench) chains(times, n int) (line string, err error) {
	d, cache, codes := s.d, s.cache.(*Cache), s.codes.(*Cache)
	plan := s.plan(n)
	if err := d.Step(plan, func() error { return s.step(plan, n, "") }); err != nil {
		return "", err
	}
	h := d.top(s.h).half
	h.scale = d.top(s.h).scale
	norm := normOp{x: d.top(s.x).wide, add: d.top(s.y).wide, h: h, rows: n, cols: s.embed, run: s.embed, eps: 1e-6}
	return line, d.gpu.Do(func(c *driver.Context) (err error) {
		if norm.weight, err = d.vector(c, s.norm); err != nil {
			return err
		}
		turn, err := d.turning(c, s.rope, s.dim)
		if err != nil {
			return err
		}
		turn.x, turn.heads = [3]driver.Ptr{d.top(s.q).wide, d.top(s.k).wide, d.top(s.v).wide}, [3]int32{int32(s.heads), int32(s.kvHeads), int32(s.kvHeads)}
		plain := appendParams{d.params(s.attention(0, n), cache, 0, 0), turn.from(0, [3]driver.Ptr{cache.q, cache.k, cache.v})}
		plain.batch, plain.order, plain.maxParts, plain.ranks = int32(n), 0, int32(maxParts(n*s.kvHeads)), int32(cache.op.ranks(n))
		coded := appendParams{codes.op.p, plain.turn}
		coded.batch, coded.table, coded.lens = plain.batch, plain.table, plain.lens
		lens := func(tokens int32) error { return c.Upload(plain.lens, bytesOf(slices.Repeat([]int32{tokens}, n))) }
		for _, k := range []struct {
			name string
			lens int32
			f    func() error
		}{
			{"norm", 200, func() error { return d.lib.norm(c, d.stream, &norm) }},
			{"append", 200, func() error { return cache.op.append(c, d.stream, n, &plain) }},
			{"with codes", 200, func() error { return codes.op.append(c, d.stream, n, &coded) }},
			{"of a page", 208, func() error { return codes.op.append(c, d.stream, n, &coded) }},
			{"attention", 200, func() error {
				cache.op.hold = plain.params
				return cache.op.attendHeld(c, d.stream, Mode{Dense: true}, 200*n)
			}},
		} {
			if err := lens(k.lens); err != nil {
				return err
			}
			us, err := replay(c, d.stream, times, 50, func(int) error { return k.f() })
			if err != nil {
				return err
			}
			line += fmt.Sprintf("  %s %.2f", k.name, us)
		}
		return nil
	})
}

// called is what a step takes by the clock, its result waited for, and the slowest of a hundred.
func (s *stepBench) called(n int) (string, error) {
	const steps = 1000
	plan, next, all := s.plan(n), make([]int32, n), make([]float64, 0, steps)
	ops := func() error { return s.step(plan, n, "") }
	for i := range steps + 3 {
		start := time.Now()
		if err := s.d.Step(plan, ops); err != nil {
			return "", err
		}
		s.d.Chosen(next)
		if i >= 3 {
			all = append(all, float64(time.Since(start).Nanoseconds())/1e3)
		}
	}
	slices.Sort(all)
	return fmt.Sprintf("; called %.1f a step, p99 %.1f", all[steps/2], all[steps*99/100]), s.d.gpu.Do(s.d.forget)
}

// stepBench is a model's layers and activations.
type stepBench struct {
	*stepModel
	d                                  *Device
	cache, codes                       device.Cache // without codes and with them
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
	if errs = append(errs, err); err == nil {
		s.codes, err = s.d.Cache(kvcache.Shape{Layers: 1, KVHeads: s.kvHeads, Dim: s.dim, Group: s.heads / s.kvHeads, Sequences: n, Tokens: 256}, n+1, sparsely.Planes())
		errs = append(errs, err)
	}
	if errors.Join(errs...) != nil {
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
	plan := s.plan(n)
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

// plan is a step of n sequences.
func (s *stepBench) plan(n int) *device.Plan {
	return &device.Plan{Cache: s.cache, Segments: s.segments[:n], Tokens: make([]int32, n), Pos: slices.Repeat([]int32{199}, n)}
}

// attention is that of a layer of n sequences.
func (s *stepBench) attention(layer, n int) *device.Attention {
	return &device.Attention{Layer: layer, Heads: s.heads, KVHeads: s.kvHeads, Dim: s.dim, Scale: 0.1, Q: s.q.Top(n), K: s.k.Top(n), V: s.v.Top(n), Out: s.att.Top(n), Cache: s.cache, Segments: s.segments[:n]}
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
			err = errors.Join(err, d.Attend(s.attention(i, n)))
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
