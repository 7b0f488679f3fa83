package attention

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"
)

const adaptiveSpec = "quest:keep=0.5,reach=0.2,shared,middle,adapt=0.003+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:dense-layers=0,min-context=0"

// lists are the states of a decoder's KV heads.
func (d *decoder) lists() *adaptiveState { return d.mem.kept[0].state.(*adaptiveState) }

// A judge hears what the output would be without the late pages, and judging changes no output.
func TestLateChange(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(11, 5)), 1500, decoderDim)
	q := x.queries(rand.New(rand.NewPCG(12, 5)), decoderGroup)
	d := newDecoder(MustNew(adaptiveSpec), q)
	d.fill(x.kh, x.vh, x.n)
	out := append([]float32(nil), d.step(t)...)
	w := d.x.works[0]
	if !w.judged {
		t.Fatal("the first step of a sequence does not judge")
	}
	scales, values := as[float32](w.Head.Planes[w.bind.scales]), w.Head.Planes[w.bind.values]
	n, dim := len(w.Pages), w.Head.Dim
	var change, whole float64
	var lse [MaxGroup]float32
	again := make([]float32, dim)
	for g := range w.Group {
		lse[g] = w.merge(again, g, w.partCount(false), w.hasFar)
		share := math.Exp(float64(w.top[g] - lse[g]))
		acc, held := make([]float64, dim), 0.0
		for j := range w.Pages {
			if w.isLate(j) == 0 {
				continue
			}
			m := uint16(0)
			for h := range w.Group {
				m |= w.keep[h*n+j]
			}
			for ; m != 0; m &= m - 1 {
				i := bits.TrailingZeros16(m)
				weight, row := float64(w.Logits(g)[j*PageTokens+i])*share, int(w.slabPages[j])*PageTokens+i
				held += weight
				for c := range acc {
					acc[c] += weight * float64(scales[row]) * float64(int8(values[row*dim+c]))
				}
			}
		}
		var diff, norm float64
		for c, o := range out[g*dim:][:dim] {
			e := (acc[c] - held*float64(o)) / (1 - held)
			diff += e * e
			norm += float64(o) * float64(o)
		}
		change, whole = change+min(diff, norm), whole+norm
	}
	if got, want := w.lateChange(lse[:]), change/whole; !(math.Abs(got-want) <= 1e-4*want) || want == 0 {
		t.Errorf("the late pages change %v of the output, want %v", got, want)
	}
	plain := newDecoder(MustNew(adaptiveSpec), q)
	plain.fill(x.kh, x.vh, x.n)
	plain.mem.Prepare(plain.p, Shape{Layers: 1, KVHeads: 1, Group: decoderGroup, Dim: decoderDim})
	for i := range plain.lists().heads {
		plain.lists().heads[i].age = judgedEarly + judgedEvery // the next step does not judge
	}
	unjudged := plain.step(t)
	if plain.x.works[0].judged {
		t.Fatal("a step judges out of its turn")
	}
	for i, v := range unjudged {
		if math.Abs(float64(v-out[i])) > 1e-5*(1+math.Abs(float64(v))) {
			t.Fatalf("element %d is %v where pages are judged, %v where not", i, out[i], v)
		}
	}
}

// Lists become as short as they may where few pages hold everything, long where all hold something, and forks go their own way.
func TestAdaptive(t *testing.T) {
	const n = 6000
	rng := rand.New(rand.NewPCG(21, 5))
	x := newText(rng, n, decoderDim)
	sharp, flat := x.queries(rng, decoderGroup), make([]float32, decoderGroup*decoderDim)
	for g := range decoderGroup {
		for c := range decoderDim {
			sharp[g*decoderDim+c] = float32(3 * x.k[n-5][c] / math.Sqrt(decoderDim))
			flat[g*decoderDim+c] = float32(0.05 * rng.NormFloat64() / math.Sqrt(decoderDim))
		}
	}
	run := func(q []float32) *decoder {
		d := newDecoder(MustNew(adaptiveSpec), q)
		d.fill(x.kh, x.vh, n)
		for range 40 {
			d.step(t)
		}
		return d
	}
	at := func(d *decoder) float64 {
		for _, h := range d.lists().heads {
			if h.keep > 0 {
				return h.keep
			}
		}
		return 0
	}
	short, long := run(sharp), run(flat)
	if k := at(short); k != 0.25 {
		t.Errorf("a head that attends to one token lists %.3f of the context, want a quarter", k)
	}
	if k := at(long); k < 0.9 {
		t.Errorf("a head that attends to everything lists %.3f of the context, want nearly all", k)
	}
	fork := newDecoder(short.p, flat)
	fork.mem = short.mem.Fork(n)
	fork.fill(x.kh, x.vh, n)
	for range 60 {
		fork.step(t)
	}
	if a, b := at(short), at(fork); a != 0.25 || b < 0.5 {
		t.Errorf("lists of %.3f and of the fork of %.3f of the context, want a quarter and far more", a, b)
	}
}
