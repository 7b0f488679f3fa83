package attention

import (
	"fmt"
	"slices"
)

// h2o is H2O (arXiv 2306.14048): the tokens that gathered the most attention so far (heavy hitters) and the latest ones, half of the budget each as in the paper. When the
// budget is exceeded the token of least accumulated weight is evicted, and does not return. Weights are summed over the query heads that share a KV head, since what
// is evicted is evicted for all of them.
//
// It keeps per layer and KV head the accumulated weight (4 bytes) of every token and the list of those that live, and reads the keys of those to learn their weights.
// Memory of the evicted tokens is not freed.
//
// The prompt's weights are those of its last queries (observe=N), computed at the first step after it: at 8K tokens the default costs a sixtieth of the prompt's own
// attention, and is not counted among the bytes of a step. observe=0 takes all queries, as the paper does, which doubles that attention. A prompt that was not seen, because its cache was loaded, is weighed by the
// first step's query. A text that is cut begins anew with what is known of the prompt.
type h2o struct {
	noScan
	budget
	recent  float64
	observe int
}

func init() {
	RegisterSelector("h2o", Info{Doc: "tokens of most accumulated weight, and the latest; evicts", Paper: "2306.14048", New: func(a *Args) (any, error) {
		return h2o{budget: readBudget(a, "budget"), recent: a.Float("recent", 0.5, 0, 1, "share of the budget for the latest tokens"),
			observe: a.Int("observe", 64, 0, 1<<12, "last queries of the prompt that count; 0: all")}, nil
	}})
}

// PerToken implements Coster: sums and the list of the living; their keys.
func (s h2o) PerToken(dim int) (stores, reads float64) {
	return 4 + 4*s.keep, s.keep * 2 * float64(dim)
}

// NewState implements Stateful.
func (s h2o) NewState(shape Shape) State {
	return &h2oState{name: fmt.Sprintf("h2o observe=%d", s.observe), kvHeads: shape.KVHeads, books: make([]h2oBook, shape.Layers*shape.KVHeads), scratch: make([][]float32, shape.KVHeads)}
}

type h2oState struct {
	name    string
	common  *common[[]float32] // the weights that the prompt's last queries give its tokens
	kvHeads int
	books   []h2oBook   // by layer and KV head
	scratch [][]float32 // by KV head
}

// h2oBook is what one KV head of a layer knows.
type h2oBook struct {
	queries recentQueries // of the prompt; with observe=0 none are kept
	prior   []float32     // observe=0: weight of each token, summed over the prompt's queries
	n       int           // tokens that live or were evicted; 0: no step was made
	counted int           // queries before this position are in the sums
	sum     []float32     // accumulated weight of each token
	alive   []int32       // ascending
}

func (s *h2oState) book(layer, kv int) *h2oBook { return &s.books[layer*s.kvHeads+kv] }

// Fork implements State.
func (s *h2oState) Fork() State {
	f := &h2oState{name: s.name, kvHeads: s.kvHeads, books: make([]h2oBook, len(s.books)), scratch: make([][]float32, len(s.scratch))}
	for i := range s.books {
		b := &s.books[i]
		f.books[i] = h2oBook{b.queries.fork(), slices.Clone(b.prior), b.n, b.counted, slices.Clone(b.sum), slices.Clone(b.alive)}
	}
	return f
}

// join implements joining.
func (s *h2oState) join(p *parting) { s.common = commonOf[[]float32](p, s.name, len(s.books)) }

// Truncate implements State.
func (s *h2oState) Truncate(n int) {
	if s.common != nil && n < s.common.at {
		s.common = nil
	}
	for i := range s.books {
		b := &s.books[i]
		b.queries.truncate(n)
		if n < len(b.prior) {
			b.prior = b.prior[:0] // dropped queries are in it
		}
		b.forget()
	}
}

// forget drops what was decoded.
func (b *h2oBook) forget() { b.n, b.counted, b.sum, b.alive = 0, 0, b.sum[:0], b.alive[:0] }

// Observed implements Observer.
func (s h2o) Observed() int { return s.observe }

