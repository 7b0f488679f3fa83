package attention

import (
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
	"pgregory.net/rapid"
)

// decoder decodes one synthetic head token by token as a sequence does, its memory with it.
type decoder struct {
	p     *Pipeline
	x     *Exec
	head  Head
	names []string
	mem   Memory
	q     []float32
}

const decoderGroup, decoderDim = 2, 32

func newDecoder(p *Pipeline, q []float32) *decoder {
	d := &decoder{p: p, x: NewExec(Portable{}, Serial{}), head: Head{Dim: decoderDim}, q: q}
	for _, pl := range p.Planes() {
		d.names = append(d.names, pl.Name())
		d.head.PlaneSize = append(d.head.PlaneSize, (pl.BlockBytes(decoderDim)+63)/64*64)
		d.head.Planes = append(d.head.Planes, nil)
	}
	return d
}

// fill sets the sequence to the first n of the given tokens, planes made anew.
func (d *decoder) fill(k, v []uint16, n int) {
	h := &d.head
	blocks := BlocksOf(n)
	h.N, h.Table = n, h.Table[:0]
	h.K, h.V = make([]uint16, blocks*BlockTokens*decoderDim), make([]uint16, blocks*BlockTokens*decoderDim)
	copy(h.K, k[:n*decoderDim])
	copy(h.V, v[:n*decoderDim])
	for b := range blocks {
		h.Table = append(h.Table, int32(b))
	}
	for i, pl := range d.p.Planes() {
		h.Planes[i] = aligned(blocks * h.PlaneSize[i])
		for b := range blocks {
			pl.Append(h.Plane(i, b), Rows{K: h.Keys(b), V: h.Values(b), Dim: decoderDim, To: min(BlockTokens, n-b*BlockTokens)})
		}
	}
}

func (d *decoder) step(t failer) []float32 {
	d.mem.Prepare(d.p, Shape{Layers: 1, KVHeads: 1, Group: decoderGroup, Dim: decoderDim})
	out := make([]float32, decoderGroup*decoderDim)
	runAll(t, d.x, []Call{{Pipeline: d.p, Head: d.head, Planes: d.names, Group: decoderGroup, Q: d.q, Out: out, Memory: &d.mem}})
	return out
}

// other is tokens whose first n are those of k, and whose others differ.
func other(k []uint16, n int) []uint16 {
	o := append([]uint16(nil), k...)
	for i := n * decoderDim; i < len(o); i++ {
		o[i] = tensor.F32ToF16(-tensor.F16ToF32(o[i]))
	}
	return o
}

// Forks that part before anything was learnt learn once for all, of the tokens that they share, and answer as sequences of their own do; so do selectors that remember the same.
// A fork that is cut, or has grown before its first step, learns for itself.
func TestForksLearnTogether(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(23, 23)), 700, decoderDim)
	q := x.queries(rand.New(rand.NewPCG(24, 24)), decoderGroup)
	const at = 600
	for _, same := range [][]string{{"magicpig:bits=3,tables=20", "magicpig:bits=3,tables=20"}, {"pqcache:parts=4,bits=4", "pqcache:parts=4,bits=4,keep=0.5"}} {
		t.Run(same[0], func(t *testing.T) {
			var base Memory
			var learnt []any
			for i, n := range []int{at + 1, at + 1, at + 9, at / 2} {
				p := MustNew(same[i%2] + "+when:dense-layers=0,min-context=0")
				fork, alone := newDecoder(p, q), newDecoder(p, q)
				fork.mem = base.Fork(at)
				fork.mem.Truncate(min(n-1, at))
				for k := i * 20; k < i*20+20; k++ { // what follows the shared tokens differs
					x.kh[at*decoderDim+k] ^= 0x8000
				}
				fork.fill(x.kh, x.vh, n)
				alone.fill(x.kh, x.vh, n)
				requireSame(t, "fork", fork.step(t), alone.step(t))
				learnt = append(learnt, paramsOf(fork.mem.kept[0].state))
			}
			if learnt[0] != learnt[1] {
				t.Error("two forks learnt each for itself")
			}
			if learnt[2] == learnt[0] || learnt[3] == learnt[0] {
				t.Error("a fork that stands elsewhere did not learn for itself")
			}
		})
	}
}

// paramsOf is what a state has learnt of its first head.
func paramsOf(s State) any {
	if pig, ok := s.(pigState); ok {
		return pig.heads[0].params
	}
	return s.(*learnt[pqBooks, uint8]).heads[0].params
}

// What is learnt at a sequence's first step stays when it forks, and when tokens after that step are dropped: whatever way a sequence came to its tokens, it answers as a
// sequence does that took its first step at the same length and went straight there.
func TestForkAndTruncate(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(21, 21)), 900, decoderDim)
	q := x.queries(rand.New(rand.NewPCG(22, 22)), decoderGroup)
	for _, spec := range []string{"hip:k=64,block=4,sink=3,window=20", "double-p", "magicpig:bits=3,tables=20", "pqcache:parts=4,bits=4"} {
		p := MustNew(spec + "+when:dense-layers=0,min-context=0")
		t.Run(spec, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				first := rapid.IntRange(1, 600).Draw(t, "first step")
				more := rapid.IntRange(first, 899).Draw(t, "grown to")
				cut := rapid.IntRange(1, more).Draw(t, "cut to")
				end := rapid.IntRange(cut, 900).Draw(t, "regrown to")
				kb, vb := other(x.kh, cut), other(x.vh, cut)

				d := newDecoder(p, q)
				d.fill(x.kh, x.vh, first)
				d.step(t)
				d.fill(x.kh, x.vh, more)
				grown := d.step(t)

				fork := newDecoder(p, q)
				fork.mem = d.mem.Fork(d.head.N)
				fork.mem.Truncate(cut)
				fork.fill(kb, vb, end)
				got := fork.step(t)

				d.fill(x.kh, x.vh, more)
				requireSame(t, "the original after its fork diverged", d.step(t), grown)

				fresh := newDecoder(p, q)
				if cut >= first { // else all that was learnt is dropped, and learnt anew at the end
					fresh.fill(x.kh, x.vh, first)
					fresh.step(t)
				}
				fresh.fill(kb, vb, end)
				requireSame(t, "fork", got, fresh.step(t))
			})
		})
	}
}
