package attention

import (
	"math"
	"slices"
)

// sparq is SparQ (arXiv 2312.04985): partial logits over the r channels in which this very query is largest, at the temperature √(d·Σ_r|q|/Σ|q|) that makes up for
// those left out; the best tokens are attended to, and the rest counts as its estimated mass times the mean value (the paper's reallocation).
//
// To read single channels it keeps the keys a second time, channel by channel: 2·d bytes a token (half of an fp16 cache again), of which a step reads r/d for each
// query head. The paper's r is 32 of 128 channels; its k is 128 tokens.
type sparq struct {
	budget
	channels int
}

// maxSparq bounds the channels of a query that are looked at, so that their list is of fixed size.
const maxSparq = 256

var sparqPlanes = []Plane{KeyChannels{}}

func init() {
	RegisterSelector("sparq", Info{Doc: "tokens by the query's largest channels; the rest by the mean value", Paper: "2312.04985", New: func(a *Args) (any, error) {
		return sparq{budget: readBudget(a, "budget"), channels: a.Int("channels", 0, 0, maxSparq, "channels of the query; 0: a quarter of them")}, nil
	}})
}

// Planes implements Selector.
func (sparq) Planes() []Plane { return sparqPlanes }

// Scores implements Selector. Channels are added up in whole blocks.
func (sparq) Scores(n int) int { return BlocksOf(n) * BlockTokens }

// PerToken implements Coster: the channels of one query head; those of a group differ.
func (s sparq) PerToken(dim int) (stores, reads float64) {
	return 2 * float64(dim), 2 * float64(s.width(dim))
}

// width is the number of channels of dim that are looked at.
func (s sparq) width(dim int) int {
	r := s.channels
	if r == 0 {
		r = max(dim/4, 1)
	}
	return min(r, dim, maxSparq)
}

// Compensates implements Compensator.
func (sparq) Compensates() {}

// Scan implements Selector.
func (s sparq) Scan(w *Work, lo, hi int) {
	dim := w.Head.Dim
	r, tmp := s.width(dim), w.scanTmp(lo)
	at, weights := as[int32](tmp[:4*r*w.Group]), as[float32](tmp[4*r*w.Group:8*r*w.Group])
	for g := range w.Group {
		q, own := w.Q[g*dim:][:dim], at[g*r:][:r]
		slices.Sort(largest(q, own))
		for i, c := range own {
			weights[g*r+i] = q[c]
		}
	}
	for b := lo; b < hi; b++ {
		channels := as[uint16](w.SelectorPlane(0, b)) // a channel of a block is a row as the kernel knows it
		for g := range w.Group {
			sum := w.ScoreSlice(g)[b*BlockTokens:][:BlockTokens]
			clear(sum)
			w.Kern.Accumulate(sum, weights[g*r:], r, 1, BlockTokens, channels, at[g*r:][:r], nil)
		}
	}
}

// Choose implements Selector.
func (s sparq) Choose(w *Work) {
	dim, n := w.Head.Dim, w.Head.N
	w.ReadBytes(min(s.width(dim)*w.Group, dim) * n * 2)
	var list [maxSparq]int32
	for g := range w.Group {
		scores := w.laneScores(g)
		q := w.Q[g*dim:][:dim]
		var some, all float64
		for _, c := range largest(q, list[:s.width(dim)]) {
			some += math.Abs(float64(q[c]))
		}
		for _, x := range q {
			all += math.Abs(float64(x))
		}
		weights, sharpen := w.Scratch(len(scores)), float32(1)
		if some > 0 {
			sharpen = float32(math.Sqrt(all / some))
		}
		clear(weights)
		w.Kern.AddScaled(weights, scores, sharpen)
		total := w.Kern.Exp(weights, w.Kern.Max(weights))
		w.proposeBest(g, scores, s.of(n))
		if held := w.proposedSum(g, weights); total > 0 {
			w.Hold(g, held/total)
		}
	}
}

// proposedSum is the sum of the weights of the tokens that query head g will be given: its proposals, within the chain, and the newest page.
func (w *Work) proposedSum(g int, weights []float32) float32 {
	masks := w.maskScratch(w.Head.Pages())
	for p := range masks {
		masks[p] = w.proposed(g, int32(p)) & w.Bounded(g, p)
	}
	masks[len(masks)-1] = 0xffff
	return w.Kern.SumLanes(weights, masks)
}

// largest fills at with the channels of the len(at) elements of q that are largest in absolute value, in falling order; of equal ones, and of NaN, the earlier.
func largest(q []float32, at []int32) []int32 {
	n := 0
	for c, x := range q {
		x = float32(math.Abs(float64(x)))
		i := n
		if n < len(at) {
			n++
		} else if i--; !(x > float32(math.Abs(float64(q[at[i]])))) {
			continue
		}
		for ; i > 0 && x > float32(math.Abs(float64(q[at[i-1]]))); i-- {
			at[i] = at[i-1]
		}
		at[i] = int32(c)
	}
	return at[:n]
}

// KeyChannels holds the keys channel by channel, fp16, so that a few channels of many tokens can be read. Layout of a block: [dim][BlockTokens].
type KeyChannels struct{}

// Name implements Plane.
func (KeyChannels) Name() string { return "key-channels" }

// BlockBytes implements Plane: as much as the keys.
func (KeyChannels) BlockBytes(dim int) int { return BlockTokens * dim * 2 }

// Append implements Plane.
func (KeyChannels) Append(dst []byte, r Rows) {
	k := as[uint16](dst)
	for t := r.From; t < r.To; t++ {
		for c, x := range r.K[t*r.Dim : t*r.Dim+r.Dim] {
			k[c*BlockTokens+t] = x
		}
	}
}
