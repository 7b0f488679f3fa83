package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/tensor"
)

// rig is an operator with sequences of random data, and the same in Go.
type rig struct {
	t     *testing.T
	c     *driver.Context
	o     *Operator
	lens  []int32
	heads []*refHead  // [batch·kvHeads]
	q     [][]float32 // [batch·kvHeads·group]
}

// text makes rows like a model's: channels of very different size and offset, neighbours alike, and a few rows that queries look for.
func text(rng *rand.Rand, n, dim int, q [][]float32) (k, v []float32) {
	k, v = make([]float32, n*dim), make([]float32, n*dim)
	mean, size, drift := make([]float64, dim), make([]float64, dim), make([]float64, dim)
	for c := range dim {
		size[c] = math.Exp(rng.NormFloat64() * 0.5)
		if rng.IntN(16) == 0 {
			mean[c], size[c] = 12*rng.NormFloat64(), 2*size[c]
		}
	}
	for t := range n {
		seek := rng.IntN(12) == 0
		who := q[rng.IntN(len(q))]
		for c := range dim {
			drift[c] = 0.9*drift[c] + 0.4*rng.NormFloat64()
			x := mean[c] + size[c]*(drift[c]+0.3*rng.NormFloat64())
			if seek {
				x += 0.8 * float64(who[c])
			}
			k[t*dim+c], v[t*dim+c] = half(float32(x)), half(float32(rng.NormFloat64()*size[c]))
		}
	}
	return k, v
}

func halfBits(x []float32) []uint16 {
	h := make([]uint16, len(x))
	for i, f := range x {
		h[i] = tensor.F32ToF16(f)
	}
	return h
}

