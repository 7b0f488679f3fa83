package attention

import "math"

// measure runs the dense pass of sparse calls whose statistics ask for it.
func (x *Exec) measure(works []*Work) {
	any := false
	for _, w := range works {
		if w.measured() {
			any = true
			n := w.partCount(true)
			w.room(n)
			x.split(w, n, 1)
		}
	}
	if !any {
		return
	}
	x.flush(stageDense)
	for _, w := range works {
		if w.measured() {
			x.split(w, 1, 1)
		}
	}
	x.flush(stageCompare)
}

func (w *Work) measured() bool { return w.sparse && w.call.Stats != nil && w.call.Stats.Measure }

// compare turns the dense pass into the true mass of what was read exactly and the output's error. Works that share statistics are compared concurrently, so it only notes them.
func (w *Work) compare(s *slot) {
	dim, n := w.Head.Dim, w.partCount(true)
	dense := w.Scratch(dim)
	var lse [MaxGroup]float32
	for g := range w.Group {
		lse[g] = w.merge(dense, g, n, false)
		var diff, norm float64
		for c, x := range w.call.Out[g*dim:][:dim] {
			d := float64(x - dense[c])
			diff += d * d
			norm += float64(dense[c]) * float64(dense[c])
		}
		w.count.diff[g] = math.Sqrt(diff / max(norm, math.SmallestNonzeroFloat64))
		w.count.mass[g] = 0
	}
	w.bias = w.bias[:0]                                        // masses are of the softmax itself, however tokens were drawn
	if read := w.count.union; w.call.Pipeline.spec.Exact > 0 { // the body's mass counts too
		w.collect(w.attendsUnion(), w.keep)
		w.count.union = read
	}
	for lo := 0; lo < len(w.rows); lo += attendSlice {
		at := w.rows[lo:min(lo+attendSlice, len(w.rows))]
		logits := s.logits(w.Group)
		w.Kern.Dot(logits, attendSlice, w.Q, w.Group, dim, w.Head.K, at, nil)
		for g := range w.Group {
			l := logits[g*attendSlice:][:len(at)]
			w.weigh(l, g, lo)
			w.count.mass[g] += float64(w.Kern.Exp(l, lse[g]))
		}
	}
}
