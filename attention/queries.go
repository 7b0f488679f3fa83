package attention

import "slices"

// recentQueries is the last queries that one KV head of a layer saw of a prompt, without a gap: a ring in which position p stands at row p mod cap.
type recentQueries struct {
	first, end int       // positions [first,end)
	q          []float32 // [cap][row]
	shared     bool      // with forks: it is copied before it is written
}

// observe takes in a chunk. What does not follow the queries already there replaces them.
func (r *recentQueries) observe(o *Observation, most int) {
	row := o.Group * o.Head.Dim
	switch {
	case r.q == nil:
		r.q = make([]float32, most*row)
	case r.shared:
		r.q, r.shared = slices.Clone(r.q), false
	}
	if o.First != r.end {
		r.first = o.First
	}
	r.end = o.First + o.Rows
	r.first = max(r.first, r.end-most)
	for p := max(r.first, o.First); p < r.end; p++ {
		copy(r.q[p%most*row:][:row], o.Q[(p-o.First)*o.Stride:])
	}
}

// at is the group's queries of position p.
func (r *recentQueries) at(p, row int) []float32 { return r.q[p%(len(r.q)/row)*row:][:row] }

func (r *recentQueries) truncate(n int) {
	r.end = min(r.end, n)
	r.first = min(r.first, r.end)
}

func (r *recentQueries) fork() recentQueries {
	r.shared = true
	return *r
}

// addWeights adds to sum[i] the attention weight of token i, exact and summed over the group, of the queries q of the n-th token: over the first n. It returns its scratch.
func addWeights(sum []float32, h *Head, k Kernels, q []float32, group, n int, scratch []float32) []float32 {
	scratch = grow(scratch, group*n)
	for b := range BlocksOf(n) {
		at := b * BlockTokens
		k.Dot(scratch[at:], n, q, group, h.Dim, h.Keys(b), consecutive[:min(BlockTokens, n-at)], nil)
	}
	for g := range group {
		weights := scratch[g*n:][:n]
		total := k.Exp(weights, k.Max(weights))
		if !(total > 0) { // NaN too: a damaged query says nothing
			continue
		}
		k.AddScaled(sum, weights, 1/total)
	}
	return scratch
}
