package attention

import "math"

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

// attendParts is how many parts n rows make.
func attendParts(n int) int { return (n + attendPart - 1) / attendPart }

// rowsInSight is the number of rows that the exact stage reads: survivors, or for a dense step every token from the first in sight, counted from the start of that token's block.
func (w *Work) rowsInSight(dense bool) int {
	if dense {
		return w.Head.N - w.call.First/BlockTokens*BlockTokens
	}
	return len(w.rows)
}

// room makes space for the parts of n rows.
func (w *Work) room(n int) {
	parts := attendParts(n)
	w.parts = grow(w.parts, parts*w.Group)
	w.acc = grow(w.acc, parts*w.Group*w.Head.Dim)
	w.exact = grow(w.exact, parts*w.Group*attendSlice)
}

// attend runs exact attention over part i.
func (w *Work) attend(i int, dense bool) {
	gd := w.Group * w.Head.Dim
	acc, parts := w.acc[i*gd:][:gd], w.parts[i*w.Group:][:w.Group]
	clear(acc)
	for g := range parts {
		parts[g] = part{top: negInf}
	}
	n := w.rowsInSight(dense)
	logits := w.exact[i*attendSlice*w.Group:][:attendSlice*w.Group]
	for lo := i * attendPart; lo < min(n, (i+1)*attendPart); lo += attendSlice {
		count := min(attendSlice, n-lo)
		if dense {
			b := w.call.First/BlockTokens + lo/BlockTokens
			w.slice(logits, acc, parts, w.Head.Keys(b), w.Head.Values(b), consecutive[:count], nil, max(0, w.call.First-b*BlockTokens))
			continue
		}
		var own []uint32
		if len(w.own) > 0 {
			own = w.own[lo : lo+count]
		}
		w.slice(logits, acc, parts, w.Head.K, w.Head.V, w.rows[lo:lo+count], own, 0)
	}
}

// slice adds the rows at to the running softmax of each head, skipping the first skip rows.
func (w *Work) slice(logits, acc []float32, parts []part, k, v []uint16, at []int32, own []uint32, skip int) {
	dim := w.Head.Dim
	at = at[skip:]
	n := len(at)
	w.Kern.Dot(logits, attendSlice, w.Q, w.Group, dim, k, at)
	for g := range parts {
		l := logits[g*attendSlice:][:n]
		for i, who := range own {
			if who>>g&1 == 0 {
				l[i] = negInf
			}
		}
		p := &parts[g]
		if top := w.Kern.Max(l); top > p.top {
			if p.sum > 0 {
				shrink := float32(math.Exp(float64(p.top - top)))
				p.sum *= shrink
				for c := range acc[g*dim:][:dim] {
					acc[g*dim+c] *= shrink
				}
			}
			p.top = top
		}
		if p.top == negInf {
			clear(l) // none of these rows is this head's
			continue
		}
		p.sum += w.Kern.Exp(l, p.top)
	}
	w.Kern.Accumulate(acc, logits, attendSlice, w.Group, dim, v, at)
}

// merge joins the parts of query head g into out and returns the logarithm of the sum of exponentials over all rows.
func (w *Work) merge(out []float32, g, n int) (lse float32) {
	dim := w.Head.Dim
	top, sum := negInf, float32(0)
	for i := range n {
		top = max(top, w.parts[i*w.Group+g].top)
	}
	clear(out)
	for i := range n {
		p := w.parts[i*w.Group+g]
		if p.sum == 0 {
			continue
		}
		f := float32(math.Exp(float64(p.top - top)))
		sum += f * p.sum
		for c, x := range w.acc[(i*w.Group+g)*dim:][:dim] {
			out[c] += f * x
		}
	}
	inv := 1 / sum
	for c := range out {
		out[c] *= inv
	}
	return top + float32(math.Log(float64(sum)))
}
