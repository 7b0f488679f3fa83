package attention

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// reused lets what a selector proposed stand for some steps: the arguments reuse= and reuse-mass= go with every selector that keeps no memory of its own and whose proposal is a
// set of tokens alone. Tokens that came since the last scan are always proposed; a fork keeps what was proposed, a truncation drops it.
//
// A step that reuses scans every reuse-th block only, in turn, and estimates what mass the set still holds: the softmax over the scores, as each block was last scanned. Where
// that share of a query head falls under reuse-mass of what it was when the set was new, the next step scans everything. The scores are the selector's own, so the share is a
// mass only as far as they are logits; the ratio makes up for what is constant about that.
type reused struct {
	Selector
	steps int
	floor float32
}

// takeReuse moves the arguments of reuse out of a selector's, and wraps what the others make.
func takeReuse(p Part, build func(Part) (any, error)) (Selector, error) {
	of, rest := Part{Name: p.Name}, Part{Name: p.Name}
	for _, a := range p.Args {
		if a.Key == "reuse" || a.Key == "reuse-mass" {
			of.Args = append(of.Args, a)
		} else {
			rest.Args = append(rest.Args, a)
		}
	}
	made, err := build(rest)
	if err != nil || len(of.Args) == 0 {
		return asSelector(made), err
	}
	a := newArgs(of)
	r := reused{Selector: asSelector(made)}
	r.steps = a.Int("reuse", 4, 1, 1<<20, "steps that a proposal stands")
	r.floor = float32(a.Float("reuse-mass", 0.8, 0, 1, "share of the mass it had, under which it stands no longer"))
	if err := a.err(); err != nil {
		return nil, err
	}
	if !reusable(r.Selector) {
		return nil, fmt.Errorf("%s: reuse=%s does not go with a selector that remembers steps, or whose proposal is for one query", p.Name, strconv.Itoa(r.steps))
	}
	return r, nil
}

func asSelector(made any) Selector { s, _ := made.(Selector); return s }

func reusable(s Selector) bool {
	switch s.(type) {
	case Stateful, Sampler, Compensator, Summariser:
		return false
	}
	return true
}

// Fits implements Fitted.
func (r reused) Fits(s Shape) error {
	if f, ok := r.Selector.(Fitted); ok {
		return f.Fits(s)
	}
	return nil
}

// reuseState is the memory of a sequence.
type reuseState struct {
	kvHeads int
	heads   []reuseHead
}

// reuseHead is a KV head's proposals and how they fare.
type reuseHead struct {
	n      int       // tokens there were; 0: nothing is proposed
	age    int       // steps since
	due    bool      // the next step scans
	masks  []uint16  // [pages][group]
	top    []float32 // by query head: the largest score when all were scanned, from which sums count
	held   []float32 // by query head: the share that was proposed
	in     []float32 // [group][steps] sums over the blocks of a turn, as last scanned: of what is proposed,
	all    []float32 // and of everything
	scores []float32 // scratch: the scores as they were scanned
}

// NewState implements Stateful.
func (r reused) NewState(s Shape) State {
	return &reuseState{s.KVHeads, make([]reuseHead, s.Layers*s.KVHeads)}
}

// Fork implements State.
func (s *reuseState) Fork() State {
	f := &reuseState{s.kvHeads, slices.Clone(s.heads)}
	for i := range f.heads {
		h := &f.heads[i]
		h.masks, h.held, h.scores = slices.Clone(h.masks), slices.Clone(h.held), nil
		h.top, h.in, h.all = slices.Clone(h.top), slices.Clone(h.in), slices.Clone(h.all)
	}
	return f
}

// Truncate implements State.
func (s *reuseState) Truncate(int) {
	for i := range s.heads {
		s.heads[i].n = 0
	}
}

func (r reused) head(w *Work) *reuseHead {
	s := w.State().(*reuseState)
	return &s.heads[w.Layer()*s.kvHeads+w.KVHead()]
}

