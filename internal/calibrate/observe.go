package calibrate

import (
	"cmp"
	"math"
	"slices"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

// observer adds up what it sees of a prompt. KV heads are observed concurrently, so each has its own sums.
type observer struct {
	attention.Shape
	samples []int // positions, ascending
	keep    float64
	heads   []head // [layer][KV head]
	layers  []kvLayers
}

// head is the sums of one KV head of a layer, by channel.
type head struct {
	seen           bool
	k, q           []float64 // Σ|k|, and Σ|q| over the group's queries
	sampled        int
	sets           [][]int32 // the sampled queries of the chunk: tokens of largest weight, [sample][query head]
	weights, order []float32
}

// kvLayers is, for one KV head, Σ of the mass in layer b of the tokens that layer a selects, over samples and query heads: [a][b].
type kvLayers [][]float64

func newObserver(t *Text, s attention.Shape) *observer {
	o := &observer{Shape: s, keep: t.Keep, heads: make([]head, s.Layers*s.KVHeads)}
	for i := range t.Samples {
		at := t.Tokens/2 + (t.Tokens-t.Tokens/2)*(i+1)/t.Samples - 1
		if at > 0 && !slices.Contains(o.samples, at) {
			o.samples = append(o.samples, at)
		}
	}
	for i := range o.heads {
		o.heads[i] = head{k: make([]float64, s.Dim), q: make([]float64, s.Dim)}
	}
	for range s.KVHeads {
		m := make(kvLayers, s.Layers)
		for a := range m {
			m[a] = make([]float64, s.Layers)
		}
		o.layers = append(o.layers, m)
	}
	return o
}

// observe is called for each layer, KV head and chunk.
func (o *observer) observe(ob *attention.Observation) {
	if o == nil { // nothing is being calibrated
		return
	}
	h := &o.heads[ob.Layer*o.KVHeads+ob.KVHead]
	for p := ob.First; p < ob.First+ob.Rows; p++ {
		row := int(ob.Head.Row(p)) * o.Dim
		for c, x := range ob.Head.K[row : row+o.Dim] {
			h.k[c] += math.Abs(float64(tensor.F16ToF32(x)))
		}
		for i, x := range ob.Q[(p-ob.First)*ob.Stride:][:o.Group*o.Dim] {
			h.q[i%o.Dim] += math.Abs(float64(x))
		}
	}
	h.seen = true
	n := 0
	for _, p := range o.samples {
		if p >= ob.First && p < ob.First+ob.Rows {
			o.sample(ob, h, n, p)
			n++
		}
	}
	h.sampled += n
}

// sample compares the layer's weights of the query at position p, the n-th of the chunk, with what the layers before selected for it.
func (o *observer) sample(ob *attention.Observation, h *head, n, p int) {
	tokens := p + 1
	h.weights = slices.Grow(h.weights[:0], o.Group*tokens)[:o.Group*tokens]
	var at [attention.BlockTokens]int32
	for i := range at {
		at[i] = int32(i)
	}
	for b := range attention.BlocksOf(tokens) {
		first := b * attention.BlockTokens
		ob.Kern.Dot(h.weights[first:], tokens, ob.Q[(p-ob.First)*ob.Stride:], o.Group, o.Dim, ob.Head.Keys(b), at[:min(attention.BlockTokens, tokens-first)], nil)
	}
	want := max(int(o.keep*float64(tokens)+0.5), 1)
	for g := range o.Group {
		w := h.weights[g*tokens:][:tokens]
		total := ob.Kern.Exp(w, ob.Kern.Max(w))
		i := n*o.Group + g
		if i == len(h.sets) {
			h.sets = append(h.sets, nil)
		}
		h.sets[i], h.order = heaviest(h.sets[i][:0], w, want, h.order)
		for a := range ob.Layer + 1 {
			from := &o.heads[a*o.KVHeads+ob.KVHead]
			if !from.seen {
				continue // a layer with a window, which nobody sees
			}
			var sum float64
			for _, t := range from.sets[i] {
				sum += float64(w[t])
			}
			o.layers[ob.KVHead][a][ob.Layer] += sum / float64(total)
		}
	}
}

// heaviest appends the want tokens of largest weight, of equal ones the earlier.
func heaviest(set []int32, w []float32, want int, order []float32) ([]int32, []float32) {
	order = append(order[:0], w...)
	slices.SortFunc(order, func(a, b float32) int { return cmp.Compare(b, a) })
	line := order[want-1]
	ties := want
	for _, x := range order[:want] {
		if x > line {
			ties--
		}
	}
	for t, x := range w {
		if x > line || x == line && ties > 0 {
			if x == line {
				ties--
			}
			set = append(set, int32(t))
		}
	}
	return set, order
}

// channels ranks the channels of every head by Σ|q_c·k_c| over the group's queries and all keys, which is Σ|q_c|·Σ|k_c|.
func (o *observer) channels() (out [][][]int) {
	for l := range o.Layers {
		var heads [][]int
		for kv := range o.KVHeads {
			h := &o.heads[l*o.KVHeads+kv]
			importance := make([]float64, o.Dim)
			for c := range importance {
				importance[c] = h.q[c] * h.k[c]
			}
			heads = append(heads, ranked(importance))
		}
		out = append(out, heads)
	}
	return out
}

// ranked is the indices of x by falling value, of equal ones the lower.
func ranked(x []float64) []int {
	at := make([]int, len(x))
	for i := range at {
		at[i] = i
	}
	slices.SortStableFunc(at, func(a, b int) int { return cmp.Compare(x[b], x[a]) })
	return at
}

// held is the mean mass, by layers a and b, that the selection of layer a holds in layer b; 0 where a comes after b or either was not seen.
func (o *observer) held() [][]float64 {
	m := make([][]float64, o.Layers)
	for a := range m {
		m[a] = make([]float64, o.Layers)
		for b := range m[a] {
			n := 0
			for kv := range o.KVHeads {
				m[a][b] += o.layers[kv][a][b]
				n += o.heads[b*o.KVHeads+kv].sampled * o.Group
			}
			if n > 0 {
				m[a][b] /= float64(n)
			}
		}
	}
	return m
}