// withRig runs f with an operator of the shape whose sequences have the lengths. Blocks are scattered.
func withRig(t *testing.T, d *driver.Device, s Shape, lens []int32, seed uint64, f func(*rig)) {
	t.Helper()
	s.Batch = len(lens)
	for _, n := range lens {
		s.Tokens = max(s.Tokens, int(n)+attention.BlockTokens)
	}
	each := attention.BlocksOf(s.Tokens)
	s.Blocks = each * len(lens)
	rng := rand.New(rand.NewPCG(seed, 7))
	err := d.Do(func(c *driver.Context) error {
		o, err := New(c, d, s)
		if err != nil {
			return err
		}
		defer o.Free(c)
		if emulated {
			o.SelectThreads = 128 // fewer threads take the emulator less time
		} else if quick {
			o.SelectRanks = 2 // large clusters take racecheck long; TestRanks has some
		}
		r := &rig{t: t, c: c, o: o, lens: lens}
		blocks := rng.Perm(s.Blocks)
		tables := make([][]int32, len(lens))
		for i := range lens {
			for j := range each {
				tables[i] = append(tables[i], int32(blocks[i*each+j]))
			}
		}
		if err := o.SetSequences(c, tables, lens); err != nil {
			return err
		}
		for range s.Batch * s.KVHeads * s.Group {
			q := make([]float32, s.Dim)
			for i := range q {
				q[i] = half(float32(rng.NormFloat64() * 1.5))
			}
			r.q = append(r.q, q)
		}
		for i, n := range lens {
			for h := range s.KVHeads {
				u := i*s.KVHeads + h
				k, v := text(rng, int(n), s.Dim, r.q[u*s.Group:][:s.Group])
				r.heads = append(r.heads, newRefHead(s.Dim, k, v))
			}
		}
		if err := r.upload(); err != nil {
			return err
		}
		return r.guard(f)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// stop ends a test once what it took is given back.
type stop struct{ error }

func (r *rig) guard(f func(*rig)) (err error) {
	defer func() {
		if x := recover(); x != nil {
			s, ok := x.(stop)
			if !ok {
				panic(x)
			}
			err = s.error
		}
	}()
	f(r)
	return nil
}

func (r *rig) upload() error {
	for u, h := range r.heads {
		if h.n == 0 {
			continue
		}
		k, err := r.c.Alloc(len(h.k) * 2)
		if err != nil {
			return err
		}
		v, err := r.c.Alloc(len(h.v) * 2)
		if err != nil {
			return err
		}
		err = errors.Join(r.c.Upload(k, bytesOf(halfBits(h.k))), r.c.Upload(v, bytesOf(halfBits(h.v))),
			r.o.Write(r.c, 0, u/r.o.KVHeads, 0, h.n, u%r.o.KVHeads, 1, k, v, h.dim, 0), r.c.Synchronize(), r.c.Free(k), r.c.Free(v))
		if err != nil {
			return err
		}
	}
	if err := r.o.Encode(r.c, 0, len(r.lens)); err != nil {
		return err
	}
	return errors.Join(r.c.Upload(r.o.p.q, bytesOf(halfBits(slices.Concat(r.q...)))), r.c.Synchronize())
}

func (r *rig) must(err error) {
	if err != nil {
		panic(stop{err})
	}
}

// run attends once, over a poisoned output.
func (r *rig) run(m Mode) []float32 {
	r.t.Helper()
	n := len(r.q) * r.o.Dim
	r.must(r.c.Fill(r.o.p.out, 0xff, n*2, 0))
	r.must(r.o.Attend(r.c, 0, 0, len(r.lens), m))
	return r.output()
}

func (r *rig) output() []float32 {
	r.t.Helper()
	n := len(r.q) * r.o.Dim
	r.must(r.c.Synchronize())
	raw, out := make([]uint16, n), make([]float32, n)
	r.must(r.c.Download(bytesOf(raw), r.o.p.out))
	for i, x := range raw {
		out[i] = tensor.F16ToF32(x)
	}
	return out
}

func download[T int8 | int16 | uint16 | int32 | uint32 | float32](r *rig, at driver.Ptr, n int) []T {
	r.t.Helper()
	x := make([]T, n)
	r.must(r.c.Download(bytesOf(x), at))
	return x
}

// each runs f for every query head, on all processors.
func (r *rig) each(f func(unit, head int, h *refHead, q []float32)) {
	var wg sync.WaitGroup
	for i, q := range r.q {
		u := i / r.o.Group
		if r.heads[u].n > 0 {
			wg.Go(func() { f(u, i, r.heads[u], q) })
		}
	}
	wg.Wait()
}

var shapes = func() (s []Shape) {
	for _, dim := range []int{64, 128} {
		for group := 1; group <= maxGroup; group++ {
			s = append(s, Shape{Dim: dim, KVHeads: 1 + group%2, Group: group, TokenCodes: true})
		}
	}
	return s
}()

// The lengths of a batch: edges of pages and blocks, and enough for long lists.
var lengths = []int32{1, 15, 16, 17, 255, 256, 257, 1000, 4096, 4111, 9001}

// A batch of one, for which clusters are large.
var long = []int32{9001}

// fp16Error is the relative error that is allowed of fp16 inputs, weights and outputs.
const fp16Error = 1e-3

func TestDenseAgrees(t *testing.T) {
	d := gpu(t)
	for i, s := range shapes {
		for _, alone := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d_%d_%t", s.Dim, s.Group, alone), func(t *testing.T) {
				withRig(t, d, s, lengths, uint64(i), func(r *rig) {
					r.o.NoClusters = alone
					open := Twilight(0.9)
					open.MinContext = 1                             // so few tokens are not worth a selection
					for _, m := range []Mode{{Dense: true}, open} { // the second finds the queue as the first left it
						out := r.run(m)
						if !slices.Equal(out, r.run(m)) {
							t.Error("two runs differ")
						}
						r.each(func(u, i int, h *refHead, q []float32) {
							if e := apart(out[i*s.Dim:], h.dense(q)); !(e <= fp16Error) {
								t.Errorf("sequence of %d, head %d: error %.2g", h.n, i, e)
							}
						})
					}
				})
			})
		}
	}
}

// TestEncodingAgrees: every plane is what the definitions say, up to codes on the edge between two.
func TestEncodingAgrees(t *testing.T) {
	d := gpu(t)
	for i, s := range shapes {
		if s.Group > 2 {
			continue
		}
		t.Run(fmt.Sprint(s.Dim), func(t *testing.T) {
			withRig(t, d, s, lengths, uint64(100+i), func(r *rig) { r.comparePlanes() })
		})
	}
}

func unpack(words []uint32, at, channels int, keyOrder bool) []uint8 {
	u := make([]uint8, channels)
	for c := range u {
		if keyOrder {
			u[c] = uint8(words[at+c/8] >> (4 * (c%2*4 + c%8/2)) & 15)
		} else {
			word := at + c%64/8*(channels/64) + c/64
			u[c] = uint8(words[word] >> (4 * (c % 8)) & 15)
		}
	}
	return u
}

