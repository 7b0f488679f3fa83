package tensor

// Scales of the k-quants and of IQ4 are fitted, not only read off the extremes: clipping the widest element a little often
// costs less than the coarser steps that it asks for. Each fit tries some scales around the obvious one, takes the codes
// that they give, solves for the scale that suits these codes best, and keeps the least error. Errors are weighted by the
// squares of the elements, because large weights matter more to a product.

// fitTries is how many scales are tried on each side of the obvious one, in steps of fitStep of a code.
const (
	fitTries = 10
	fitStep  = 0.1
)

// weightOf is the weight of an element's error; the constant part keeps small elements from counting nothing.
func weightOf(x, meanSquare float32) float32 { return x*x + meanSquare/2 }

func meanSquare(x []float32) (sum float32) {
	for _, v := range x {
		sum += v * v
	}
	return sum / float32(len(x))
}

// fitScale is the scale s for which s·value(code) is nearest to x, where code gives an element's nearest value at a given 1/s and
// reach is the value that the widest element should get.
func fitScale(x []float32, reach float32, nearest func(scaled float32) float32) float32 {
	top := widest(x)
	if top == 0 {
		return 0
	}
	best, bestGain, ms := top/reach, float32(0), meanSquare(x)
	for try := -fitTries; try <= fitTries; try++ {
		inv := (reach + float32(try)*fitStep*sign(reach)) / top
		var xv, vv float32
		for _, e := range x {
			v := nearest(inv * e)
			w := weightOf(e, ms)
			xv += w * e * v
			vv += w * v * v
		}
		// At the best scale xv/vv the error is Σwx² − xv²/vv.
		if vv > 0 && xv*xv > bestGain*vv {
			best, bestGain = xv/vv, xv*xv/vv
		}
	}
	return best
}

func sign(x float32) float32 {
	if x < 0 {
		return -1
	}
	return 1
}

// fitAffine is the scale and the offset, neither negative, for which scale·q − offset with q in 0..levels is nearest to x.
func fitAffine(x []float32, levels int) (scale, offset float32) {
	lo, hi := float32(0), float32(0) // 0 is within the range, because the offset cannot be negative
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	if lo == hi {
		return 0, 0
	}
	ms := meanSquare(x)
	scale, offset = (hi-lo)/float32(levels), -lo
	best := float32(-1)
	for try := -fitTries; try <= fitTries; try++ {
		inv := (float32(levels) + float32(try)*fitStep) / (hi - lo)
		var w, wx, wq, wxq, wqq float32
		for _, v := range x {
			q := float32(round(inv*(v-lo), 0, levels))
			u := weightOf(v, ms)
			w, wx, wq, wxq, wqq = w+u, wx+u*v, wq+u*q, wxq+u*v*q, wqq+u*q*q
		}
		det := w*wqq - wq*wq
		if det <= 0 {
			continue
		}
		s, o := (w*wxq-wx*wq)/det, (wq*wxq-wqq*wx)/det
		if o < 0 {
			s, o = wxq/wqq, 0
		}
		if s <= 0 {
			continue
		}
		var e float32
		for _, v := range x {
			q := float32(round((v+o)/s, 0, levels))
			d := s*q - o - v
			e += weightOf(v, ms) * d * d
		}
		if best < 0 || e < best {
			scale, offset, best = s, o, e
		}
	}
	return scale, offset
}
