package attention

import (
	"math"
	"math/bits"
)

// An audit estimates what share of the softmax's mass a sparse step attended to. Every Spec.Audit-th step of a sequence, in turns over layers and heads, Spec.AuditPages
// pages beside the survivors are drawn and their logits computed exactly. Per query head, kept is the sum of exponentials of what was attended and unread that of all else:
//
//	pages of no candidate: the drawn pages' mean, times how many there are;
//	pages of candidates: the sums that the estimator gives, plus the mean difference from them in the drawn pages, times how many there are. What the estimator's
//	quantisation does to the sums, in its mean and in its scatter, is thereby measured rather than assumed.
//
// The share is kept/(kept+unread). Being convex in what is estimated it would be too large on average, by more than its scatter where many audits are averaged: the jackknife
// (each drawn page left out in turn) takes that off and gives the standard error, both with the finite population's factor. The query heads of a group share the drawn pages,
// so their errors go together: the group's mean has an error of its own. What is drawn follows from layer, head and position alone; an audit never changes an output.

// DefaultAuditPages is how many pages an audit draws unless a spec says otherwise.
const DefaultAuditPages = 16

// audit is the scratch and the outcome of an audit of a Work.
type audit struct {
	due    bool
	valid  bool // the outcome is of numbers
	failed bool // and not good enough: the step is done densely
	ref    [MaxGroup]float64
	known  [MaxGroup]massPair // what is not drawn
	least  [MaxGroup]float64  // of what is attended, that which is known exactly
	strata [2]stratum         // pages of no candidate, and of candidates
	pages  []int32            // of both strata, each's drawn ones first
	rows   []int32
	logits []float32  // [Group][rows]
	drawn  []massPair // [Group][drawn pages] each page's difference from what is known
	left   []float64  // the group's share without each drawn page
	heads  [MaxGroup]shareEstimate
	group  shareEstimate // the mean over the group's query heads
}

// massPair is sums of exponentials: of tokens that a query head attended to, and of those that it did not.
type massPair struct{ kept, unread float64 }

func (a *massPair) add(b massPair, times float64) {
	a.kept += times * b.kept
	a.unread += times * b.unread
}

// share is the mass that is kept, at least what is known to be. An estimate of what is unread may fall under zero; it then keeps its sign, so that means stay unbiased, but
// never turns the share's.
func (a massPair) share(least float64) float64 {
	kept := max(a.kept, least)
	return kept / max(kept+a.unread, kept/2)
}

// shareEstimate is an estimated share and the variance of the estimate.
type shareEstimate struct{ mean, variance float64 }

// stratum is some of the pages, n of them drawn.
type stratum struct{ first, count, n int }

// factor is by how much the drawn pages stand for the others too.
func (s stratum) factor() float64 { return 1 - float64(s.n)/float64(s.count) }

// dice is a random sequence that follows from a seed: SplitMix64.
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is a number in [0,n).
func (d *dice) below(n int) int { hi, _ := bits.Mul64(d.next(), uint64(n)); return int(hi) }

// diceOf is the sequence of a step of one KV head; position 0 is its turn among the steps.
func diceOf(layer, kvHead, position int) dice {
	d := dice(layer)<<42 ^ dice(kvHead)<<32 ^ dice(position)
	d = dice(d.next())
	return d
}

// audits reports whether this step's turn has come: after a number of steps that differs from head to head, so that no step audits them all.
func (p *Pipeline) audits(layer, kvHead, n int) bool {
	every := p.spec.Audit
	if every == 0 {
		return false
	}
	d := diceOf(layer, kvHead, 0)
	return (n+d.below(every))%every == 0
}

// planAudit decides whether the step is audited, and whether it is sparse at all: a head that fell under Spec.Ensure stays dense until an audit says otherwise.
func (w *Work) planAudit() {
	c, a := &w.call, &w.audit
	a.due, a.valid, a.failed = false, false, false
	if !w.sparse || c.Pipeline.spec.Audit == 0 {
		return
	}
	a.due = c.Pipeline.audits(c.Layer, c.KVHead, c.Head.N)
	if v := c.Pipeline.verdict(c); v != nil {
		a.due = a.due || *v == unknown
		w.sparse = a.due || *v == enough
		a.failed = !w.sparse
	}
}

// auditStep estimates the mass that the finished sparse step attended to, and judges it.
func (w *Work) auditStep() {
	a := &w.audit
	w.auditKnown()
	w.drawPages()
	w.auditDrawn()
	a.group = shareEstimate{}
	w.jackknife()
	a.valid = a.group.variance < math.Inf(1) && a.group.mean-a.group.mean == 0 // neither NaN nor infinite
	if v := w.call.Pipeline.verdict(&w.call); v != nil && a.valid {
		*v = enough
		if a.group.mean-normal95*math.Sqrt(a.group.variance) < w.call.Pipeline.spec.Ensure {
			*v, a.failed = short, true
		}
	}
}

