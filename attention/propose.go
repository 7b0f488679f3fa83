package attention

import "math/bits"

// ProposeAll makes every token a candidate of every query head. Only Choose calls it and its siblings.
func (w *Work) ProposeAll() {
	for p := range w.whole {
		w.whole[p] = w.everyHead()
	}
}

// Propose makes tokens [lo,hi) candidates of query head g.
func (w *Work) Propose(g, lo, hi int) {
	hi = min(hi, w.Head.N)
	for lo < hi {
		p := lo / PageTokens
		end := min(hi, (p+1)*PageTokens)
		w.ProposeLanes(g, p, laneMask(end-p*PageTokens)&^laneMask(lo-p*PageTokens))
		lo = end
	}
}

// ProposeLanes makes tokens of page p candidates of query head g: token p*PageTokens+i for each set bit i.
func (w *Work) ProposeLanes(g, p int, lanes uint16) {
	head := uint32(1) << g
	switch {
	case lanes == 0xffff:
		w.whole[p] |= head
	case lanes == 0:
	case w.some[p]&head == 0:
		w.some[p] |= head
		w.lanes[p*w.Group+g] = lanes
	default:
		w.lanes[p*w.Group+g] |= lanes
	}
}

// everyHead has a bit set for each query head of the group.
func (w *Work) everyHead() uint32 { return uint32(1)<<w.Group - 1 }

// proposed is the lanes of page p that query head g proposed.
func (w *Work) proposed(g int, p int32) uint16 {
	head := uint32(1) << g
	if w.whole[p]&head != 0 {
		return 0xffff
	}
	if w.some[p]&head != 0 {
		return w.lanes[int(p)*w.Group+g]
	}
	return 0
}

// gather turns the proposals into Pages and cand, adding the newest page for every head: it and the current token are always kept.
func (w *Work) gather() {
	last := w.Head.Pages() - 1
	w.whole[last] = w.everyHead()
	w.Pages = w.Pages[:0]
	for p := range w.whole {
		if w.whole[p]|w.some[p] != 0 {
			w.Pages = append(w.Pages, int32(p))
		}
	}
	n := len(w.Pages)
	w.cand, w.keep = grow(w.cand, w.Group*n), grow(w.keep, w.Group*n)
	w.logits = grow(w.logits, w.Group*n*PageTokens)
	w.count.cand = 0
	clear(w.count.b0)
	for j, p := range w.Pages {
		seen := uint16(0xffff)
		if int(p) == last {
			seen = laneMask(w.Head.N - last*PageTokens)
		}
		union := uint16(0)
		for g := range w.Group {
			m := w.proposed(g, p) & seen
			w.cand[g*n+j] = m
			union |= m
			w.count.b0[g] += bits.OnesCount16(m)
		}
		w.count.cand += bits.OnesCount16(union)
	}
}

// mask sets the logits of the lanes of pages [lo,hi) that are no candidates to −Inf.
func (w *Work) mask(lo, hi int) {
	n := len(w.Pages)
	for g := range w.Group {
		l := w.Logits(g)
		for j := lo; j < hi; j++ {
			switch m := w.cand[g*n+j]; m {
			case 0xffff:
			case 0:
				page := l[j*PageTokens:][:PageTokens]
				for i := range page {
					page[i] = negInf
				}
			default:
				for m = ^m; m != 0; m &= m - 1 {
					l[j*PageTokens+bits.TrailingZeros16(m)] = negInf
				}
			}
		}
	}
}
