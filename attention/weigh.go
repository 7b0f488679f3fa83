package attention

// Weights are the exponentials of estimated logits, each head's up to a factor of its own. The estimate stage leaves them in the logits' place, part by part while those are in the
// cache, so that nobody waits for the largest logit: they count from one that is known before.

// refer chooses what the weights of each query head count from: its largest exact logit in the newest page, which is always a candidate. Any number will do from which the others
// are within the range of a float's exponent.
func (w *Work) refer() {
	last := len(w.Pages) - 1
	w.top, w.total = grow(w.top, w.Group), grow(w.total, w.Group)
	w.sums = grow(w.sums, (last/estimatePart+1)*w.Group)
	w.exactPage(last)
	tokens := w.Head.N - int(w.Pages[last])*PageTokens
	for g := range w.Group {
		w.top[g] = orZero(w.Kern.Max(w.Logits(g)[last*PageTokens:][:tokens]))
	}
}

// orZero is x, or zero in place of what is no finite number.
func orZero(x float32) float32 {
	if x-x != 0 {
		return 0
	}
	return x
}

// weighPart makes weights of the logits of candidate pages [lo,hi).
func (w *Work) weighPart(lo, hi int) {
	for g := range w.Group {
		w.sums[lo/estimatePart*w.Group+g] = w.Kern.Weigh(w.Logits(g)[lo*PageTokens:hi*PageTokens], w.top[g])
	}
}

// sumWeights joins the sums of the parts. Where weights are beyond a float's range, or damaged, all are made once more, from the largest logit.
func (w *Work) sumWeights() {
	good := true
	for g := range w.Group {
		w.total[g] = 0
		for i := g; i < len(w.sums); i += w.Group {
			w.total[g] += w.sums[i]
		}
		good = good && w.total[g] > 0 && w.total[g] < 1e37
	}
	if good {
		return
	}
	n := len(w.Pages)
	for lo := 0; lo < n; lo += estimatePart {
		w.estimateLogits(lo, min(lo+estimatePart, n))
	}
	for g := range w.Group {
		logits := w.Logits(g)
		for i, x := range logits {
			if x != x {
				logits[i] = negInf
			}
		}
		w.top[g] = orZero(w.Kern.Max(logits))
		w.total[g] = w.Kern.Weigh(logits, w.top[g])
	}
}
