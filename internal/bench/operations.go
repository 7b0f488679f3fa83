package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/tensor"
)

// How much an operation goes through before it meets the same memory again, and how often it is measured.
const (
	operationBytes  = 192 << 20 // far more than a last-level cache holds
	operationRounds = 5
	promptRows      = 256
)

// machine is what the processor can do, all threads together: bytes, float32 and int8 operations a second.
type machine struct{ read, fma, vnni float64 }

// operation is one of the device's, at one shape.
type operation struct {
	name, unit string
	run        func() error
	amount     float64                 // of the unit's thing, in one run
	most       func(m machine) float64 // of it a second, by the peaks
}

// Operations measures what a step consists of beside the peaks of the same moments: matrix-vector products and dense decode attention, whose roof is memory or, where many query heads share
// a KV head, float32 arithmetic; and the products and the attention of prompts, whose roof is arithmetic. Inputs are random.
func Operations(ctx context.Context, threads int, row func(KernelRow)) error {
	y, err := newYardstick(threads)
	if err != nil {
		return err
	}
	defer y.close()
	measure := func(o operation) error {
		y.read, y.fma, y.vnni = y.read[:0], y.fma[:0], y.vnni[:0]
		var times []float64
		for i := range operationRounds + 1 {
			if err := ctx.Err(); err != nil {
				return err
			}
			y.sample()
			start := time.Now()
			if err := o.run(); err != nil {
				return err
			}
			if i > 0 { // the first makes room
				times = append(times, time.Since(start).Seconds())
			}
		}
		rate := o.amount / median(times)
		share := rate / o.most(machine{median(y.read), median(y.fma), median(y.vnni)})
		row(KernelRow{Op: o.name, Level: isa.Best().String(), Threads: threads, Rate: rate / 1e9, Unit: o.unit, Share: share})
		return nil
	}
	on := func(f func(d *cpu.Device) error) error {
		d, err := cpu.New(threads)
		if err != nil {
			return err
		}
		return errors.Join(f(d), d.Close())
	}
	for _, t := range []tensor.Type{tensor.Q4_1, tensor.Q5_0, tensor.Q8_0, tensor.Q4_K, tensor.Q6_K, tensor.F16} {
		if err := on(func(d *cpu.Device) error { return products(d, t, measure) }); err != nil {
			return err
		}
	}
	for _, s := range []struct{ group, dim int }{{1, 64}, {3, 64}, {7, 64}, {1, 128}, {6, 128}, {1, 256}, {4, 256}} {
		if err := on(func(d *cpu.Device) error { return attentionOf(d, s.group, s.dim, measure) }); err != nil {
			return err
		}
	}
	return nil
}

// products are those of one row and of a prompt's.
func products(d *cpu.Device, t tensor.Type, measure func(operation) error) error {
	const rows, cols = 1536, 8960
	rng := rand.New(rand.NewPCG(1, 1))
	x, err := d.Alloc(promptRows, cols)
	if err != nil {
		return err
	}
	fill(rng, x.Data)
	dst, err := d.Alloc(promptRows, rows)
	if err != nil {
		return err
	}
	rowBytes, err := tensor.RowBytes(t, cols)
	if err != nil {
		return err
	}
	data := make([]byte, rows*rowBytes)
	for i := range data {
		data[i] = byte(rng.Uint32()) & 0x3b // as halves, scales are then at most one
	}
	weights := make([]device.Weight, operationBytes/len(data)+1)
	for i := range weights {
		if weights[i], err = d.Weight(device.Matrix{Name: t.String(), Type: t, Rows: rows, Cols: cols, Data: data}); err != nil {
			return err
		}
	}
	out := []device.Linear{{Dst: dst}}
	err = measure(operation{name: t.String() + " × 1 row", unit: "GB/s", amount: float64(len(weights) * len(data)), most: func(m machine) float64 { return m.read }, run: func() error {
		for _, out[0].W = range weights {
			d.Linear(x.Top(1), out)
		}
		return nil
	}})
	if err != nil {
		return err
	}
	peak, unit := func(m machine) float64 { return m.vnni }, "GOP/s"
	if t == tensor.F16 {
		peak, unit = func(m machine) float64 { return m.fma }, "GFLOP/s"
	}
	return measure(operation{name: fmt.Sprintf("%s × %d rows", t, promptRows), unit: unit, amount: 2 * rows * cols * promptRows, most: peak, run: func() error {
		d.Linear(x, out)
		return nil
	}})
}

// attentionOf is dense attention of a group of query heads to each KV head: a decode step over 32K tokens, and the last rows of a prompt of 4K.
func attentionOf(d *cpu.Device, group, dim int, measure func(operation) error) (err error) {
	const tokens, prompt = 32 << 10, 4 << 10
	heads := operationBytes/(tokens*dim*4) + 1
	c, err := d.Cache(kvcache.Shape{Layers: 1, KVHeads: heads, Dim: dim}, tokens/attention.BlockTokens, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	host, seq := c.(*kvcache.Host), c.NewSequence()
	if err := seq.Reserve(tokens); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(2, 2))
	rows := make([]float32, attention.BlockTokens*dim)
	fill(rng, rows)
	for h := range heads {
		for at := 0; at < tokens; at += attention.BlockTokens {
			host.Write(seq, 0, h, at, attention.BlockTokens, rows, rows, dim)
		}
	}
	seq.Advance(tokens)
	dense := attention.MustNew("dense")
	q, out := make([]float32, heads*group*dim), make([]float32, heads*group*dim)
	fill(rng, q)
	names := fmt.Sprintf("group %d, d = %d", group, dim)
	step := operation{name: "decode attention, " + names, unit: "GB/s", amount: float64(heads * tokens * dim * 4), run: func() error {
		for h := range heads {
			at := h * group * dim
			if err := d.Exec().Add(attention.Call{Pipeline: dense, KVHead: h, Head: host.Head(seq, 0, h, tokens), Group: group, Q: q[at:][:group*dim], Out: out[at:][:group*dim]}); err != nil {
				return err
			}
		}
		d.Exec().Run()
		return nil
	}, most: func(m machine) float64 { return min(m.read, m.fma/float64(group)) }} // a byte of the cache is group·4·dim/(4·dim) operations
	if err := measure(step); err != nil {
		return err
	}
	heads = min(heads, 4)
	a := device.Attention{Heads: heads * group, KVHeads: heads, Dim: dim, Scale: 1, Cache: c, Segments: []device.Segment{{Seq: seq, N: promptRows, Pos: prompt - promptRows}}}
	for _, t := range []struct {
		t *device.Tensor
		n int
	}{{&a.Q, group}, {&a.Out, group}, {&a.K, 1}, {&a.V, 1}} {
		cols := t.n * heads * dim
		*t.t = device.Tensor{Rows: promptRows, Cols: cols, Data: make([]float32, promptRows*cols)}
	}
	fill(rng, a.Q.Data)
	sights := float64(promptRows) * (prompt - promptRows/2)
	return measure(operation{name: "prompt attention, " + names, unit: "GFLOP/s", amount: 4 * float64(heads*group*dim) * sights, most: func(m machine) float64 { return m.fma },
		run: func() error { return d.Attend(&a) }})
}

func fill(rng *rand.Rand, x []float32) {
	for i := range x {
		x[i] = rng.Float32() - 0.5
	}
}