// attendedLanes is the lanes of candidate page j that query head g attends to, and those of them that count by their exact logits.
func (w *Work) attendedLanes(g, j int) (all, exact uint16) {
	n, byWeight := len(w.Pages), w.call.Pipeline.spec.Exact > 0
	lo, hi := g, g+1
	if w.attendsUnion() {
		lo, hi = 0, w.Group
	}
	for h := lo; h < hi; h++ {
		all |= w.keep[h*n+j]
		if byWeight {
			exact |= w.heavy[h*n+j]
		}
	}
	if !byWeight {
		exact = all
	}
	return all, exact
}

// weighs reports whether the logits of candidates are weights that estimate exponentials.
func (w *Work) weighs() bool { return w.call.Pipeline.prun != nil && len(w.odds) == 0 }

// auditKnown sums up, for each query head, what was attended and what the estimator says of the other candidates. Both count from the largest logit attended.
func (w *Work) auditKnown() {
	a, n := &w.audit, w.partCount(false)
	for g := range w.Group {
		ref, sum, least := negInf, 0.0, 0.0
		for i := range n {
			ref = max(ref, w.parts[i*w.Group+g].top)
		}
		for i := range n {
			if p := w.parts[i*w.Group+g]; p.sum > 0 {
				sum += float64(p.sum) * math.Exp(float64(p.top)-float64(ref))
			}
			if i < attendParts(len(w.rows)) {
				least = sum
			}
		}
		a.ref[g], a.known[g], a.least[g] = float64(ref), massPair{kept: sum}, max(least, 1e-30)
	}
	if len(w.odds) > 0 {
		w.auditOdds()
	}
	if !w.weighs() {
		return
	}
	for g := range w.Group {
		weights, rest := w.Logits(g), float64(w.total[g])
		for j := range w.Pages {
			for m, _ := w.attendedLanes(g, j); m != 0; m &= m - 1 {
				rest -= float64(weights[j*PageTokens+bits.TrailingZeros16(m)])
			}
		}
		a.known[g].unread = rest * math.Exp(float64(w.top[g])-a.ref[g])
	}
}

// auditOdds sums up what was attended once more, where it was weighed by odds: the mass is the softmax's own.
func (w *Work) auditOdds() {
	a := &w.audit
	for g := range w.Group {
		a.known[g], a.least[g] = massPair{}, 1e-30
	}
	bias := w.bias
	w.bias = nil
	a.logits = grow(a.logits, w.Group*attendSlice)
	for lo := 0; lo < len(w.rows); lo += attendSlice {
		at := w.rows[lo:min(lo+attendSlice, len(w.rows))]
		w.Kern.Dot(a.logits, attendSlice, w.Q, w.Group, w.Head.Dim, w.Head.K, at, nil)
		for g := range w.Group {
			l := a.logits[g*attendSlice:][:len(at)]
			w.weigh(l, g, lo)
			a.known[g].kept += w.exponentials(l, a.ref[g])
		}
	}
	w.bias = bias
}

// exponentials makes weights of logits and returns their sum, the sum counted from ref.
func (w *Work) exponentials(l []float32, ref float64) (sum float64) {
	top := w.Kern.Max(l)
	if top == negInf {
		clear(l)
		return 0
	}
	return float64(w.Kern.Exp(l, top)) * math.Exp(float64(top)-ref)
}

// drawPages lists the pages that hold something that is not known exactly, and draws some of each stratum.
func (w *Work) drawPages() {
	a, all := &w.audit, w.Head.Pages()
	a.pages = grow(a.pages, all)
	n, j := 0, 0
	for p := range all {
		if j < len(w.Pages) && int(w.Pages[j]) == p {
			j++
			continue
		}
		a.pages[n] = int32(p)
		n++
	}
	a.strata[0] = stratum{count: n}
	shared := true // the heads' candidates are the same
	for g := range w.Group {
		shared = shared && w.count.b0[g] == w.count.cand
	}
	for j := range len(w.Pages) - 1 { // the newest page is attended and exact
		for g := range w.Group {
			if _, exact := w.attendedLanes(g, j); exact != 0xffff {
				a.pages[n] = int32(j)
				n++
				break
			}
		}
	}
	a.strata[1] = stratum{first: a.strata[0].count, count: n - a.strata[0].count}
	few := w.call.Pipeline.spec.AuditPages
	if few == 0 {
		few = DefaultAuditPages
	}
	first, second := &a.strata[0], &a.strata[1]
	second.n = few / 4 // estimates scatter far less than pages do
	if !shared || !w.weighs() {
		second.n = few * second.count / max(n, 1)
	}
	first.n = min(first.count, max(2, few-min(second.n, second.count)))
	second.n = min(second.count, max(2, few-first.n))
	d := diceOf(w.Layer(), w.KVHead(), w.Head.N)
	for _, s := range a.strata {
		pages := a.pages[s.first:][:s.count]
		for i := range s.n {
			k := i + d.below(s.count-i)
			pages[i], pages[k] = pages[k], pages[i]
		}
	}
}

