package attention

import (
	"math"
	"math/bits"
)

// ProposeAll makes every token a candidate of every query head. Only Choose calls it and its siblings.
func (w *Work) ProposeAll() {
	masks := w.maskScratch(w.Head.Blocks())
	for b := range masks {
		masks[b] = 0xffff
	}
	masks[len(masks)-1] = laneMask(w.Head.Pages() - (len(masks)-1)*BlockPages)
	w.proposePages(w.everyHead(), PageTokens, masks)
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

// proposePages makes the pages of size tokens whose bit is set in masks candidates of the heads. Where that is all that is proposed, the masks themselves are what gather goes by.
func (w *Work) proposePages(heads uint32, size int, masks []uint16) {
	if w.uniform == nil && size == PageTokens && heads == w.everyHead() {
		w.uniform = masks
		return
	}
	w.mixed = true
	for j, m := range masks {
		for ; m != 0; m &= m - 1 {
			p := j*PageTokens + bits.TrailingZeros16(m)
			if size == PageTokens {
				w.whole[p] |= heads
				continue
			}
			for h := heads; h != 0; h &= h - 1 {
				w.Propose(bits.TrailingZeros32(h), p*size, (p+1)*size)
			}
		}
	}
}

// spread writes down the pages that all heads propose where other proposals stand.
func (w *Work) spread() {
	if w.uniform != nil {
		w.proposePages(w.everyHead(), PageTokens, w.uniform)
		w.uniform = nil
	}
}

// ProposeLanes makes tokens of page p candidates of query head g: token p*PageTokens+i for each set bit i.
func (w *Work) ProposeLanes(g, p int, lanes uint16) {
	head := uint32(1) << g
	w.mixed = true
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

// Odds says that query head g drew the token with the given probability in (0,1], where every other draw was as likely as its own odds: importance sampling then
// weighs its exponential by 1/odds. Tokens without odds count once. Only the Choose of a Sampler calls it.
func (w *Work) Odds(g, token int, odds float64) { w.rarity(g, token, float32(-math.Log(odds))) }

// rarity is Odds by −ln of them.
func (w *Work) rarity(g, token int, log float32) {
	if len(w.odds) == 0 {
		w.odds = grow(w.odds, w.Group*w.Head.N)
		clear(w.odds)
	}
	w.odds[g*w.Head.N+token] = log
}

// Hold says what share of the context's mass the proposal of query head g holds, as the selector estimates it. Only the Choose of a Compensator calls it.
func (w *Work) Hold(g int, mass float32) { w.count.held[g] = min(max(mass, 0), 1) }

// Summarise makes query head g attend to tokens that it does not read, by what is known of them together: v is the sum of their values, each times exp(its logit − top),
// and sum is the sum of those exponentials. Choose calls it for tokens that it does not propose.
func (w *Work) Summarise(g int, top, sum float32, v []float32) {
	w.summarise(g, top, sum, v, 1)
}

// summarise is Summarise with v times scale.
func (w *Work) summarise(g int, top, sum float32, v []float32, scale float32) {
	if !w.hasFar {
		w.hasFar = true
		w.far, w.farAcc = grow(w.far, w.Group), grow(w.farAcc, w.Group*w.Head.Dim)
		clear(w.farAcc)
		for i := range w.far {
			w.far[i] = part{top: negInf}
		}
	}
	p, acc := &w.far[g], w.farAcc[g*w.Head.Dim:][:w.Head.Dim]
	f := float32(1)
	if top > p.top {
		p.raise(w.Kern, top, acc)
	} else {
		f = float32(math.Exp(float64(top - p.top)))
	}
	p.sum += f * sum
	w.Kern.AddScaled(acc, v[:len(acc)], f*scale)
}

// nextLink makes the proposals of the selector at work the bounds of the next.
func (w *Work) nextLink() {
	first := w.link == 0
	w.spread()
	w.bounds = grow(w.bounds, len(w.whole)*w.Group)
	for p := range w.whole {
		for g := range w.Group {
			m := w.proposed(g, int32(p))
			if !first {
				m &= w.bounds[p*w.Group+g]
			}
			w.bounds[p*w.Group+g] = m
		}
	}
	clear(w.whole)
	clear(w.some)
	w.mixed = false
	w.link++
}

// Bounded is the lanes of page p that query head g may propose: what the selectors before this one in the chain left it. Proposals beyond have no effect.
func (w *Work) Bounded(g, p int) uint16 {
	if w.link == 0 {
		return 0xffff
	}
	return w.bounds[p*w.Group+g]
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
	w.Pages, w.slabPages = grow(w.Pages, last+1+PageTokens), grow(w.slabPages, last+1+PageTokens)
	var n int
	var ragged bool
	if w.uniform != nil && !w.mixed && w.link == 0 {
		n = w.gatherUniform(last)
	} else {
		w.spread()
		n, ragged = w.gatherMixed(last)
	}
	w.Pages, w.slabPages = w.Pages[:n], w.slabPages[:n]
	w.cand, w.keep = grow(w.cand, w.Group*n), grow(w.keep, w.Group*n)
	w.logits = grow(w.logits, w.Group*n*PageTokens)
	w.count.cand = 0
	clear(w.count.b0)
	if !ragged { // every head proposes whole pages, the same
		short := laneMask(w.Head.N - last*PageTokens)
		for j := range n {
			w.cand[j] = 0xffff
		}
		w.cand[n-1] = short
		w.count.cand = (n-1)*PageTokens + bits.OnesCount16(short)
		for g := range w.Group {
			copy(w.cand[g*n:], w.cand[:n])
			w.count.b0[g] = w.count.cand
		}
		return
	}
	for j, p := range w.Pages {
		seen := uint16(0xffff)
		if int(p) == last {
			seen = laneMask(w.Head.N - last*PageTokens)
		}
		union := uint16(0)
		for g := range w.Group {
			m := w.proposed(g, p) & seen
			if int(p) != last {
				m &= w.Bounded(g, int(p))
			}
			w.cand[g*n+j] = m
			union |= m
			w.count.b0[g] += bits.OnesCount16(m)
		}
		w.count.cand += bits.OnesCount16(union)
	}
}

// gatherUniform lists the pages that every head proposes, and the newest; a mask of pages is a block's.
func (w *Work) gatherUniform(last int) (n int) {
	w.uniform[last/BlockPages] |= 1 << (last % BlockPages)
	blocks := len(w.uniform)
	base := w.Ints(2 * blocks)
	for b := range blocks {
		base[b], base[blocks+b] = int32(b*BlockPages), w.Head.Table[b]*BlockPages
	}
	w.Kern.ListLanes(w.slabPages, base[blocks:], w.uniform)
	return w.Kern.ListLanes(w.Pages, base[:blocks], w.uniform)
}

// gatherMixed lists the pages that any head proposes, and says whether some do not propose all of one.
func (w *Work) gatherMixed(last int) (n int, ragged bool) {
	w.whole[last] = w.everyHead()
	every, ragged := w.everyHead(), w.link > 0
	uneven := uint32(0)
	for b := range w.Head.Blocks() {
		at := w.Head.Table[b] * BlockPages
		lo := b * BlockPages
		some := w.some[lo:min(lo+BlockPages, last+1)]
		for i, heads := range w.whole[lo:min(lo+BlockPages, last+1)] {
			p := lo + i
			any := heads | some[i]
			if ragged && any != 0 && p != last && !w.bounded(p) {
				any = 0
			}
			w.Pages[n], w.slabPages[n] = int32(p), at+int32(i)
			taken := (uint64(any) + math.MaxUint32) >> 32 // 1 if any; which pages are is no pattern that a branch could follow
			n += int(taken)
			uneven |= (heads ^ every) & -uint32(taken)
		}
	}
	return n, ragged || uneven != 0
}

// bounded reports whether the chain's earlier selectors leave some head something of what it proposes of page p.
func (w *Work) bounded(p int) bool {
	for g := range w.Group {
		if w.proposed(g, int32(p))&w.Bounded(g, p) != 0 {
			return true
		}
	}
	return false
}

// mask sets the logits of the lanes of pages [lo,hi) that are no candidates to −Inf.
func (w *Work) mask(lo, hi int) {
	n, every := len(w.Pages), w.everyToken()
	for g := range w.Group {
		l, lo := w.Logits(g), lo
		if w.count.b0[g] == every && len(w.odds) == 0 {
			lo = max(lo, n-1) // only the newest page may be short
		}
		for j := lo; j < hi; j++ {
			if len(w.odds) > 0 {
				first := int(w.Pages[j]) * PageTokens
				for i, x := range w.odds[g*w.Head.N+first : g*w.Head.N+min(first+PageTokens, w.Head.N)] {
					l[j*PageTokens+i] += x
				}
			}
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

// collectOdds gathers the survivors' odds beside their rows; masks are the union of the heads' survivors.
func (w *Work) collectOdds(masks []uint16) {
	n := len(w.rows)
	w.bias = grow(w.bias, w.Group*n)
	i := 0
	for j, p := range w.Pages {
		for m := masks[j]; m != 0; m &= m - 1 {
			token := int(p)*PageTokens + bits.TrailingZeros16(m)
			for g := range w.Group {
				w.bias[g*n+i] = w.odds[g*w.Head.N+token]
			}
			i++
		}
	}
}