func (r *rig) comparePlanes() {
	t, o, dim := r.t, r.o, r.o.Dim
	bh := o.Blocks * o.KVHeads
	rows := bh * attention.BlockTokens
	table := download[int32](r, o.p.table, o.Batch*o.stride)
	ranges := download[uint16](r, o.p.ranges, bh*2*dim)
	bounds := download[uint32](r, o.p.bounds, bh*attention.BlockPages*2*dim/8)
	keys, tokens, values := download[uint32](r, o.p.keyCodes, rows*dim/8), download[uint32](r, o.p.tokenCodes, rows*dim/8), download[uint32](r, o.p.valueCodes, rows*dim/8)
	vscale, tscale := download[uint16](r, o.p.valueScale, rows*dim/16), download[uint16](r, o.p.tokenScale, rows*2)
	sums := download[float32](r, o.p.valueSum, bh*2*dim)
	off, all := 0, 0
	codes := func(what string, got, want []uint8) {
		for c := range want {
			all++
			if got[c] != want[c] {
				off++
				if d := int(got[c]) - int(want[c]); d > 1 || d < -1 {
					t.Errorf("%s: channel %d is %d, expected %d", what, c, got[c], want[c])
				}
			}
		}
	}
	number := func(what string, got uint16, want float32) {
		if x := tensor.F16ToF32(got); x != want {
			t.Errorf("%s is %g, expected %g", what, x, want)
		}
	}
	for u, h := range r.heads {
		block := func(b int) int { return int(table[u/o.KVHeads*o.stride+b])*o.KVHeads + u%o.KVHeads }
		for p := range h.encodedPages {
			b := p / attention.BlockPages
			at := (block(b)*attention.BlockPages + p%attention.BlockPages) * 2 * dim / 8
			codes(fmt.Sprintf("largest of page %d of %d tokens", p, h.n), unpack(bounds, at, dim, true), h.largest[p*dim:][:dim])
			codes(fmt.Sprintf("smallest of page %d of %d tokens", p, h.n), unpack(bounds, at+dim/8, dim, true), h.small[p*dim:][:dim])
			if p%attention.BlockPages == 0 {
				for c := range dim {
					number("low", ranges[block(b)*2*dim+c], h.low[b*dim+c])
					number("step", ranges[(block(b)*2+1)*dim+c], h.step[b*dim+c])
				}
			}
		}
		for i := range h.n {
			row := block(i/attention.BlockTokens)*attention.BlockTokens + i%attention.BlockTokens
			if i < h.encodedPages*attention.PageTokens {
				codes(fmt.Sprintf("key %d of %d", i, h.n), unpack(keys, row*dim/8, dim, true), h.keys[i*dim:][:dim])
			}
			codes(fmt.Sprintf("key by token %d of %d", i, h.n), unpack(tokens, row*dim/8, dim, true), h.tokens[i*dim:][:dim])
			codes(fmt.Sprintf("value %d of %d", i, h.n), unpack(values, row*dim/8, dim, false), h.values[i*dim:][:dim])
			number("step by token", tscale[row*2], h.tstep[i])
			number("low by token", tscale[row*2+1], h.tlow[i])
			for g := range dim / 32 {
				number("value step", vscale[(row*(dim/32)+g)*2], h.vstep[i*(dim/32)+g])
				number("value low", vscale[(row*(dim/32)+g)*2+1], h.vlow[i*(dim/32)+g])
			}
		}
		if h.n > 0 {
			got := sums[(block((h.n-1)/attention.BlockTokens)*2+1)*dim:][:dim]
			if e := apart(got, h.sum); !(e < 1e-4) {
				t.Errorf("sum of %d values: error %.2g", h.n, e)
			}
		}
		if t.Failed() {
			panic(stop{fmt.Errorf("stopped at sequence %d of %d tokens", u/o.KVHeads, h.n)})
		}
	}
	if off*2000 > all {
		t.Errorf("%d of %d codes are off by one", off, all)
	}
}

