package eval

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The bootstrap of n zeros and ones of which k are ones is a binomial distribution, so its interval is known: its quantiles, divided by n.
func TestBootstrapBinomial(t *testing.T) {
	for _, x := range []struct{ n, k int }{{10, 5}, {20, 3}, {50, 49}, {100, 30}, {7, 0}, {9, 9}} {
		values := make([]float64, x.n)
		for i := range x.k {
			values[i] = 1
		}
		p, chance := float64(x.k)/float64(x.n), 0.0
		low, high := -1, -1
		for i := 0; i <= x.n && high < 0; i++ {
			chance += binomial(x.n, i, p)
			if low < 0 && chance > 0.025 {
				low = i
			}
			if chance >= 0.975 {
				high = i
			}
		}
		m := Bootstrap(values, 1)
		// A quantile that falls on the edge of a step may be either of its sides.
		slack := 1.001 / float64(x.n)
		if m.N != x.n || math.Abs(m.Mean-p) > 1e-12 || math.Abs(m.CI95[0]-float64(low)/float64(x.n)) > slack || math.Abs(m.CI95[1]-float64(high)/float64(x.n)) > slack {
			t.Errorf("%d of %d: %v %v, want %d/%d to %d/%d", x.k, x.n, m.Mean, *m.CI95, low, x.n, high, x.n)
		}
	}
}

func binomial(n, k int, p float64) float64 {
	if p == 0 || p == 1 {
		if k == int(p)*n {
			return 1
		}
		return 0
	}
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return math.Exp(a - b - c + float64(k)*math.Log(p) + float64(n-k)*math.Log(1-p))
}

// Of many values the interval is the normal one: 1.96 standard errors to each side.
func TestBootstrapNormal(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	values := make([]float64, 500)
	var sum, squares float64
	for i := range values {
		values[i] = 5 + 2*rng.NormFloat64()
		sum += values[i]
		squares += values[i] * values[i]
	}
	n := float64(len(values))
	se := math.Sqrt((squares/n - sum/n*sum/n) / n)
	m := Bootstrap(values, 7)
	for side, end := range m.CI95 {
		if want := m.Mean + (2*float64(side)-1)*1.96*se; math.Abs(end-want) > 0.1*se {
			t.Errorf("end %d: %g, want %g with a standard error of %g", side, end, want, se)
		}
	}
	turned := slices.Clone(values)
	slices.Reverse(turned)
	if o := Bootstrap(turned, 7); o.Mean != m.Mean || *o.CI95 != *m.CI95 {
		t.Errorf("in another order %+v, else %+v", o, m)
	}
	if o := Bootstrap(values, 8); *o.CI95 == *m.CI95 {
		t.Error("another seed must draw other samples")
	}
}

func TestBootstrapFew(t *testing.T) {
	if m := Bootstrap(nil, 1); m != (Mean{}) {
		t.Errorf("%+v", m)
	}
	if m := Bootstrap([]float64{0.5}, 1); m.N != 1 || m.Mean != 0.5 || m.CI95 != nil {
		t.Errorf("a single value has no interval, but %+v", m)
	}
}
