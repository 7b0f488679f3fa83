package eval

import (
	"math"
	"runtime"
	"sync"
)

// distribution is the next-token distributions after some positions, from logits [rows][vocab].
type distribution struct {
	rows, vocab int
	logits      []float32
	prob        []float32 // of the dense one, against which others are compared; nil otherwise
	lse         []float64 // log Σ exp of each row
}

// set takes the distribution of logits, which are copied if they are to be compared against: keep then also keeps the probabilities.
func (d *distribution) set(logits []float32, rows int, keep bool) {
	d.rows, d.vocab, d.logits = rows, len(logits)/rows, logits
	d.lse = resize(d.lse, rows)
	if keep {
		d.prob = resize(d.prob, len(logits))
		d.logits = append([]float32(nil), logits...)
	}
	parallel(rows, func(i int) {
		x := d.row(i)
		d.lse[i] = logSumExp(x)
		if keep {
			for j, p := 0, d.prob[i*d.vocab:]; j < len(x); j++ {
				p[j] = float32(math.Exp(float64(x[j]) - d.lse[i]))
			}
		}
	})
}

func (d *distribution) row(i int) []float32 { return d.logits[i*d.vocab:][:d.vocab] }

// nll is the negative log-likelihood of token id in row i, in nats.
func (d *distribution) nll(i int, id int32) float64 { return d.lse[i] - float64(d.row(i)[id]) }

// kl sets out[i] to KL(d ‖ o) of row i, over the whole vocabulary, in nats. d must have been kept.
func (d *distribution) kl(out []float64, o *distribution) {
	parallel(d.rows, func(i int) {
		// log p − log q = (l − m) − (lse_l − lse_m), and the probabilities sum to 1
		p, l, m := d.prob[i*d.vocab:][:d.vocab], d.row(i), o.row(i)
		var sum float64
		for j, w := range p {
			sum += float64(w) * float64(l[j]-m[j])
		}
		out[i] = max(0, sum-(d.lse[i]-o.lse[i])) // below zero only by rounding
	})
}

// argmax is the first largest element.
func argmax(x []float32) (at int32) {
	for i, v := range x {
		if v > x[at] {
			at = int32(i)
		}
	}
	return at
}

func logSumExp(x []float32) float64 {
	top := float64(x[argmax(x)])
	var sum float64
	for _, v := range x {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum)
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// parallel calls f for every i in [0,n) on all processors.
func parallel(n int, f func(i int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}
