package kernel

import (
	"math"

	"github.com/twilight-go/twilight/attention"
)

// Prefill is a tile of prompt rows that attend densely to one KV head: row r stands at position Pos+r and sees the tokens up to its own, or the last Window of them.
// Tokens are taken in the cache's blocks with a running softmax, so a row's result depends on its position alone, not on the tile that it came in.
type Prefill struct {
	Dst, Q    []float32       // query head g of row r at [r*Stride+g*Dim:]; queries are scaled by 1/√Dim already
	Stride    int             // elements between rows
	Head      *attention.Head // keys and values of at least Pos+Rows tokens
	Pos, Rows int
	Group     int       // query heads
	Window    int       // tokens in sight, 0: all
	Tmp       []float32 // at least PrefillTmp(Rows, Group, Dim)
}

// PrefillTmp is how many elements of scratch a tile of this shape needs. Rows·group of 96 or more keep the cost of widening keys and values small.
func PrefillTmp(rows, group, dim int) int {
	m := (rows*group + 3) &^ 3
	return 2*attention.BlockTokens*dim + m*(2*dim+2) + panelRows*(attention.BlockTokens+1) + 8*16
}

const panelRows = 12 // most query rows of one product

// blocks is the range of blocks that some row of the tile sees.
func (p *Prefill) blocks() (first, end int) {
	if p.Window > 0 {
		first = max(0, p.Pos-p.Window+1) / attention.BlockTokens
	}
	return first, attention.BlocksOf(p.Pos + p.Rows)
}

// sight is the range of tokens of block b that row r sees; it is empty where lo ≥ hi.
func (p *Prefill) sight(r, b int) (lo, hi int) {
	at := p.Pos + r - b*attention.BlockTokens
	if p.Window > 0 {
		lo = max(0, at-p.Window+1)
	}
	return lo, min(at+1, attention.BlockTokens)
}

// running is the softmax so far of one query row.
type running struct{ top, sum float32 }

// soften turns the logits lo ≤ i < hi of a block into weights under the running maximum, and the others into zeros. shrink is what sums made before are to be
// multiplied by.
func soften(k attention.Kernels, s []float32, lo, hi int, r *running) (shrink float32) {
	shrink = 1
	if lo < hi {
		if top := k.Max(s[lo:hi]); top > r.top {
			shrink = float32(math.Exp(float64(r.top - top)))
			r.sum *= shrink
			r.top = top
		}
	}
	if lo >= hi || math.IsInf(float64(r.top), -1) {
		clear(s)
		return shrink
	}
	r.sum += k.Exp(s[lo:hi], r.top)
	clear(s[:lo])
	clear(s[hi:])
	return shrink
}

// prefillRows is Prefill by the kernels of decode, one row after the other: the definition.
func prefillRows(k Kernels, p *Prefill) {
	dim := p.Head.Dim
	logits := p.Tmp[:p.Group*attention.BlockTokens]
	first, end := p.blocks()
	for r := range p.Rows {
		out := p.Dst[r*p.Stride:][:p.Group*dim]
		clear(out)
		run := p.Tmp[len(logits):][:2*p.Group]
		for g := range p.Group {
			run[2*g], run[2*g+1] = float32(math.Inf(-1)), 0
		}
		for b := first; b < end; b++ {
			lo, hi := p.sight(r, b)
			if lo >= hi {
				continue
			}
			at := consecutive[lo:hi]
			k.Dot(logits, len(at), p.Q[r*p.Stride:], p.Group, dim, p.Head.Keys(b), at, nil)
			for g := range p.Group {
				state := running{run[2*g], run[2*g+1]}
				if f := soften(k, logits[g*len(at):][:len(at)], 0, len(at), &state); f != 1 {
					k.Scale(out[g*dim:][:dim], f)
				}
				run[2*g], run[2*g+1] = state.top, state.sum
			}
			k.Accumulate(out, logits, len(at), p.Group, dim, p.Head.Values(b), at, nil)
		}
		for g := range p.Group {
			k.Scale(out[g*dim:][:dim], 1/run[2*g+1])
		}
	}
}

var consecutive = func() (at [attention.BlockTokens]int32) {
	for i := range at {
		at[i] = int32(i)
	}
	return
}()

// Prefill implements Kernels.
func (k portable) Prefill(p *Prefill) { prefillRows(k, p) }
