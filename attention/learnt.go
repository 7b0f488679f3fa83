package attention

// learnt is the State of selectors that learn from a sequence's keys how to encode them: for each KV head what was learnt, and the codes of its tokens by block. Both are made as
// late as a decode step first reads them: what is learnt from the tokens before that step's own, codes of tokens as they come. A truncation to the tokens that were learnt from, or
// below, drops what was learnt. Blocks are shared with forks until one of them writes. Forks that take their first step where they parted learn together.
//
// P is what is learnt, never changed afterwards; C is the element of a block's codes.
type learnt[P any, C uint8 | uint64] struct {
	name    string // what it remembers by
	kvHeads int
	heads   []learntHead[P, C]
	common  *common[learntHead[P, C]] // nil: there are no forks
}

type learntHead[P any, C uint8 | uint64] struct {
	params *P
	from   int // tokens that params were learnt from
	n      int // tokens encoded
	blocks []codeBlock[C]
}

type codeBlock[C uint8 | uint64] struct {
	codes  []C
	shared bool
}

func newLearnt[P any, C uint8 | uint64](name string, s Shape) *learnt[P, C] {
	return &learnt[P, C]{name: name, kvHeads: s.KVHeads, heads: make([]learntHead[P, C], s.Layers*s.KVHeads)}
}

// join implements joining.
func (l *learnt[P, C]) join(p *parting) {
	l.common = commonOf[learntHead[P, C]](p, l.name, len(l.heads))
}

// Fork implements State.
func (l *learnt[P, C]) Fork() State {
	f := &learnt[P, C]{name: l.name, kvHeads: l.kvHeads, heads: make([]learntHead[P, C], len(l.heads))}
	for i := range l.heads {
		f.heads[i] = l.heads[i].share().fork()
	}
	return f
}

// share makes the blocks such as forks may have too.
func (h *learntHead[P, C]) share() *learntHead[P, C] {
	for b := range h.blocks {
		h.blocks[b].shared = true
	}
	return h
}

// fork is a copy of what is shared.
func (h *learntHead[P, C]) fork() learntHead[P, C] {
	f := *h
	f.blocks = append([]codeBlock[C](nil), h.blocks...)
	return f
}

// Truncate implements State.
func (l *learnt[P, C]) Truncate(n int) {
	if l.common != nil && n < l.common.at {
		l.common = nil
	}
	for i := range l.heads {
		switch h := &l.heads[i]; {
		case n <= h.from:
			*h = learntHead[P, C]{}
		case n < h.n:
			h.n = n
			h.blocks = h.blocks[:BlocksOf(n)]
		}
	}
}

// head is what is known of the KV head at work, brought up to date: learn is called for its first n tokens if nothing was learnt yet, and encode for the tokens [from,to) of block
// b that have no codes, in order and never across blocks. A block has size elements, zero when it is new; those of tokens that were dropped are written over.
func (l *learnt[P, C]) head(w *Work, size int, learn func(w *Work, n int) *P, encode func(w *Work, p *P, codes []C, b, from, to int)) *learntHead[P, C] {
	i, before := w.Layer()*l.kvHeads+w.KVHead(), max(w.Head.N-1, 1)
	h := &l.heads[i]
	if h.params == nil && l.common.covers(before) {
		made := l.common.head(i, func() (made learntHead[P, C]) {
			made.reach(w, before, before, size, learn, encode)
			return *made.share()
		})
		*h = made.fork()
	}
	h.reach(w, before, w.Head.N, size, learn, encode)
	return h
}

// reach learns from so many tokens, unless something was learnt already, and encodes up to n.
func (h *learntHead[P, C]) reach(w *Work, from, n, size int, learn func(w *Work, n int) *P, encode func(w *Work, p *P, codes []C, b, from, to int)) {
	if h.params == nil {
		h.params, h.from = learn(w, from), from
	}
	for h.n < n {
		b, from := h.n/BlockTokens, h.n%BlockTokens
		to := min(BlockTokens, n-b*BlockTokens)
		if b == len(h.blocks) {
			h.blocks = append(h.blocks, codeBlock[C]{codes: make([]C, size)})
		} else if h.blocks[b].shared {
			h.blocks[b] = codeBlock[C]{codes: append([]C(nil), h.blocks[b].codes...)}
		}
		encode(w, h.params, h.blocks[b].codes, b, from, to)
		h.n = b*BlockTokens + to
	}
}
