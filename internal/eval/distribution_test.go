package eval

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func TestDistribution(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rows, vocab := rapid.IntRange(1, 5).Draw(rt, "rows"), rapid.IntRange(2, 300).Draw(rt, "vocab")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		width := rapid.Float64Range(0.01, 30).Draw(rt, "width")
		p, q := make([]float32, rows*vocab), make([]float32, rows*vocab)
		for i := range p {
			p[i] = float32(rng.NormFloat64() * width)
			q[i] = p[i] + float32(rng.NormFloat64())
		}
		var d, same, other distribution
		d.set(p, rows, true)
		same.set(p, rows, false)
		other.set(q, rows, false)
		got, none := make([]float64, rows), make([]float64, rows)
		d.kl(got, &other)
		d.kl(none, &same)
		for i := range rows {
			// From the definition, in float64.
			lp, lq := logSoftmax(p[i*vocab:][:vocab]), logSoftmax(q[i*vocab:][:vocab])
			var want float64
			for j := range lp {
				want += math.Exp(lp[j]) * (lp[j] - lq[j])
			}
			if none[i] != 0 || math.Abs(got[i]-want) > 1e-5*(1+want) {
				rt.Fatalf("row %d: KL %g, want %g; of itself %g", i, got[i], want, none[i])
			}
			if id := int32(rng.IntN(vocab)); math.Abs(d.nll(i, id)+lp[id]) > 1e-9 {
				rt.Fatalf("row %d: nll %g, want %g", i, d.nll(i, id), -lp[id])
			}
		}
	})
}

func logSoftmax(x []float32) []float64 {
	var sum float64
	for _, v := range x {
		sum += math.Exp(float64(v)) // logits of the test are small enough
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v) - math.Log(sum)
	}
	return out
}
