package cuda

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/tensor"
)

// promptCase is rows of a prompt over tokens that are in the cache, their own among them.
type promptCase struct{ dim, heads, kvHeads, first, rows, pos, window int }

// promptMemory is a case on the device: a slab of blocks in an order of their own, in which what lies beyond the last token is no number.
type promptMemory struct {
	op      promptOp
	q, k, v []uint16
	table   []int32
}

func (b *bank) promptMemory(rng *rand.Rand, c promptCase) *promptMemory {
	const spare = 2
	tokens := c.pos + c.rows
	m := &promptMemory{}
	for _, i := range rng.Perm(attention.BlocksOf(tokens) + spare)[:attention.BlocksOf(tokens)] {
		m.table = append(m.table, int32(i))
	}
	normal := func(scale float64) uint16 { return tensor.F32ToF16(float32(rng.NormFloat64() * scale)) }
	pool := make([]uint16, 1<<16)
	for i := range pool {
		pool[i] = normal(1)
	}
	fill := func(n int) []uint16 {
		h := make([]uint16, n)
		for i := 0; i < n; {
			i += copy(h[i:], pool[rng.IntN(len(pool)-64):])
		}
		return h
	}
	m.q = fill((c.first + c.rows) * c.heads * c.dim)
	blocks := len(m.table) + spare
	m.k, m.v = make([]uint16, blocks*c.kvHeads*attention.BlockTokens*c.dim), make([]uint16, blocks*c.kvHeads*attention.BlockTokens*c.dim)
	for i := range m.k {
		m.k[i], m.v[i] = 0x7e00, 0x7e00
	}
	for t := range tokens {
		for h := range c.kvHeads {
			at := m.row(c, t, h)
			copy(m.k[at:][:c.dim], fill(c.dim))
			copy(m.v[at:][:c.dim], fill(c.dim))
		}
	}
	m.op = promptOp{q: put(b, m.q), room: c.first + c.rows, first: c.first, k: put(b, m.k), v: put(b, m.v), table: put(b, m.table), blocks: blocks, rows: c.rows, pos: c.pos, heads: c.heads,
		kvHeads: c.kvHeads, dim: c.dim, window: c.window, scale: 2 / float32(c.dim)}
	return m
}

// row is where a token's row begins in a slab.
func (m *promptMemory) row(c promptCase, token, head int) int {
	return ((int(m.table[token/attention.BlockTokens])*c.kvHeads+head)*attention.BlockTokens + token%attention.BlockTokens) * c.dim
}

// want is a row's attention in float64.
func (m *promptMemory) want(c promptCase, row, head int) []float64 {
	q, at, first := m.q[((c.first+row)*c.heads+head)*c.dim:][:c.dim], c.pos+row, 0
	if c.window > 0 {
		first = max(0, at+1-c.window)
	}
	out, weights := make([]float64, c.dim), make([]float64, at+1)
	top, total := math.Inf(-1), 0.0
	for t := first; t <= at; t++ {
		for i, x := range m.k[m.row(c, t, head/(c.heads/c.kvHeads)):][:c.dim] {
			weights[t] += float64(tensor.F16ToF32(x)) * float64(tensor.F16ToF32(q[i])) * float64(m.op.scale)
		}
		top = max(top, weights[t])
	}
	for t := first; t <= at; t++ {
		w := math.Exp(weights[t] - top)
		total += w
		for i, x := range m.v[m.row(c, t, head/(c.heads/c.kvHeads)):][:c.dim] {
			out[i] += w * float64(tensor.F16ToF32(x))
		}
	}
	for i := range out {
		out[i] /= total
	}
	return out
}

// check runs a case and holds every step-th row against float64.
func (b *bank) checkPrompt(rng *rand.Rand, c promptCase, step int) error {
	m, guard := b.promptMemory(rng, c), uint16(0x7e77)
	got := make([]uint16, (c.rows+1)*c.heads*c.dim)
	for i := range got {
		got[i] = guard
	}
	m.op.out = put(b, got)
	if err := errors.Join(b.l.prompt(b.c, 0, &m.op), b.c.Synchronize(), b.c.Download(bytesOf(got), m.op.out)); err != nil {
		return err
	}
	var wrong, size float64
	for row := 0; row < c.rows; row += step {
		for head := range c.heads {
			for i, want := range m.want(c, row, head) {
				d := float64(tensor.F16ToF32(got[(row*c.heads+head)*c.dim+i])) - want
				wrong, size = wrong+d*d, size+want*want
			}
		}
	}
	if e := math.Sqrt(wrong / size); !(e <= 1.5e-3) {
		b.t.Errorf("%+v: relative error %g", c, e)
	}
	for _, h := range got[c.rows*c.heads*c.dim:] {
		if h != guard {
			return fmt.Errorf("%+v: wrote beyond the last row", c)
		}
	}
	return nil
}