// Observe implements Observer.
func (s h2o) Observe(o *Observation) {
	st := o.State.(*h2oState)
	b := st.book(o.Layer, o.KVHead)
	if s.observe > 0 {
		b.queries.observe(o, s.observe)
		return
	}
	b.prior = extend(b.prior, o.First+o.Rows)
	b.sum = extend(b.sum, len(b.prior))
	for i := range o.Rows {
		n := o.First + i + 1
		weights := &st.scratch[o.KVHead]
		*weights = grow(*weights, n+o.Group*n)
		own := (*weights)[:n]
		clear(own)
		addWeights(own, &o.Head, o.Kern, o.Q[i*o.Stride:][:o.Group*o.Head.Dim], o.Group, n, (*weights)[n:])
		for t, x := range own {
			b.prior[t] += x
			b.sum[t] += x
		}
	}
}

// extend is s with n elements, the new ones zero.
func extend(s []float32, n int) []float32 {
	for len(s) < n {
		s = append(s, 0)
	}
	return s
}

// Choose implements Selector.
func (s h2o) Choose(w *Work) {
	st := w.State().(*h2oState)
	b, scratch := st.book(w.Layer(), w.KVHead()), &st.scratch[w.KVHead()]
	s.learn(w, st, b, scratch)
	b.live(w.Head.N - 1)
	s.evict(w, b, w.Head.N-1) // what the prompt or the step before left too many
	b.live(w.Head.N)
	for _, t := range b.alive {
		for g := range w.Group {
			w.ProposeLanes(g, int(t)/PageTokens, 1<<(t%PageTokens))
		}
	}
	b.count(w, scratch)
}

// learn takes in the prompt's weights, as far as they are not counted yet.
func (s h2o) learn(w *Work, st *h2oState, b *h2oBook, scratch *[]float32) {
	if b.n > w.Head.N {
		b.forget()
	}
	if b.n == 0 {
		b.sum = append(b.sum[:0], b.prior...)
	}
	b.sum = extend(b.sum, w.Head.N)
	q := &b.queries
	add := func(sum []float32, from int) {
		for p := max(q.first, from); p < min(q.end, w.Head.N); p++ {
			*scratch = addWeights(sum, &w.Head, w.Kern, q.at(p, w.Group*w.Head.Dim), w.Group, p+1, *scratch)
		}
	}
	if b.n == 0 && b.counted == 0 && len(b.prior) == 0 && q.end <= w.Head.N-1 && st.common.covers(w.Head.N-1) {
		copy(b.sum, st.common.head(w.Layer()*st.kvHeads+w.KVHead(), func() []float32 {
			sum := make([]float32, w.Head.N-1)
			add(sum, 0)
			return sum
		}))
	} else {
		add(b.sum, b.counted)
	}
	b.counted = max(b.counted, q.end)
	if b.n == 0 && q.first == q.end && len(b.prior) == 0 {
		*scratch = addWeights(b.sum, &w.Head, w.Kern, w.Q, w.Group, w.Head.N, *scratch)
	}
}

// live adds the tokens up to n.
func (b *h2oBook) live(n int) {
	for ; b.n < n; b.n++ {
		b.alive = append(b.alive, int32(b.n))
	}
}

// evict removes the tokens of least weight until the living are within the budget of n tokens; the latest stay.
func (s h2o) evict(w *Work, b *h2oBook, n int) {
	want := s.of(max(n, 1))
	if len(b.alive) <= want {
		return
	}
	old := len(b.alive) - int(s.recent*float64(want)+0.5)
	heavy := want - (len(b.alive) - old)
	weights := w.Scratch(old)
	for i, t := range b.alive[:old] {
		weights[i] = b.sum[t]
	}
	kept := 0
	if heavy > 0 {
		eachBest(w.Kern, weights, heavy, func(i int) {
			b.alive[kept] = b.alive[i]
			kept++
		})
	}
	b.alive = b.alive[:kept+copy(b.alive[kept:], b.alive[old:])]
}

// count adds this step's weights of the living.
func (b *h2oBook) count(w *Work, scratch *[]float32) {
	n := len(b.alive)
	rows := w.Ints(n)
	for i, t := range b.alive {
		rows[i] = w.Head.Row(int(t))
	}
	*scratch = grow(*scratch, w.Group*n)
	w.Kern.Dot(*scratch, n, w.Q, w.Group, w.Head.Dim, w.Head.K, rows, nil)
	w.ReadBytes(n * w.Head.Dim * 2)
	for g := range w.Group {
		weights := (*scratch)[g*n:][:n]
		total := w.Kern.Exp(weights, w.Kern.Max(weights))
		if !(total > 0) {
			continue
		}
		for i, t := range b.alive {
			b.sum[t] += weights[i] / total
		}
	}
}
