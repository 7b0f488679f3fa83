package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/device/cpu/kernel"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// Attention's stages over this device's kernels, at every level: top-p of exact logits holds the mass that it promises and is as small as over plain Go; what keeps
// everything is dense, bit for bit; a step is the same bits alone, in a batch and on several workers.
func TestStagesOverKernels(t *testing.T) {
	const everywhere = "+when:dense-layers=0,min-context=0"
	rng := rand.New(rand.NewPCG(31, 31))
	for _, shape := range []struct{ group, dim int }{{1, 64}, {3, 32}, {7, 128}, {4, 80}} {
		var planes []attention.Plane
		specs := []string{"full+exact+top-p:0.9", "full+exact+top-p:0", "full+exact+top-p:0.999", "quest:keep=0.3+int4+top-p:0.8,tail=mean", "quest:page=32+page-range:bits=2+top-p:0.9,union",
			"full+page-range:bits=3+top-k:k=100", "full+int4+top-p:1", "full+page-range:bits=8+top-p:1",
			"quest:keep=0.5,reach=0.2,shared,middle+block-range+top-p:0.9,union,exact=0.3,tail=mean", "quest:keep=1,reach=0.35,shared,middle+block-range+top-p:1", "dense"}
		var pipes []*attention.Pipeline
		seen := map[string]bool{}
		for _, s := range specs {
			p := attention.MustNew(s + everywhere)
			pipes = append(pipes, p)
			for _, pl := range p.Planes() {
				if !seen[pl.Name()] {
					seen[pl.Name()] = true
					planes = append(planes, pl)
				}
			}
		}
		lengths := []int{1, 17, 700, 2100}
		if testing.Short() {
			lengths = []int{1, 17, 300, 530}
		}
		cache, err := kvcache.NewHost(kvcache.Shape{Layers: 1, KVHeads: 1, Dim: shape.dim}, 16, planes)
		if err != nil {
			t.Fatal(err)
		}
		var heads []attention.Head
		var queries [][]float32
		for _, n := range lengths {
			s := cache.NewSequence()
			if err := s.Reserve(n); err != nil {
				t.Fatal(err)
			}
			k, v := normal(rng, n*shape.dim, 1), normal(rng, n*shape.dim, 1)
			cache.Write(s, 0, 0, 0, n, k, v, shape.dim)
			s.Advance(n)
			q := normal(rng, shape.group*shape.dim, 1/math.Sqrt(float64(shape.dim)))
			for g := range shape.group { // each head looks for one of the tokens
				at := rng.IntN(n) * shape.dim
				for c := range shape.dim {
					q[g*shape.dim+c] += 0.8 * k[at+c] / float32(math.Sqrt(float64(shape.dim)))
				}
			}
			heads, queries = append(heads, cache.Head(s, 0, 0, n)), append(queries, q)
		}
		run := func(k attention.Kernels, r attention.Runner, p *attention.Pipeline, which ...int) (out [][]float32, stats []attention.Stats) {
			x := attention.NewExec(k, r)
			out, stats = make([][]float32, len(lengths)), make([]attention.Stats, len(lengths))
			for _, i := range which {
				out[i], stats[i].Measure = make([]float32, shape.group*shape.dim), true
				if err := x.Add(attention.Call{Pipeline: p, Head: heads[i], Planes: cache.PlaneNames(), Group: shape.group, Q: queries[i], Out: out[i], Stats: &stats[i]}); err != nil {
					t.Fatal(err)
				}
			}
			x.Run()
			return out, stats
		}
		workers := newPool(3, 1000)
		for _, level := range []isa.Level{isa.Portable, isa.AVX2, isa.AVX512} {
			if level > isa.Best() || testing.Short() && level != isa.Best() {
				continue
			}
			kern := kernel.For(level)
			dense, _ := run(kern, attention.Serial{}, attention.MustNew("dense"), 0, 1, 2, 3)
			for _, p := range pipes {
				name := fmt.Sprintf("%v, group %d dim %d, %s", level, shape.group, shape.dim, p.Spec())
				out, stats := run(kern, attention.Serial{}, p, 0, 1, 2, 3)
				_, portable := run(attention.Portable{}, attention.Serial{}, p, 0, 1, 2, 3)
				batch, _ := run(kern, workers, p, 3, 0, 2, 1)
				for i := range lengths {
					alone, _ := run(kern, attention.Serial{}, p, i)
					requireSame(t, name+": in a batch on several workers", batch[i], out[i])
					requireSame(t, name+": alone", alone[i], out[i])
					a := p.Spec().Prune.Args
					if p.Spec().Dense() || len(a) > 0 && a[0].Value == "1" {
						requireSame(t, name+": against dense", out[i], dense[i])
						continue
					}
					checkMass(t, fmt.Sprintf("%s, %d tokens", name, lengths[i]), p, &stats[i], &portable[i], shape.group)
				}
			}
		}
		workers.close()
		if err := cache.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkMass holds what each query head kept against what was promised, and against what plain Go keeps.
func checkMass(t *testing.T, name string, p *attention.Pipeline, got, want *attention.Stats, group int) {
	t.Helper()
	for g := range group {
		h, w := got.Layers[0].Heads[g], want.Layers[0].Heads[g]
		if h.B1 < 1 {
			t.Errorf("%s: head %d keeps nothing", name, g)
		}
		// Where estimates round differently, tokens near the threshold fall on either side.
		slack := int64(1)
		if p.Spec().Estimate.Name != "exact" {
			slack = 3 + w.B1/5
		}
		if d := h.B1 - w.B1; d > slack || -d > slack {
			t.Errorf("%s: head %d keeps %d tokens, plain Go %d", name, g, h.B1, w.B1)
		}
		if p.Spec().Estimate.Name != "exact" {
			continue
		}
		var mass float64
		if _, err := fmt.Sscan(p.Spec().Prune.Args[0].Value, &mass); err != nil {
			t.Fatal(err)
		}
		if h.Mass < mass-1e-5 {
			t.Errorf("%s: head %d keeps %.7f of the mass", name, g, h.Mass)
		}
	}
}

func normal(rng *rand.Rand, n int, deviation float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * deviation)
	}
	return x
}

func requireSame(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: output %d is %v, want the same bits as %v", what, i, got[i], want[i])
		}
	}
}
