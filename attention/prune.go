package attention

import (
	"fmt"
	"math"
)

func init() {
	RegisterPruner("top-k", Info{Doc: "the k candidates of largest estimated weight", New: func(a *Args) (any, error) {
		return topK{k: a.Int("k", 0, 0, 1<<30, "tokens kept"), keep: a.Float("keep", 0, 0, 1, "or the share of the context that is kept")}.check()
	}})
	RegisterPruner("top-p", Info{Doc: "the fewest candidates whose estimated mass is at least p", Paper: "2502.02770", New: func(a *Args) (any, error) {
		return topP{p: a.Float("p", 0.9, 0, 1, "mass that survives, of the candidates' estimated mass")}, nil
	}})
}

// topK keeps a fixed number of candidates.
type topK struct {
	k    int
	keep float64
}

func (t topK) check() (any, error) {
	if t.k == 0 && t.keep == 0 {
		return nil, fmt.Errorf("expected k=TOKENS or keep=SHARE")
	}
	return t, nil
}

// Prune implements Pruner.
func (t topK) Prune(w *Work, g int, weights []float32, _ float32, keep []uint16) {
	k := t.k
	if k == 0 {
		k = int(t.keep*float64(w.Head.N) + 0.5)
	}
	if k = max(k, 1); k >= w.count.b0[g] {
		w.keepAll(g)
	} else {
		bestOf(w.Kern, weights, k, keep)
	}
}

func (w *Work) keepAll(g int) {
	n := len(w.Pages)
	copy(w.keep[g*n:][:n], w.cand[g*n:][:n])
}

// topP is Twilight's pruner: the smallest set of candidates with mass at least p, found by a threshold on the weights.
//
// A token whose weight is under (1−p)/n of the total can never be needed, since all such tokens together hold less than 1−p; so one vector pass discards
// nine tenths of them, and the search runs over what is left. The search halves the interval of float32 bit patterns between a threshold that holds the mass
// and one that does not, until a single weight (or ties) lies between: the set is minimal, and never under p.
type topP struct{ p float64 }

// cutter is a Pruner whose survivors are the tokens of at least some weight.
type cutter interface {
	// cut is that weight, of query head g; false where every candidate survives. It is positive: what is no candidate weighs nothing. It
	// is a multiple of grid in the bits of a float.
	cut(w *Work, g int, weights []float32, total float32, grid uint32) (least float32, ok bool)
	// begin is from which share of the mass that is seen beforehand weights are noted for cut: what is below it is not likely to survive.
	begin(w *Work, g int) float32
}

// Prune implements Pruner.
func (t topP) Prune(w *Work, g int, weights []float32, total float32, keep []uint16) {
	if cut, ok := t.cut(w, g, weights, total, exactGrid); ok {
		w.Kern.Lanes(keep, weights, cut)
	} else {
		w.keepAll(g)
	}
}

// cut implements cutter.
func (t topP) cut(w *Work, g int, weights []float32, total float32, grid uint32) (least float32, ok bool) {
	if t.p >= 1 {
		return 0, false
	}
	mass, rest := float32(t.p)*total, w.Scratch(len(weights)+PageTokens)
	floor := t.floor(total, len(weights))
	pages, from := w.likelyPages(g)
	if pages != nil {
		n := w.Kern.PackPages(rest, weights, pages, w.likely[g*len(w.Pages):])
		if w.searched = newSearch(w.Kern, rest[:n], max(floor, from)); w.searched.held < mass && from > floor {
			pages = nil
		}
	}
	if pages == nil {
		w.searched = newSearch(w.Kern, rest[:w.Kern.Pack(rest, weights, floor)], floor)
	}
	h := w.hint(g)
	least = w.searched.threshold(w.Kern, mass, grid, h.keep*total)
	if w.heldBy = pages; least < from { // by less than the grid
		w.heldBy = nil
	}
	h.cut(least, total, w.near, g)
	return least, true
}

// never is the share of the mass under which none of n weights can be needed.
func (t topP) never(n int) float32 { return float32((1-t.p)/float64(n)) * 0.999 }

// floor is a positive weight under which none of n can be needed, which are so much in total.
func (t topP) floor(total float32, n int) float32 {
	return max(t.never(n)*total, math.SmallestNonzeroFloat32)
}

// begin implements cutter.
func (t topP) begin(w *Work, g int) float32 {
	lately := float32(0)
	if w.cuts != nil {
		lately = w.cuts[g].note * cutBelow
	}
	return max(t.never(w.LogitStride()), lately)
}

// Thresholds are looked for among floats whose bits are a multiple of a grid. What lies around those of precision by weight is not read differently enough to be told apart to the last token:
// one percent will do.
const (
	exactGrid  = 1
	coarseGrid = 1 << 16
	nearGuess  = 1 << 20 // an eighth: how far from a guess thresholds are mostly
)

// search is where thresholds are looked for: among weights of which those of at least from hold so much, and the largest is top. The zero value is none.
type search struct {
	w               []float32
	from, held, top float32
}

// newSearch is the search among w, for thresholds of at least from, which is positive.
func newSearch(k Kernels, w []float32, from float32) search {
	held, _ := k.Above(w, from)
	return search{w, from, held, k.Max(w)}
}

// threshold is the largest t of the grid such that the weights at or above t sum to at least mass; where the search begins if even all of them do not.
// What is found too light on the way is dropped, in its place, if w has room to be packed in; the next search begins at t.
// It looks around guess first, if that is any use.
func (s *search) threshold(k Kernels, mass float32, grid uint32, guess float32) float32 {
	if s.held < mass || len(s.w) == 0 {
		return s.from
	}
	over := float32(0)                                                                             // what is at least hi holds
	lo, hi := max(math.Float32bits(s.from)&^(grid-1), 1), (math.Float32bits(s.top)+grid)&^(grid-1) // w ≥ lo holds the mass, w ≥ hi does not
	nlo, nhi := len(s.w), 0
	for turn := 0; hi-lo > grid && nlo-nhi > 1; turn++ {
		mid := lo + (hi-lo)/2
		switch at := math.Float32bits(guess); {
		case turn == 0 && lo < at && at < hi:
			mid = at
		case turn == 1 && lo == at&^(grid-1) && at+nearGuess < hi: // it held
			mid = lo + nearGuess
		case turn == 1 && hi == at&^(grid-1) && lo+nearGuess < hi: // it did not
			mid = hi - nearGuess
		case turn%2 == 0: // where a straight line has it, from end to end
			mid = lo + min(max(uint32(float32(hi-lo)*((s.held-mass)/(s.held-over))), 1), hi-lo-1)
		}
		mid = max(mid&^(grid-1), lo+grid)
		if sum, n := k.Above(s.w, math.Float32frombits(mid)); sum >= mass {
			lo, nlo, s.held = mid, n, sum
			if n < len(s.w)/2 && cap(s.w) >= len(s.w)+PageTokens {
				s.w = s.w[:k.Pack(s.w[:len(s.w)+PageTokens], s.w, math.Float32frombits(mid))]
			}
		} else {
			hi, nhi, over = mid, n, sum
		}
	}
	s.from = math.Float32frombits(lo)
	return s.from
}
