package attention

import "math/bits"

// hip is HiP (arXiv 2406.09827): a tree search for the best blocks of keys, on the observation that neighbours have similar logits. What lies between sink and window is
// cut into as many equal nodes as blocks are wanted; each round halves every node, takes the logit of a half's middle token for the whole half, and keeps the better half
// of the halves, until nodes are blocks. Keeps no metadata; reads 2·k/block keys a round, and there are ⌈log₂(N/k)⌉ rounds.
//
// The paper searches with k = 512 in blocks of 2 beside 16 sink tokens and a window of 256, and leaves three layers dense (when:dense-layers=3).
type hip struct {
	noScan
	k, block, sink, window int
	shared                 bool
}

func init() {
	RegisterSelector("hip", Info{Doc: "blocks found by halving nodes for which a middle token speaks", Paper: "2406.09827", New: func(a *Args) (any, error) {
		return hip{
			k:      a.Int("k", 512, 1, 1<<24, "tokens that the search proposes"),
			block:  a.Int("block", 2, 1, 256, "tokens a leaf of the tree"),
			sink:   a.Int("sink", 16, 0, 1<<24, "first tokens always kept"),
			window: a.Int("window", 256, 0, 1<<24, "latest tokens always kept"),
			shared: a.Flag("shared", "one search for the group, by the sum of its heads' softmaxes over the halves"),
		}, nil
	}})
}

// PerToken implements Coster: the keys of all halves, at most, in as many rounds as a text of MethodTokens takes.
func (s hip) PerToken(dim int) (stores, reads float64) {
	leaves := (max(MethodTokens-s.sink-s.window, 1) + s.block - 1) / s.block
	beam := min(max(s.k/s.block, 1), leaves)
	rounds := bits.Len(uint((leaves - 1) / beam)) // that halve nodes of ⌈leaves/beam⌉ leaves down to one
	return 0, float64(rounds*2*beam*2*dim) / MethodTokens
}

// Choose implements Selector.
func (s hip) Choose(w *Work) {
	lo := min(s.sink, w.Head.N)
	hi := max(lo, w.Head.N-s.window)
	for g := range w.Group {
		w.Propose(g, 0, lo)
		w.Propose(g, hi, w.Head.N)
	}
	if hi == lo {
		return
	}
	if s.shared {
		s.search(w, lo, hi, 0, w.Group)
		return
	}
	for g := range w.Group {
		s.search(w, lo, hi, g, 1)
	}
}

// search proposes the best blocks of tokens [lo,hi) to heads query heads from the g-th on, which search together.
func (s hip) search(w *Work, lo, hi, g, heads int) {
	leaves := (hi - lo + s.block - 1) / s.block
	beam := min(max(s.k/s.block, 1), leaves)
	scratch := w.Ints(6 * beam)
	from, to, rows := scratch[:2*beam], scratch[2*beam:4*beam], scratch[4*beam:] // nodes, in leaves, ascending
	scores := w.Scratch(heads * 2 * beam)
	n := beam
	for i := range n {
		from[i], to[i] = int32(i*leaves/n), int32((i+1)*leaves/n)
	}
	for {
		m := halve(from, to, n)
		if m == n {
			break
		}
		for i := range m {
			middle := lo + (int(from[i])+int(to[i]))*s.block/2
			rows[i] = w.Head.Row(min(middle, hi-1))
		}
		w.Kern.Dot(scores, 2*beam, w.Q[g*w.Head.Dim:][:heads*w.Head.Dim], heads, w.Head.Dim, w.Head.K, rows[:m], nil)
		w.ReadBytes(m * w.Head.Dim * 2)
		shares(w.Kern, scores, 2*beam, heads, m)
		n = keepNodes(w.Kern, from, to, scores[:m], beam)
	}
	for i := range n {
		for h := range heads {
			w.Propose(g+h, lo+int(from[i])*s.block, min(lo+int(to[i])*s.block, hi))
		}
	}
}

// halve splits the first n nodes that hold more than a leaf, in place and in order, and returns how many nodes there are then.
func halve(from, to []int32, n int) int {
	m := n
	for i := range n {
		if to[i]-from[i] > 1 {
			m++
		}
	}
	for i, at := n-1, m-1; at > i; i-- {
		lo, hi := from[i], to[i]
		if hi-lo > 1 {
			mid := (lo + hi) / 2
			from[at], to[at] = mid, hi
			at--
			hi = mid
		}
		from[at], to[at] = lo, hi
		at--
	}
	return m
}

// keepNodes keeps the best of the nodes, at most want, in order, and returns how many.
func keepNodes(k Kernels, from, to []int32, score []float32, want int) (n int) {
	if len(score) <= want {
		return len(score)
	}
	eachBest(k, score, want, func(i int) {
		from[n], to[n] = from[i], to[i]
		n++
	})
	return n
}
