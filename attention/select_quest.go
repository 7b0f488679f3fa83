package attention

import "fmt"

// quest is Quest (arXiv 2406.10774): pages ranked by the upper bound of any q·k in them, Σ_c max(q_c·min_c, q_c·max_c). Keeps the minimum and maximum of each key
// channel per page (a Bounds plane: 6.25 % of an fp16 cache at 16 tokens a page) and reads all of it every step, unless every page is proposed anyway.
type quest struct {
	page   int
	keep   float64
	least  int
	budget int
	reach  float64 // of the way from the middle of a channel's bounds to the end that suits the query
	shared bool
	middle bool    // by a Middles plane
	bounds []Plane // the metadata of pages, and what else it reads

	channels int // with middle: in which every token counts for itself
}

func init() {
	RegisterSelector("quest", Info{Doc: "pages by the upper bound of q·k from channel minima and maxima", Paper: "2406.10774", New: func(a *Args) (any, error) {
		q := quest{
			page:   a.Int("page", 16, 8, 64, "tokens a page: 8, 16, 32 or 64"),
			keep:   a.Float("keep", 0.25, 0, 1, "share of the context that is proposed"),
			least:  a.Int("least", 0, 0, 1<<30, "tokens proposed at least, however small the share"),
			budget: a.Int("budget", 0, 0, 1<<30, "tokens proposed, instead of a share (the paper's B0)"),
			reach:  a.Float("reach", 1, 0, 1, "share of the way from the middle of a page's bounds to their far end that counts; 1: the paper's upper bound"),
			shared: a.Flag("shared", "one page list for the group, by the sum over its heads of a page's share of the mass, as its scores have it"),
		}
		if q.page&(q.page-1) != 0 {
			return nil, fmt.Errorf("page=%d: expected 8, 16, 32 or 64", q.page)
		}
		q.bounds = []Plane{Bounds{q.page}}
		if q.middle = a.Flag("middle", "of the bounds only their middles in 4 bits a channel and the mean of their ranges, which reach is then of; the first page and the block being filled are always proposed"); q.middle {
			if q.page != PageTokens {
				return nil, fmt.Errorf("middle: expected page=%d", PageTokens)
			}
			q.bounds = []Plane{Middles{}}
		}
		if err := q.readChannels(a); err != nil {
			return nil, err
		}
		gain := a.Float("adapt", 0, 0, 1, "each KV head's list grows until its last quarter changes the output by no more than this: the square, per share of the context; keep and least begin it")
		floor := a.Float("floor", 0.25, 0, 1, "with adapt, the share of the context that a group's list has at least; a head alone: a quarter of it")
		if gain == 0 {
			return q, nil
		}
		if q.page != PageTokens || !q.shared {
			return nil, fmt.Errorf("adapt=%g: expected shared, and page=%d", gain, PageTokens)
		}
		return adaptive{q, gain, floor}, nil
	}})
}

// asQuest is the quest that a selector is, or chooses by.
func asQuest(s Selector) (quest, bool) {
	switch s := s.(type) {
	case quest:
		return s, true
	case adaptive:
		return s.quest, true
	case reused:
		return asQuest(s.Selector)
	}
	return quest{}, false
}

// Planes implements Selector.
func (s quest) Planes() []Plane { return s.bounds }

// pages is how many pages are proposed of n tokens, and of how many.
func (s quest) pages(n int) (want, all int) {
	all = (n + s.page - 1) / s.page
	want = int(max(s.keep*float64(n), float64(s.least))/float64(s.page) + 0.5)
	switch {
	case s.budget > 0:
		want = (s.budget + s.page - 1) / s.page
	case s.keep == 1: // a last page that is not full is a page
		want = all
	}
	return min(max(want, 1), all), all
}

// Scores implements Selector: none where all pages are proposed.
func (s quest) Scores(n int) int {
	if want, all := s.pages(n); want == all {
		return 0
	}
	return BlocksOf(n) * (BlockTokens / s.page)
}

// Scan implements Selector.
func (s quest) Scan(w *Work, lo, hi int) {
	pages, tmp := BlockTokens/s.page, w.scanTmp(lo)
	if s.middle {
		if full := min(hi, w.Head.N/BlockTokens); lo < full {
			w.Kern.PageMiddles(w.AllScores()[lo*BlockPages:], w.ScoreStride(), w.Q, w.Group, w.Head.Dim, w.selectorSlab(0), w.Head.Table[lo:full], w.reach, w.ready().from(lo, w.Group, w.Head.Dim), tmp)
			s.scoreTokens(w, lo, full, tmp)
		}
		return
	}
	for b := lo; b < hi; b++ {
		s.scoreHalves(w, b, pages, as[uint16](w.SelectorPlane(0, b)), tmp)
	}
}

// scoreHalves scores the pages of block b by fp16 bounds: the upper bound and, where it counts for less than all, the lower one, which is that of the opposite query.
func (s quest) scoreHalves(w *Work, b, pages int, bounds []uint16, tmp []byte) {
	dim, ld, dst := w.Head.Dim, w.ScoreStride(), w.AllScores()[b*pages:]
	w.Kern.PageBounds(dst, ld, w.Q, w.Group, dim, pages, bounds)
	if s.reach == 1 {
		return
	}
	scratch := as[float32](tmp)
	q, lower := scratch[:dim], scratch[dim:][:pages]
	up, down := float32(1+s.reach)/2, float32(1-s.reach)/2
	for g := range w.Group {
		for c := range q {
			q[c] = -w.Q[g*dim+c]
		}
		w.Kern.PageBounds(lower, pages, q, 1, dim, pages, bounds)
		for p, x := range dst[g*ld:][:pages] {
			dst[g*ld+p] = up*x - down*lower[p]
		}
	}
}

// ranked is how many of n pages have scores: with middles, those of full blocks.
func (s quest) ranked(w *Work, n int) int {
	if s.middle {
		return w.Head.N / BlockTokens * BlockPages
	}
	return n
}

// Choose implements Selector.
func (s quest) Choose(w *Work) {
	want, n := s.pages(w.Head.N)
	if want == n {
		w.ProposeAll()
		return
	}
	s.read(w)
	masks := w.maskScratch((n + PageTokens - 1) / PageTokens)
	if s.shared {
		shares(w.Kern, w.AllScores(), w.ScoreStride(), w.Group, s.ranked(w, n))
		s.best(w, 0, n, want, masks)
		w.proposePages(w.everyHead(), s.page, masks)
		return
	}
	for g := range w.Group {
		s.best(w, g, n, want, masks)
		w.proposePages(1<<g, s.page, masks)
	}
}

// read counts what a scan reads.
func (s quest) read(w *Work) {
	w.ReadBytes(w.Head.Blocks()*s.bounds[0].BlockBytes(w.Head.Dim) + w.Head.N*min(s.channels, w.Head.Dim)*middleBits/8)
}

// best sets the bits of the want best of n pages by the scores of query head g. By middles the first page is among them, since a text's first tokens have keys unlike any others, and weight
// out of proportion; and the pages of the block being filled, which have no middles.
func (s quest) best(w *Work, g, n, want int, masks []uint16) {
	ranked := s.ranked(w, n)
	if ranked > 0 {
		bestOf(w.Kern, w.ScoreSlice(g)[:ranked], max(want-(n-ranked), 1), masks[:(ranked+PageTokens-1)/PageTokens])
	}
	if ranked < n {
		masks[len(masks)-1] = laneMask(n - ranked)
	}
	if s.middle {
		masks[0] |= 1
	}
}
