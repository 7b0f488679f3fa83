package attention

// learnt is the State of selectors that learn from a sequence's keys how to encode them: for each KV head what was learnt, and the codes of its tokens by block. Both are made as
// late as a decode step first reads them: what is learnt from the tokens cached then, codes of tokens as they come. A truncation below the tokens that were learnt from drops
// what was learnt. Blocks are shared with forks until one of them writes.
//
// P is what is learnt, never changed afterwards; C is the element of a block's codes.
type learnt[P any, C uint8 | uint64] struct {
	kvHeads int
	heads   []learntHead[P, C]
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

func newLearnt[P any, C uint8 | uint64](s Shape) *learnt[P, C] {
	return &learnt[P, C]{kvHeads: s.KVHeads, heads: make([]learntHead[P, C], s.Layers*s.KVHeads)}
}

// Fork implements State.
func (l *learnt[P, C]) Fork() State {
	f := &learnt[P, C]{kvHeads: l.kvHeads, heads: make([]learntHead[P, C], len(l.heads))}
	for i := range l.heads {
		h := &l.heads[i]
		for b := range h.blocks {
			h.blocks[b].shared = true
		}
		f.heads[i] = *h
		f.heads[i].blocks = append([]codeBlock[C](nil), h.blocks...)
	}
	return f
}

// Truncate implements State.
func (l *learnt[P, C]) Truncate(n int) {
	for i := range l.heads {
		switch h := &l.heads[i]; {
		case n < h.from:
			*h = learntHead[P, C]{}
		case n < h.n:
			h.n = n
			h.blocks = h.blocks[:(n+BlockTokens-1)/BlockTokens]
		}
	}
}

// head is what is known of the KV head at work, brought up to date: learn is called if nothing was learnt yet, and encode for the tokens [from,to) of block b that have no
// codes, in order and never across blocks. A block has size elements, zero when it is new; those of tokens that were dropped are written over.
func (l *learnt[P, C]) head(w *Work, size int, learn func(*Work) *P, encode func(w *Work, p *P, codes []C, b, from, to int)) *learntHead[P, C] {
	h := &l.heads[w.Layer()*l.kvHeads+w.KVHead()]
	if h.params == nil {
		h.params, h.from = learn(w), w.Head.N
	}
	for h.n < w.Head.N {
		b, from := h.n/BlockTokens, h.n%BlockTokens
		to := min(BlockTokens, w.Head.N-b*BlockTokens)
		if b == len(h.blocks) {
			h.blocks = append(h.blocks, codeBlock[C]{codes: make([]C, size)})
		} else if h.blocks[b].shared {
			h.blocks[b] = codeBlock[C]{codes: append([]C(nil), h.blocks[b].codes...)}
		}
		encode(w, h.params, h.blocks[b].codes, b, from, to)
		h.n = b*BlockTokens + to
	}
	return h
}
