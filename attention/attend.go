package attention

import (
	"math"
	"sync/atomic"
)

// How exact attention is cut up. A slice of attendSlice rows shares one softmax maximum; a part of attendPart rows is the unit that workers share and that is merged at
// the end. Both are fixed and counted from the first row, so that an answer depends on neither the number of workers nor the other sequences of a batch, and so
// that survivors which happen to be every token meet the very arithmetic of dense attention.
const (
	attendSlice = BlockTokens
	attendPart  = 2 * attendSlice
)

// consecutive lists the rows of a block in order: what dense attention passes where sparse attention passes survivors.
var consecutive = func() (at [BlockTokens]int32) {
	for i := range at {
		at[i] = int32(i)
	}
	return
}()

// part is the running softmax of one part for each query head: maximum, sum of exponentials, and (in Work.acc) the weighted sum of values.
type part struct{ top, sum float32 }

// raise makes top the maximum that the part's sums count from.
func (p *part) raise(k Kernels, top float32, acc []float32) {
	if p.sum > 0 {
		shrink := float32(math.Exp(float64(p.top - top)))
		p.sum *= shrink
		k.Scale(acc, shrink)
	}
	p.top = top
}

// attendParts is how many parts n rows make.
func attendParts(n int) int { return (n + attendPart - 1) / attendPart }

// rowsInSight is the number of rows that the exact stage reads: survivors, or for a dense step every token from the first in sight, counted from the start of that token's block.
func (w *Work) rowsInSight(dense bool) int {
	if dense {
		return w.Head.N - w.call.First/BlockTokens*BlockTokens
	}
	return len(w.rows)
}

// partCount is the number of parts of the attend stage.
func (w *Work) partCount(dense bool) int {
	n := attendParts(w.rowsInSight(dense))
	if !dense {
		body, _ := w.bodyParts()
		n += body
	}
	return n
}

// room makes space for so many parts.
func (w *Work) room(parts int) {
	w.parts = grow(w.parts, parts*w.Group)
	w.acc = grow(w.acc, parts*w.Group*w.Head.Dim)
}

// slot is scratch of exact attention that a task has while it runs: one a worker, so that it stays in that worker's caches.
type slot struct {
	busy  atomic.Bool
	exact []float32
	codes []byte
}

// logits is room for those of a slice.
func (s *slot) logits(group int) []float32 {
	s.exact = grow(s.exact, group*attendSlice)
	return s.exact
}

// tmp is scratch of AccumulateCodes.
func (s *slot) tmp(group int) []byte {
	s.codes = grow(s.codes, CodesTmp(group))
	return s.codes
}

// attend runs exact attention over part i, or sums a part of the body.
func (w *Work) attend(i int, dense bool, s *slot) {
	if exact := attendParts(w.rowsInSight(dense)); i >= exact {
		w.attendBody(i-exact, i, s)
		return
	}
	gd := w.Group * w.Head.Dim
	acc, parts := w.acc[i*gd:][:gd], w.parts[i*w.Group:][:w.Group]
	clear(acc)
	for g := range parts {
		parts[g] = part{top: negInf}
	}
	n := w.rowsInSight(dense)
	if !dense {
		w.fetchRows(i, n)
	}
	logits := s.logits(w.Group)
	for lo := i * attendPart; lo < min(n, (i+1)*attendPart); lo += attendSlice {
		count := min(attendSlice, n-lo)
		if dense {
			b := w.call.First/BlockTokens + lo/BlockTokens
			v := w.Head.Values(b)
			var next []uint16
			if lo+attendSlice < n {
				next = w.Head.Keys(b + 1)
			}
			w.slice(logits, acc, parts, w.Head.Keys(b), v, next, consecutive[:count], -1, max(0, w.call.First-b*BlockTokens))
			continue
		}
		w.slice(logits, acc, parts, w.Head.K, w.Head.V, nil, w.rows[lo:lo+count], lo, 0)
	}
}

// fetchAhead is how many rows of the body are asked for before any of it is summed: it asks for the others itself.
const fetchAhead = 128

// fetchSums is how many blocks' sums of values are asked for so: what leaves room in the second-level cache.
const fetchSums = 512

// fetchRows asks for the rows of part i of n survivors, which lie anywhere, and with the first part for where the body begins and for the sums of values.
func (w *Work) fetchRows(i, n int) {
	at := w.rows[i*attendPart : min(n, (i+1)*attendPart)]
	w.Kern.FetchRows(w.Head.K, w.Head.Dim, at)
	w.Kern.FetchRows(w.Head.V, w.Head.Dim, at)
	if i > 0 {
		return
	}
	if body := w.bodyEnds[1]; body > 0 {
		w.Kern.FetchRows(as[uint16](w.Head.Planes[w.bind.values]), w.Head.Dim/2, w.bodyRows[:min(body, fetchAhead)])
	}
	if w.call.Pipeline.tail {
		w.Kern.FetchRows(as[uint16](w.Head.Planes[w.bind.sum]), 2*w.Head.Dim, w.Head.Table[:min(w.Head.Blocks(), fetchSums)])
	}
}

// slice adds the rows at to the running softmax of each head, skipping the first skip rows. They are survivors from the lo-th on, or, where lo is negative, everyone's. Of next
// the same rows are read after them.
func (w *Work) slice(logits, acc []float32, parts []part, k, v, next []uint16, at []int32, lo, skip int) {
	dim := w.Head.Dim
	at = at[skip:]
	n := len(at)
	w.Kern.Dot(logits, attendSlice, w.Q, w.Group, dim, k, at, v)
	for g := range parts {
		l := logits[g*attendSlice:][:n]
		if lo >= 0 {
			w.weigh(l, g, lo)
		}
		p := &parts[g]
		if top := w.Kern.Max(l); top > p.top {
			p.raise(w.Kern, top, acc[g*dim:][:dim])
		}
		if p.top == negInf {
			clear(l) // none of these rows is this head's
			continue
		}
		p.sum += w.Kern.Exp(l, p.top)
	}
	w.Kern.Accumulate(acc, logits, attendSlice, w.Group, dim, v, at, next)
}

// weigh adds the odds to the exact logits l of query head g, of survivors from the lo-th on, and removes those that are not its own.
func (w *Work) weigh(l []float32, g, lo int) {
	if len(w.bias) > 0 {
		for i, x := range w.bias[g*len(w.rows)+lo:][:len(l)] {
			l[i] += x
		}
	}
	if len(w.own) > 0 {
		for i, who := range w.own[lo:][:len(l)] {
			if who>>g&1 == 0 {
				l[i] = negInf
			}
		}
	}
}

// merge joins n parts and, where far, the summaries of query head g into out and returns the logarithm of the sum of exponentials.
func (w *Work) merge(out []float32, g, n int, far bool) (lse float32) {
	dim := w.Head.Dim
	top, sum := negInf, float32(0)
	for i := range n {
		top = max(top, w.parts[i*w.Group+g].top)
	}
	if far {
		top = max(top, w.far[g].top)
	}
	clear(out)
	add := func(p part, acc []float32) {
		if p.top == negInf {
			return
		}
		f := float32(math.Exp(float64(p.top - top)))
		sum += f * p.sum
		w.Kern.AddScaled(out, acc, f)
	}
	for i := range n {
		add(w.parts[i*w.Group+g], w.acc[(i*w.Group+g)*dim:][:dim])
	}
	if far {
		add(w.far[g], w.farAcc[g*dim:][:dim])
	}
	inv := 1 / sum
	for c := range out {
		out[c] *= inv
	}
	return top + float32(math.Log(float64(sum)))
}