// TestPrompt: a prompt's rows attend as in float64: first and later steps, ends within tiles and blocks, windows, groups.
func TestPrompt(t *testing.T) {
	cases := []promptCase{
		{dim: 64, heads: 3, kvHeads: 1, rows: 200}, {dim: 64, heads: 2, kvHeads: 2, first: 5, rows: 30, pos: 777}, {dim: 128, heads: 2, kvHeads: 1, rows: 140, pos: 500},
		{dim: 128, heads: 1, kvHeads: 1, rows: 1}, {dim: 128, heads: 1, kvHeads: 1, rows: 129, pos: 600, window: 70}, {dim: 256, heads: 1, kvHeads: 1, first: 3, rows: 70, pos: 250},
		{dim: 256, heads: 1, kvHeads: 1, rows: 40, pos: 460, window: 200}, {dim: 64, heads: 1, kvHeads: 1, rows: 150, pos: 1, window: 64},
	}
	if !quick {
		for _, dim := range []int{64, 128, 256} {
			for _, pos := range []int{0, 8000, 30011} {
				cases = append(cases, promptCase{dim: dim, heads: 4, kvHeads: 2, rows: 1500, pos: pos}, promptCase{dim: dim, heads: 4, kvHeads: 1, rows: 333, pos: pos, window: 512})
			}
		}
	}
	withLibrary(t, func(b *bank) error {
		rng := rand.New(rand.NewPCG(21, 22))
		for _, c := range cases {
			step := 1 + c.rows/25
			if c.pos > 1000 {
				step = 1 + c.rows/3
			}
			if err := errors.Join(b.l.findRows(b.c, c.dim), b.checkPrompt(rng, c, step)); err != nil {
				return err
			}
			if hopper := b.l.hopper; hopper && c.rows < 1000 { // the other kernel
				b.l.hopper = false
				if err := b.checkPrompt(rng, c, step); err != nil {
					return err
				}
				b.l.hopper = hopper
			}
		}
		return nil
	})
}

var benchAll = flag.Bool("all", false, "BenchmarkPrompt and BenchmarkLinear measure the kernels that others have replaced on this device too")

// BenchmarkPrompt measures a prompt's attention on a GPU: µs and floating-point operations a second.
func BenchmarkPrompt(b *testing.B) {
	dev := measuredGPU(b)
	for _, model := range []promptCase{{dim: 64, heads: 9, kvHeads: 3}, {dim: 64, heads: 14, kvHeads: 2}, {dim: 128, heads: 12, kvHeads: 2}, {dim: 256, heads: 4, kvHeads: 1}} {
		for _, rows := range []int{512, 2048, 4096} {
			for _, pos := range []int{0, 8192, 28672} {
				for _, hopper := range []bool{true, false} {
					if !hopper && !*benchAll {
						continue
					}
					c := model
					c.rows, c.pos = rows, pos
					b.Run(fmt.Sprintf("d=%d/heads=%d/rows=%d/pos=%d/hopper=%v", c.dim, c.heads, rows, pos, hopper), func(b *testing.B) {
						if err := dev.Do(func(ctx *driver.Context) error { return measurePrompt(b, dev, ctx, c, hopper) }); err != nil {
							b.Fatal(err)
						}
					})
				}
			}
		}
	}
}

func measurePrompt(b *testing.B, dev *driver.Device, ctx *driver.Context, c promptCase, hopper bool) error {
	l, err := load(ctx, dev)
	if err != nil {
		return err
	}
	s, err := ctx.NewStream()
	if err = errors.Join(err, l.findRows(ctx, c.dim)); err != nil {
		return err
	}
	k := &bank{c: ctx, l: l}
	m := k.promptMemory(rand.New(rand.NewPCG(1, 2)), c)
	m.op.out = put(k, m.q)
	l.hopper = l.hopper && hopper
	us, err := replay(ctx, s, 5, 4, func(int) error { return l.prompt(ctx, s, &m.op) })
	flops := 4 * float64(c.heads*c.dim) * (float64(c.rows)*float64(c.pos) + float64(c.rows)*float64(c.rows)/2)
	b.ReportMetric(us, "µs")
	b.ReportMetric(flops/us/1e6, "TFLOP/s")
	b.ReportMetric(0, "ns/op")
	for _, p := range k.owned {
		err = errors.Join(err, ctx.Free(p))
	}
	return errors.Join(err, ctx.FreeStream(s), l.free(ctx))
}
