package eval

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Mean is an average of N values with its 95 % confidence interval.
type Mean struct {
	N    int     `json:"n"`
	Mean float64 `json:"mean"`
	// CI95 is the percentile bootstrap interval, from low to high; left out for a single value, of which it would say nothing. Values that are all equal have an interval
	// of no width: how sure that is depends on N.
	CI95 *[2]float64 `json:"ci95,omitempty"`
}

// resamples of a bootstrap: the ends of an interval are then steady to about a twentieth of its width.
const resamples = 10_000

// Bootstrap is the mean of values, drawn again and again from the seed for its interval. Equal values in another order give an equal result.
func Bootstrap(values []float64, seed uint64) Mean {
	n := len(values)
	if n == 0 {
		return Mean{}
	}
	values = slices.Sorted(slices.Values(values))
	m := Mean{N: n, Mean: sumOf(values) / float64(n)}
	if n == 1 {
		return m
	}
	rng := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	means := make([]float64, resamples)
	for i := range means {
		var sum float64
		for range n {
			sum += values[rng.IntN(n)]
		}
		means[i] = sum / float64(n)
	}
	slices.Sort(means)
	at := int(math.Round(0.025 * (resamples - 1)))
	m.CI95 = &[2]float64{means[at], means[resamples-1-at]}
	return m
}

func sumOf(values []float64) (sum float64) {
	for _, v := range values {
		sum += v
	}
	return sum
}