// TestAppend: tokens added one by one give the cache that a prompt gives.
func TestAppend(t *testing.T) {
	d := gpu(t)
	for _, dim := range []int{64, 128} {
		final := []int32{1, 16, 40, 257, 300, 530}
		withRig(t, d, Shape{Dim: dim, KVHeads: 2, Group: 3, TokenCodes: true}, final, 11, func(r *rig) {
			table := download[int32](r, r.o.p.table, r.o.Batch*r.o.stride)
			tables := make([][]int32, r.o.Batch)
			for i := range tables {
				tables[i] = table[i*r.o.stride:][:r.o.stride]
			}
			// Wipe the cache and add the last 40 tokens of each sequence again.
			start := make([]int32, len(final))
			for i, n := range final {
				start[i] = max(n-40, 0)
			}
			heads := r.heads
			short := make([]*refHead, len(heads))
			for u, h := range heads {
				n := int(start[u/2]) * dim
				short[u] = newRefHead(dim, h.k[:n], h.v[:n])
			}
			for _, p := range []driver.Ptr{r.o.p.k, r.o.p.v, r.o.p.keyCodes, r.o.p.valueCodes} {
				r.must(r.c.Fill(p, 0, r.o.Blocks*r.o.KVHeads*attention.BlockTokens*dim/2, 0))
			}
			r.heads, r.lens = short, start
			r.must(r.o.SetSequences(r.c, tables, start))
			r.must(r.upload())
			for range 40 {
				k, v := make([]float32, 0, len(heads)*dim), make([]float32, 0, len(heads)*dim)
				lens := make([]int32, len(start)) // a sequence of no tokens takes no part
				for i := range start {
					if start[i] < final[i] {
						start[i]++
						lens[i] = start[i]
					}
					for u := 2 * i; u < 2*i+2; u++ {
						at := int(start[i]-1) * dim
						k, v = append(k, heads[u].k[at:at+dim]...), append(v, heads[u].v[at:at+dim]...)
					}
				}
				r.must(r.o.SetSequences(r.c, tables, lens))
				r.must(r.c.Upload(r.o.p.newK, bytesOf(halfBits(k))))
				r.must(r.c.Upload(r.o.p.newV, bytesOf(halfBits(v))))
				r.must(r.o.Append(r.c, 0, len(lens)))
				r.must(r.c.Synchronize())
			}
			r.must(r.o.SetSequences(r.c, tables, final))
			r.heads, r.lens = heads, final
			r.comparePlanes()
		})
	}
}

// TestGraph: one captured graph follows lengths and queries that change after the capture.
func TestGraph(t *testing.T) {
	d := gpu(t)
	for name, m := range map[string]Mode{"twilight": Twilight(0.9), "no_dense": {Keep: 0.25, ExactMass: 0.3, Mass: 0.9, DenseBelow: 1}, "dense": {Dense: true}, "short_dense": {Keep: 0.25, ExactMass: 0.9, Mass: 0.9, DenseBelow: 2000}} {
		if emulated && (name == "no_dense" || name == "dense") {
			continue // graphs differ in nothing there
		}
		withRig(t, d, Shape{Dim: 128, KVHeads: 2, Group: 4}, lengths, 5, func(r *rig) {
			s, err := r.c.NewStream()
			r.must(err)
			g, err := r.c.Capture(s, func() error {
				return errors.Join(r.o.Attend(r.c, s, 0, len(r.lens), m), r.o.Attend(r.c, s, 0, len(r.lens), m))
			})
			r.must(err)
			table := download[int32](r, r.o.p.table, r.o.Batch*r.o.stride)
			for round := range 3 {
				tables, lens := make([][]int32, r.o.Batch), make([]int32, r.o.Batch)
				for i := range tables {
					tables[i] = table[i*r.o.stride:][:r.o.stride]
					lens[i] = max(lengths[i]-int32(round*16), 0)
				}
				r.must(r.o.SetSequences(r.c, tables, lens))
				r.must(r.o.Encode(r.c, 0, len(lens)))
				slices.Reverse(r.q)
				r.must(r.c.Upload(r.o.p.q, bytesOf(halfBits(slices.Concat(r.q...)))))
				r.must(r.c.Synchronize())
				r.must(r.c.Fill(r.o.p.out, 0, len(r.q)*r.o.Dim*2, 0))
				want := r.run(m)
				r.must(r.c.Fill(r.o.p.out, 0, len(r.q)*r.o.Dim*2, 0))
				r.must(r.c.Synchronize())
				r.must(r.c.Replay(g, s))
				r.must(r.c.Wait(s))
				got := r.output()
				for u := range r.heads {
					if lens[u/2] == 0 {
						continue
					}
					at, n := u*4*128, 4*128
					if !slices.Equal(got[at:at+n], want[at:at+n]) {
						t.Errorf("%s: round %d: unit %d of %d tokens: graph and launches differ", name, round, u, lens[u/2])
					}
				}
			}
			r.must(r.c.FreeGraph(g))
			r.must(r.c.FreeStream(s))
		})
	}
}

// TestShapes: what cannot be is refused with a reason.
func TestShapes(t *testing.T) {
	for _, s := range []Shape{
		{Dim: 96, KVHeads: 1, Group: 1, Batch: 1, Blocks: 1, Tokens: 1},
		{Dim: 64, KVHeads: 1, Group: 9, Batch: 1, Blocks: 1, Tokens: 1},
		{Dim: 64, KVHeads: 1, Group: 1, Batch: 1, Blocks: 1, Tokens: 1 << 24},
		{Dim: 64, KVHeads: 1 << 16, Group: 1, Batch: 1, Blocks: 1 << 16, Tokens: 1},
	} {
		if _, err := New(nil, nil, s); err == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
}
