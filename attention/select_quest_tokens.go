package attention

import (
	"fmt"
	"math"
	"slices"

	"github.com/twilight-go/twilight/internal/tensor"
)

// A page's middle does not see one token: what a query looks for once hides among fifteen others. With channels=N quest looks at every token of a page, by those channels alone that matter
// to the step's queries: a token's logit is that of the page's middle, but for those channels its own 4-bit codes', the estimator's. What the tokens' exponentials add up to makes the page's score.
// It reads N/dim of the codes and keeps nothing beside what middles and the estimator keep.

// lineChannels is how many channels a cache line of 4-bit codes has, of PageTokens tokens: fewer at a time would read no less.
const lineChannels = 8

// maxLines bounds the lines of a token's codes.
const maxLines = 256 / lineChannels

// readChannels reads the argument that says how far tokens count.
func (s *quest) readChannels(a *Args) error {
	s.channels = a.Int("channels", 0, 0, maxLines*lineChannels, "with middle: in so many channels, those that matter most to the queries, every token of a page counts for itself, by its 4-bit codes; a multiple of 8")
	switch {
	case s.channels%lineChannels != 0:
		return unexpected("channels", s.channels, fmt.Sprintf("a multiple of %d", lineChannels))
	case s.channels > 0 && !s.middle:
		return fmt.Errorf("channels=%d: expected middle", s.channels)
	case s.channels > 0:
		s.reach = 0 // how far tokens lie from the middle they say themselves
		s.bounds = append(s.bounds, BlockRange{middleBits})
	}
	return nil
}

// scoreTokens makes scores of pages by middles into scores by tokens, of blocks [lo,hi), all of them full.
func (s quest) scoreTokens(w *Work, lo, hi int, tmp []byte) {
	if s.channels == 0 {
		return
	}
	const room = 4 * maxLines
	dim, lines := w.Head.Dim, s.lines(w, lo, hi, as[int32](tmp[:room]))
	w.Kern.PageTokens(w.AllScores()[lo*BlockPages:], w.ScoreStride(), w.Q, w.Group, dim, lines, w.selectorSlab(0), w.selectorSlab(1), w.Head.Table[lo:hi], w.ready().from(lo, w.Group, dim), tmp[room:])
}

// lines chooses the lines of codes that tell the tokens of blocks [lo,hi) apart: those with the most of Σ_c (q_c·step_c)², of which each query head of the group gives out one. The steps are
// those of a few of the blocks, as their middles have them.
func (s quest) lines(w *Work, lo, hi int, room []int32) []int32 {
	const apart = 8 // one block in so many
	dim, n := w.Head.Dim, min(w.Head.Dim/lineChannels, maxLines)
	var steps [maxLines * lineChannels]float32
	for b := lo; b < hi; b += apart {
		for c, x := range as[uint16](w.SelectorPlane(0, b))[dim:][:n*lineChannels] {
			step := tensor.F16ToF32(x)
			steps[c] += step * step
		}
	}
	var matter [maxLines]float32
	for g := range w.Group {
		var own [maxLines]float32
		var all float32
		for c, x := range w.Q[g*dim:][:n*lineChannels] {
			own[c/lineChannels] += x * x * steps[c]
		}
		for _, x := range own[:n] {
			all += x
		}
		if !(all > 0 && all <= math.MaxFloat32) {
			continue
		}
		for i, x := range own[:n] {
			matter[i] += x / all
		}
	}
	lines := largest(matter[:n], room[:min(s.channels/lineChannels, n)])
	slices.Sort(lines) // in the order of memory
	return lines
}

// PageTokens implements Kernels.
func (Portable) PageTokens(dst []float32, ld int, q []float32, group, dim int, lines []int32, middles, codes []byte, blocks []int32, _ Ready, _ []byte) {
	shape, mids := BlockRange{middleBits}, Middles{}
	size, page := shape.BlockBytes(dim), shape.PageBytes(dim)
	for i, b := range blocks {
		block, middle := codes[int(b)*size:][:size], middles[int(b)*mids.BlockBytes(dim):][mids.HeadBytes(dim):]
		step := as[uint16](block[:4*dim])[dim:]
		for p := range BlockPages {
			tokens := block[shape.HeadBytes(dim)+p*page:][:page]
			for g := range group {
				sum := 0.
				for t := range PageTokens {
					var beyond float32
					for _, line := range lines {
						for c := int(line) * lineChannels; c < int(line+1)*lineChannels; c++ {
							beyond += q[g*dim+c] * tensor.F16ToF32(step[c]) * float32(int(getCode(tokens, middleBits, t, c))-int(getCode(middle, middleBits, p, c)))
						}
					}
					sum += math.Exp(float64(beyond))
				}
				dst[g*ld+i*BlockPages+p] += float32(math.Log(sum))
			}
		}
	}
}
