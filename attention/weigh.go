package attention

import "math"

// Weights are the exponentials of estimated logits, each head's up to a factor of its own. The estimate stage leaves them in the logits' place, part by part while those are in the
// cache, so that nobody waits for the largest logit: they count from one that is known before. Where the estimator makes weights itself, it notes on the way which of them a threshold search may look at.

// weigher is an Estimator that makes weights where it makes logits. It is asked only where every token of the candidate pages is a candidate.
type weigher interface {
	estimateWeights(w *Work, lo, hi int, weigh *Weighing)
}

// refer chooses what the weights of each query head count from: its largest exact logit in the newest page, which is always a candidate. Any number will do from which the others
// are within the range of a float's exponent. It also says from which weight on they are noted: what a search will want, if the candidates held no more than the newest page and the first token.
func (w *Work) refer() {
	p, n := w.call.Pipeline, len(w.Pages)
	parts, last := (n+estimatePart-1)/estimatePart, n-1
	w.top, w.total, w.weighings = grow(w.top, w.Group), grow(w.total, w.Group), grow(w.weighings, parts)
	w.sums, w.least = grow(w.sums, parts*w.Group), grow(w.least, w.Group)
	clear(w.sums)
	cutter, _ := p.prun.(cutter)
	w.fused = cutter != nil && len(w.odds) == 0
	if _, ok := p.est.(weigher); !ok {
		w.fused = false
	}
	for _, b0 := range w.count.b0 {
		w.fused = w.fused && b0 == w.everyToken()
	}
	w.near = w.near[:0]
	if w.fused {
		w.near, w.likely = grow(w.near, w.Group), grow(w.likely, w.Group*n)
	}
	for i := range w.weighings {
		w.weighings[i] = Weighing{Ref: w.top, Least: w.least, Sums: w.sums[i*w.Group:][:w.Group]}
		if w.fused {
			w.weighings[i].Lanes, w.weighings[i].LanesLD = w.likely[i*estimatePart:], n
		}
	}
	w.exact(last, n)
	sink := w.fused && w.Pages[0] == 0 && last > 0
	if sink {
		w.exactRows(0, 0, 1)
	}
	tokens := w.Head.N - int(w.Pages[last])*PageTokens
	for g := range w.Group {
		newest := w.Logits(g)[last*PageTokens:][:tokens]
		w.top[g] = orZero(w.Kern.Max(newest))
		if !w.fused {
			continue
		}
		mass := w.Kern.Weigh(newest, w.top[g])
		if sink {
			mass += w.Kern.Weigh(w.Logits(g)[:1], w.top[g])
		}
		w.near[g], w.least[g] = mass, max(cutter.begin(w, g)*mass, math.SmallestNonzeroFloat32)
	}
}

// everyToken is the number of tokens in the candidate pages.
func (w *Work) everyToken() int {
	n := len(w.Pages)
	return min(n*PageTokens, w.Head.N-int(w.Pages[n-1]-int32(n-1))*PageTokens)
}

// orZero is x, or zero in place of what is no finite number.
func orZero(x float32) float32 {
	if x-x != 0 {
		return 0
	}
	return x
}

// estimateWeights makes the weights of candidate pages [lo,hi), which are a part of the estimate.
func (w *Work) estimateWeights(lo, hi int) {
	weigh, plain := &w.weighings[lo/estimatePart], lo
	if w.fused {
		if plain = w.exactPages(lo, hi); plain > lo {
			w.call.Pipeline.est.(weigher).estimateWeights(w, lo, plain, weigh)
		}
		w.mask(plain, hi)
	} else {
		w.estimateLogits(lo, hi)
	}
	if plain < hi {
		weigh.After(plain-lo).Apply(w.Kern, w.AllLogits()[plain*PageTokens:], w.LogitStride(), (hi-plain)*PageTokens)
	}
}

// likelyPages lists the pages that hold weights of query head g which were noted, and says from which weight on those are all that there are; nil if none were noted.
func (w *Work) likelyPages(g int) (pages []int32, from float32) {
	if len(w.weighings) == 0 || !w.fused {
		return nil, 0
	}
	return w.listPages(w.likely[g*len(w.Pages):][:len(w.Pages)]), w.least[g]
}

// listPages is the pages with lanes, in scratch of its own.
func (w *Work) listPages(masks []uint16) []int32 {
	w.listed = grow(w.listed, len(masks)+PageTokens)
	return w.listed[:w.Kern.ListPages(w.listed, masks)]
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
	w.weighings = w.weighings[:0]
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