// stands reports whether this step reuses.
func (r reused) stands(h *reuseHead) bool { return h.n > 0 && !h.due && h.age+1 < r.steps }

// Scan implements Selector.
func (r reused) Scan(w *Work, lo, hi int) {
	h := r.head(w)
	if !r.stands(h) {
		r.Selector.Scan(w, lo, hi)
		return
	}
	for b := r.turn(h, lo); b < hi; b += r.steps {
		r.Selector.Scan(w, b, b+1)
	}
}

// turn is the first block from lo on whose turn it is to be compared.
func (r reused) turn(h *reuseHead, lo int) int {
	return lo + (h.age%r.steps-lo%r.steps+r.steps)%r.steps
}

// Choose implements Selector.
func (r reused) Choose(w *Work) {
	h := r.head(w)
	if r.stands(h) {
		r.again(w, h)
		return
	}
	h.scores = append(h.scores[:0], w.AllScores()...) // choosing may spoil them
	r.Selector.Choose(w)
	h.n, h.age, h.due = w.Head.N, 0, false
	h.masks, h.held, h.top = grow(h.masks, len(w.whole)*w.Group), grow(h.held, w.Group), grow(h.top, w.Group)
	h.in, h.all = grow(h.in, w.Group*r.steps), grow(h.all, w.Group*r.steps)
	w.spread()
	for p := range w.whole {
		for g := range w.Group {
			h.masks[p*w.Group+g] = w.proposed(g, int32(p))
		}
	}
	for g := range w.Group {
		h.top[g] = w.Kern.Max(h.scores[g*w.ScoreStride():][:h.n/BlockTokens*r.Selector.Scores(BlockTokens)])
		for turn := range r.steps {
			r.weigh(w, h, g, h.scores, turn)
		}
		h.held[g] = r.share(h, g)
	}
}

// again proposes what was proposed, and what came since.
func (r reused) again(w *Work, h *reuseHead) {
	for g := range w.Group {
		for i := g; i < len(h.masks); i += w.Group {
			w.ProposeLanes(g, i/w.Group, h.masks[i])
		}
		w.Propose(g, h.n, w.Head.N)
	}
	for g := range w.Group {
		r.weigh(w, h, g, w.AllScores(), r.turn(h, 0))
		if !(r.share(h, g) >= r.floor*h.held[g]) {
			h.due = true
		}
	}
	h.age++
}

// share is the mass of query head g that is proposed, of what was scanned last; 1 where nothing is ever scanned.
func (r reused) share(h *reuseHead, g int) float32 {
	var in, all float32
	for turn, x := range h.all[g*r.steps:][:r.steps] {
		all += x
		in += h.in[g*r.steps+turn]
	}
	if all == 0 {
		return 1
	}
	return in / all
}

// weigh sums up the scores of the blocks of a turn. Blocks that came later, or were not full, do not count: their tokens are nearly all proposed.
func (r reused) weigh(w *Work, h *reuseHead, g int, scores []float32, turn int) {
	per, n := r.Selector.Scores(BlockTokens), 0
	all := w.Scratch((h.n/BlockTokens/r.steps + 1) * per)
	for b := turn; b < h.n/BlockTokens; b += r.steps {
		n += copy(all[n:], scores[g*w.ScoreStride()+b*per:][:per])
	}
	all = all[:n]
	top, in := w.Kern.Max(all), float32(0)
	total := w.Kern.Exp(all, top)
	for i, x := range all {
		token := (turn+i/per*r.steps)*BlockTokens + i%per*(BlockTokens/per)
		if h.masks[token/PageTokens*w.Group+g]>>(token%PageTokens)&1 != 0 {
			in += x
		}
	}
	scale := float32(0)
	if n > 0 {
		scale = float32(math.Exp(float64(top - h.top[g])))
	}
	h.in[g*r.steps+turn], h.all[g*r.steps+turn] = in*scale, total*scale
}