// auditDrawn computes what is drawn: for each page and query head, how far the sums are from what is known of the page.
func (w *Work) auditDrawn() {
	a := &w.audit
	a.rows = a.rows[:0]
	for s := range a.strata {
		for _, p := range a.drawnPages(s) {
			if s == 1 {
				p = w.Pages[p]
			}
			row := w.Head.Row(int(p) * PageTokens)
			for i := range int32(PageTokens) {
				a.rows = append(a.rows, row+i)
			}
		}
	}
	ld := len(a.rows)
	pages := ld / PageTokens
	a.logits, a.drawn = grow(a.logits, w.Group*ld), grow(a.drawn, w.Group*pages)
	if pages == 0 {
		return
	}
	w.Kern.Dot(a.logits, ld, w.Q, w.Group, w.Head.Dim, w.Head.K, a.rows, nil)
	for g := range w.Group {
		l := a.logits[g*ld:][:ld]
		top := w.Kern.Max(l)
		w.Kern.Exp(l, top)
		scale, drawn := math.Exp(float64(top)-a.ref[g]), a.drawn[g*pages:]
		for i := range pages {
			sum := massPair{}
			if page := l[i*PageTokens:][:PageTokens]; i < a.strata[0].n {
				for _, x := range page {
					sum.unread += float64(x)
				}
				sum.unread *= scale
			} else {
				sum = w.differences(g, int(a.drawnPages(1)[i-a.strata[0].n]), page, scale)
			}
			drawn[i] = sum
		}
	}
}

func (a *audit) drawnPages(s int) []int32 { return a.pages[a.strata[s].first:][:a.strata[s].n] }

// differences is what candidate page j holds for query head g beyond what is known of it; page is its exponentials up to scale.
func (w *Work) differences(g, j int, page []float32, scale float64) (sum massPair) {
	all, exact := w.attendedLanes(g, j)
	estimate := 0.0
	if w.weighs() {
		estimate = math.Exp(float64(w.top[g]) - w.audit.ref[g])
	}
	for i, x := range page {
		d := scale * float64(x)
		if estimate > 0 {
			d -= estimate * float64(w.Logits(g)[j*PageTokens+i])
		}
		switch bit := uint16(1) << i; {
		case exact&bit != 0:
		case all&bit != 0:
			sum.kept += d
		default:
			sum.unread += d
		}
	}
	return sum
}

// jackknife estimates the shares of the query heads, and of the group.
func (w *Work) jackknife() {
	a := &w.audit
	pages := a.strata[0].n + a.strata[1].n
	a.left = grow(a.left, (w.Group+1)*pages)
	group := a.left[w.Group*pages:][:pages]
	clear(group)
	whole := 0.0
	for g := range w.Group {
		var sums [2]massPair
		drawn, left, at := a.drawn[g*pages:][:pages], a.left[g*pages:][:pages], 0
		for s := range a.strata {
			for range a.strata[s].n {
				sums[s].add(drawn[at], 1)
				at++
			}
		}
		all := a.total(g, sums, -1).share(a.least[g])
		at = 0
		for s := range a.strata {
			for range a.strata[s].n {
				rest := sums
				rest[s].add(drawn[at], -1)
				left[at] = a.total(g, rest, s).share(a.least[g])
				group[at] += left[at] / float64(w.Group)
				at++
			}
		}
		whole += all / float64(w.Group)
		a.heads[g] = a.estimate(all, left)
	}
	a.group = a.estimate(whole, group)
}

// total scales the sums of the drawn pages up to all pages and adds what is known; without says in which stratum a drawn page is missing, −1 in none.
func (a *audit) total(g int, sums [2]massPair, without int) massPair {
	t := a.known[g]
	for s, x := range sums {
		n := a.strata[s].n
		if s == without {
			n--
		}
		if n > 0 {
			t.add(x, float64(a.strata[s].count)/float64(n))
		}
	}
	return t
}

// estimate is the jackknife's, from the share of all drawn pages and those without each of them.
func (a *audit) estimate(all float64, left []float64) shareEstimate {
	e := shareEstimate{mean: all}
	for _, s := range a.strata {
		own := left[:s.n]
		left = left[s.n:]
		if s.n == s.count { // every page was drawn
			continue
		}
		mean, squares := 0.0, 0.0
		for _, x := range own {
			mean += x / float64(s.n)
		}
		for _, x := range own {
			squares += (x - mean) * (x - mean)
		}
		n := float64(s.n)
		e.mean -= s.factor() * (n - 1) * (mean - all)
		e.variance += s.factor() * (n - 1) / n * squares
	}
	return e
}
