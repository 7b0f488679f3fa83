package attention

import (
	"fmt"
	"math"
)

// snapkv is SnapKV (arXiv 2404.14469): once, at the first step after a prompt, the prompt is compressed to the tokens that its last queries attend to. Their weights are
// summed over the window of queries and over the query heads that share a KV head (which could hold but one choice), pooled over neighbouring tokens so that whole
// passages survive, and the best are kept beside the window itself. What was dropped is never attended to again; tokens decoded later all are.
//
// It keeps the window's queries per sequence, 4·window·group·d bytes a layer and KV head, and a bit a token. The compression is the prompt's work and not counted among the bytes of a step, which reads nothing. Memory of the
// dropped tokens is not freed. A prompt that was not seen, because its cache was loaded, is compressed by the first step's query alone; a longer prompt, or one that was
// cut, is compressed anew from the whole text.
type snapkv struct {
	noScan
	budget
	window, kernel int
	mean           bool
}

func init() {
	RegisterSelector("snapkv", Info{Doc: "the prompt once compressed to what its last queries attend to", Paper: "2404.14469", New: func(a *Args) (any, error) {
		s := snapkv{budget: readBudget(a, "budget"), window: a.Int("window", 32, 1, 1<<12, "last queries of the prompt that decide"),
			kernel: a.Int("kernel", 7, 1, 255, "tokens that are pooled")}
		switch pool := a.Text("pool", "max", "max or mean"); pool {
		case "max":
		case "mean":
			s.mean = true
		default:
			return nil, unexpected("pool", pool, "max or mean")
		}
		return s, nil
	}})
}

// PerToken implements Coster: a bit.
func (snapkv) PerToken(int) (stores, reads float64) { return 1. / 8, 0 }

// NewState implements Stateful.
func (s snapkv) NewState(shape Shape) State {
	return &snapState{name: fmt.Sprintf("snapkv window=%d kernel=%d mean=%t", s.window, s.kernel, s.mean), kvHeads: shape.KVHeads, heads: make([]snapHead, shape.Layers*shape.KVHeads), scratch: make([][]float32, shape.KVHeads)}
}

type snapState struct {
	name    string
	common  *common[[]float32] // the prompt's pooled weights
	kvHeads int
	heads   []snapHead  // by layer and KV head
	scratch [][]float32 // by KV head
}

type snapHead struct {
	recent recentQueries
	prompt int      // tokens that were compressed; 0: none yet
	kept   []uint16 // lanes by page
}

func (s *snapState) head(layer, kv int) *snapHead { return &s.heads[layer*s.kvHeads+kv] }

// Fork implements State.
func (s *snapState) Fork() State {
	f := &snapState{name: s.name, kvHeads: s.kvHeads, heads: make([]snapHead, len(s.heads)), scratch: make([][]float32, len(s.scratch))}
	for i := range s.heads {
		h := &s.heads[i]
		f.heads[i] = snapHead{h.recent.fork(), h.prompt, append([]uint16(nil), h.kept...)}
	}
	return f
}

// join implements joining.
func (s *snapState) join(p *parting) { s.common = commonOf[[]float32](p, s.name, len(s.heads)) }

// Truncate implements State.
func (s *snapState) Truncate(n int) {
	if s.common != nil && n < s.common.at {
		s.common = nil
	}
	for i := range s.heads {
		h := &s.heads[i]
		h.recent.truncate(n)
		if n < h.prompt {
			h.prompt = 0
		}
	}
}

// Observed implements Observer.
func (s snapkv) Observed() int { return s.window }

// Observe implements Observer.
func (s snapkv) Observe(o *Observation) {
	h := o.State.(*snapState).head(o.Layer, o.KVHead)
	h.recent.observe(o, s.window)
	h.prompt = 0
}

// Choose implements Selector.
func (s snapkv) Choose(w *Work) {
	st := w.State().(*snapState)
	h := st.head(w.Layer(), w.KVHead())
	if h.prompt == 0 || h.prompt > w.Head.N {
		s.compress(w, st, h)
	}
	for g := range w.Group {
		w.proposeMasks(g, 0, h.kept)
		w.Propose(g, h.prompt, w.Head.N)
	}
}

// compress decides what is kept of the prompt.
func (s snapkv) compress(w *Work, st *snapState, h *snapHead) {
	h.prompt = max(min(h.recent.end, w.Head.N), 0)
	from := min(h.recent.first, h.prompt)
	if from == h.prompt { // nobody saw it
		h.prompt = max(w.Head.N-1, 1)
		from = h.prompt
	}
	n, seen := tokenScores(h.prompt), h.prompt-from
	all, scratch := w.Scratch(2*n), &st.scratch[w.KVHead()]
	pooled, sum := all[:n], all[n:][:h.prompt]
	clear(sum)
	switch {
	case seen == 0:
		*scratch = addWeights(sum, &w.Head, w.Kern, w.Q, w.Group, h.prompt, *scratch)
		s.pool(pooled[:h.prompt], sum)
	case h.prompt == w.Head.N-1 && st.common.covers(h.prompt):
		copy(pooled, st.common.head(w.Layer()*st.kvHeads+w.KVHead(), func() []float32 {
			made := make([]float32, h.prompt)
			s.weigh(w, h, from, made, sum, scratch)
			return made
		}))
	default:
		s.weigh(w, h, from, pooled[:h.prompt], sum, scratch)
	}
	for i := from; i < n; i++ {
		pooled[i] = negInf
		if i < h.prompt {
			pooled[i] = float32(math.Inf(1)) // the window
		}
	}
	h.kept = grow(h.kept, n/PageTokens)
	bestOf(w.Kern, pooled, max(s.of(h.prompt), seen), h.kept)
}

// weigh pools the weights that the prompt's queries from a position on give its tokens; sum is zero.
func (s snapkv) weigh(w *Work, h *snapHead, from int, pooled, sum []float32, scratch *[]float32) {
	for p := from; p < h.prompt; p++ {
		*scratch = addWeights(sum, &w.Head, w.Kern, h.recent.at(p, w.Group*w.Head.Dim), w.Group, p+1, *scratch)
	}
	s.pool(pooled, sum)
}

// pool sets dst to the largest or the mean of the kernel tokens around each.
func (s snapkv) pool(dst, src []float32) {
	for i := range src {
		near := src[max(0, i-s.kernel/2):min(len(src), i+(s.kernel+1)/2)]
		var sum float32
		for _, x := range near {
			if s.mean {
				sum += x / float32(len(near))
			} else {
				sum = max(sum, x)
			}
		}
		dst[i] = sum
	}
}
