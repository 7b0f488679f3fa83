package cpu

import (
	"fmt"
	"math"
	"time"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// How the crossover is measured: both kinds of attention at two lengths, whose times make two lines.
const (
	crossShort, crossLong = 1024, 4096
	crossRounds           = 7                     // the fastest of so many counts: whatever else the machine does only slows a round down
	crossBudget           = 15 * time.Millisecond // of the rounds at one length, for many wide heads
	crossGain             = 0.9                   // sparse attention must need at most this share of dense attention's time: synthetic keys come from caches
	crossDeviation        = 3.3                   // of the logits: nine tenths of the mass then lie on 2 % of the tokens, as they do in real text at some thousands
	crossLikeness         = 0.8                   // of the queries of a group
)

// NeverSparse is a min-context that no text reaches, and the largest that a spec can name.
const NeverSparse = 1 << 30

// Crossover is the number of tokens from which the pipeline attends faster than dense attention on this device, for a model of the given shape: attention.DefaultMinContext at
// least, rounded up to a power of two or one and a half of one, so that a machine finds the same number again; NeverSparse if there is none. It takes some tens of
// milliseconds, on synthetic keys and queries of about the sparsity of real ones. Not while a step runs. Called by the engine for specs with min-context=auto.
func (d *Device) Crossover(p *attention.Pipeline, s attention.Shape) (int, error) {
	spec := p.Spec()
	if spec.Dense() || spec.DenseLayers >= s.Layers {
		return NeverSparse, nil
	}
	spec.MinContext = 0
	sparse, err := attention.New(spec)
	if err != nil {
		return 0, err
	}
	r, err := d.newCrossRig(sparse, s)
	if err != nil {
		return 0, fmt.Errorf("cpu: measuring %s: %w", spec, err)
	}
	defer r.cache.Close()  //nolint:errcheck // nothing depends on it any more
	var took [2][2]float64 // by length, dense and sparse, in seconds
	for i, n := range []int{crossShort, crossLong} {
		if took[i], err = r.race(n); err != nil {
			return 0, fmt.Errorf("cpu: measuring %s: %w", spec, err)
		}
	}
	return crossing(took), nil
}

// crossing is where the line of sparse times comes below crossGain of the line of dense times.
func crossing(took [2][2]float64) int {
	const span = crossLong - crossShort
	dense, sparse := (took[1][0]-took[0][0])/span, (took[1][1]-took[0][1])/span // a token
	gain := crossGain*dense - sparse
	lead := crossGain*took[0][0] - took[0][1] // at the short length
	if gain <= 0 && lead < 0 {
		return NeverSparse
	}
	at := crossShort - lead/gain
	if gain <= 0 || at < attention.DefaultMinContext {
		at = attention.DefaultMinContext
	}
	for n := attention.DefaultMinContext; n <= 1<<20; n *= 2 {
		switch {
		case at <= float64(n):
			return n
		case at <= 1.5*float64(n):
			return n * 3 / 2
		}
	}
	return NeverSparse
}

// crossRig is a synthetic text of crossLong tokens.
type crossRig struct {
	d      *Device
	cache  *kvcache.Host
	seq    *kvcache.Sequence
	pipes  [2]*attention.Pipeline
	shape  attention.Shape
	heads  int
	q, out []float32
}

func (d *Device) newCrossRig(p *attention.Pipeline, s attention.Shape) (*crossRig, error) {
	r := &crossRig{d: d, shape: s, pipes: [2]*attention.Pipeline{attention.MustNew("dense"), p}, heads: min(s.KVHeads, max(2, d.Threads()))}
	c, err := d.Cache(kvcache.Shape{Layers: 1, KVHeads: r.heads, Dim: s.Dim}, crossLong/attention.BlockTokens, p.Planes())
	if err != nil {
		return nil, err
	}
	r.cache = c.(*kvcache.Host)
	r.seq = r.cache.NewSequence()
	if err := r.seq.Reserve(crossLong); err != nil {
		r.cache.Close() //nolint:errcheck // the other error tells more
		return nil, err
	}
	// Keys and values of unit deviation, queries as long as the logits' deviation. One row serves as key and as value.
	source := noise(1)
	rows := make([]float32, attention.BlockTokens*s.Dim)
	for h := range r.heads {
		for at := 0; at < crossLong; at += attention.BlockTokens {
			source.fill(rows)
			r.cache.Write(r.seq, 0, h, at, attention.BlockTokens, rows, rows, s.Dim)
		}
	}
	r.seq.Advance(crossLong)
	r.q, r.out = make([]float32, r.heads*s.Group*s.Dim), make([]float32, s.Group*r.heads*s.Dim)
	source.fill(r.q)
	for h := range r.heads {
		first := r.q[h*s.Group*s.Dim:][:s.Dim]
		for g := range s.Group {
			q, sum := r.q[(h*s.Group+g)*s.Dim:][:s.Dim], 0.0
			for c := range q {
				if g > 0 {
					q[c] = crossLikeness*first[c] + (1-crossLikeness)*q[c]
				}
				sum += float64(q[c]) * float64(q[c])
			}
			d.kern.Scale(q, float32(crossDeviation/math.Sqrt(sum)))
		}
	}
	return r, nil
}

// race is the least seconds of dense and of sparse attention over n tokens, which take turns.
func (r *crossRig) race(n int) (best [2]float64, err error) {
	start := time.Now()
	for round := 0; round <= crossRounds && (round < 3 || time.Since(start) < crossBudget); round++ {
		for i, p := range r.pipes {
			t, err := r.attend(p, n)
			if err != nil {
				return best, err
			}
			if round == 1 || round > 1 && t < best[i] { // the first makes room
				best[i] = t
			}
		}
	}
	return best, nil
}

func (r *crossRig) attend(p *attention.Pipeline, n int) (seconds float64, err error) {
	start, size := time.Now(), r.shape.Group*r.shape.Dim
	r.seq.Memory.Prepare(p, r.shape)
	for h := range r.heads {
		err := r.d.exec.Add(attention.Call{Pipeline: p, Layer: p.Spec().DenseLayers, KVHead: h, Head: r.cache.Head(r.seq, 0, h, n), Planes: r.cache.PlaneNames(), Group: r.shape.Group,
			Q: r.q[h*size:][:size], Out: r.out[h*size:][:size], Memory: &r.seq.Memory})
		if err != nil {
			return 0, err
		}
	}
	r.d.exec.Run()
	return time.Since(start).Seconds(), nil
}

// noise is a generator of numbers of mean 0 and deviation 1: plain, since nothing but their spread matters, and fast.
type noise uint64

func (s *noise) fill(x []float32) {
	for i := range x {
		*s = *s*6364136223846793005 + 1442695040888963407
		x[i] = (float32(*s>>40)/(1<<24) - 0.5) * 3.4641016 // uniform over ±√3
	}
}
