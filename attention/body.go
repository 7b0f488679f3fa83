package attention

import (
	"math/bits"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Precision by weight. Of a head's survivors, the few that hold the first share of the estimated mass (Spec.Exact) are read exactly. The others, the body,
// carry little weight each, so what is known of them cheaply is good enough: their estimated logit stands for the exact one and their value is read in 8 bits. The pruned
// tail may count as its estimated mass times the mean value. The three meet in one softmax: exact logits and estimated ones are of one scale.

// ValueCodes holds values of 8 bits: v_c ≈ scale·u_c with u_c in [−127, 127] and a scale for each token, which ValueScales holds, so that a row of the slab is a row of
// the values' slab. Layout of a block: int8 [BlockTokens][dim].
type ValueCodes struct{}

// Name implements Plane.
func (ValueCodes) Name() string { return "value-codes" }

// BlockBytes implements Plane.
func (ValueCodes) BlockBytes(dim int) int { return BlockTokens * dim }

// Append implements Plane. A value that is no finite number counts as zero.
func (ValueCodes) Append(dst []byte, r Rows) {
	for t := r.From; t < r.To; t++ {
		inv := float32(0)
		if s := valueScale(r, t); s > 0 {
			inv = 1 / s
		}
		for c, h := range r.V[t*r.Dim:][:r.Dim] {
			x := finite(h) * inv
			if x < 0 {
				x -= 0.5
			} else {
				x += 0.5
			}
			dst[t*r.Dim+c] = byte(int8(x))
		}
	}
}

// ValueScales holds the scales of ValueCodes. Layout of a block: float32 [BlockTokens].
type ValueScales struct{}

// Name implements Plane.
func (ValueScales) Name() string { return "value-scales" }

// BlockBytes implements Plane.
func (ValueScales) BlockBytes(int) int { return 4 * BlockTokens }

// Append implements Plane.
func (ValueScales) Append(dst []byte, r Rows) {
	scale := as[float32](dst)
	for t := r.From; t < r.To; t++ {
		scale[t] = valueScale(r, t)
	}
}

// valueScale is the step of a token's value codes.
func valueScale(r Rows, t int) float32 {
	top := float32(0)
	for _, h := range r.V[t*r.Dim:][:r.Dim] {
		top = max(top, finite(h), -finite(h))
	}
	return top / 127
}

// finite is a half as a number, 0 if it is none or infinite.
func finite(h uint16) float32 {
	if h&0x7c00 == 0x7c00 {
		return 0
	}
	return tensor.F16ToF32(h)
}

// bodyPart is how many rows of the body are summed as one part: the unit that workers share.
const bodyPart = 2 * attendPart

// heavyCut is the least weight of query head g that is read exactly: that of the fewest tokens that hold the share exact of the estimated mass. Called after the pruner.
func (w *Work) heavyCut(g int, exact float64) float32 {
	weights := w.Logits(g)
	s := w.searched
	if s.w == nil {
		rest, floor := w.Scratch(len(weights)+PageTokens), topP{exact}.floor(w.total[g], len(weights))
		s = newSearch(w.Kern, rest[:w.Kern.Pack(rest, weights, floor)], floor)
	}
	h := w.hint(g)
	cut := s.threshold(w.Kern, float32(exact)*w.total[g], coarseGrid, h.heavy*w.total[g])
	h.heavy = cut / w.total[g]
	return cut
}

// collectBody lists the body's rows, and each head's weights of them, times the scales of their values: zero where a token is not in the head's body. In a step that judges, rows of late
// pages come last, and behind them, for lateChange alone, those of their rows that are read exactly: three lists, of which others have but the first.
func (w *Work) collectBody(union bool) {
	n, lists := len(w.Pages), 1
	w.bodyMask = grow(w.bodyMask, (w.Group+4)*n)
	heavy, listed, own := w.bodyMask[:n], w.bodyMask[n:4*n], w.bodyMask[4*n:]
	w.join(heavy, w.heavy)
	w.heavyPages = grow(w.heavyPages, n+PageTokens)
	w.heavyPages = w.heavyPages[:w.Kern.ListPages(w.heavyPages, heavy)]
	if union {
		w.join(listed[:n], w.keep)
		dropMasks(listed[:n], heavy)
	} else {
		copy(own, w.keep)
		dropMasks(own, w.heavy[:w.Group*n])
		w.join(listed[:n], own)
	}
	if w.judged {
		lists = len(w.bodyEnds)
		w.setLateApart(listed, heavy)
	}
	row := 0
	for i := range w.bodyEnds {
		if i < lists {
			row += countLanes(listed[i*n:][:n])
		}
		w.bodyEnds[i] = row
	}
	w.count.body = w.bodyEnds[1]
	w.bodyRows = grow(w.bodyRows, row+PageTokens)
	w.bodyLD = row + PageTokens // the packing of a head's last page may write that far
	w.bodyW, w.bodySums = grow(w.bodyW, w.Group*w.bodyLD), grow(w.bodySums, len(w.bodyEnds)*w.Group)
	w.bodyLanes = grow(w.bodyLanes, w.Group*PageTokens)
	scales := as[float32](w.Head.Planes[w.bind.scales])
	row = 0
	for i, end := range w.bodyEnds[:lists] {
		masks := listed[i*n:][:n]
		pages := w.listPages(masks)
		first := w.Ints(len(pages))
		for k, j := range pages {
			first[k] = w.slabPages[j] * PageTokens
		}
		masks = ofPages(masks, pages)
		mine, ld := masks, 0 // every head's are all that are listed,
		if !union {
			mine, ld = own, n // or its own
			for g := range w.Group {
				ofPages(own[g*n:][:n], pages)
			}
		}
		w.Kern.ListLanes(w.bodyRows[row:], first, masks)
		w.Kern.PackLanes(w.bodyW[row:], w.bodyLD, w.AllLogits(), w.LogitStride(), pages, masks, mine, ld, scales, first, w.bodyLanes)
		for g := range w.Group {
			sum := float32(0)
			for _, x := range w.bodyLanes[g*PageTokens:][:PageTokens] {
				sum += x
			}
			w.bodySums[i*w.Group+g] = sum
		}
		row = end
	}
}

// ofPages brings the masks of ascending pages together at the front.
func ofPages(masks []uint16, pages []int32) []uint16 {
	for k, j := range pages {
		masks[k] = masks[j]
	}
	return masks[:len(pages)]
}

// setLateApart makes three lists of masks of the first: of pages that are not late, of late pages, and of what is read exactly of these.
func (w *Work) setLateApart(listed, heavy []uint16) {
	n := len(w.Pages)
	for j, h := range heavy {
		late := -uint16(w.isLate(j)) // every lane or none
		m := listed[j]
		listed[j], listed[n+j], listed[2*n+j] = m&^late, m&late, h&late
	}
}

// isLate is 1 if candidate page j is among those that a judge wants to hear of, else 0.
func (w *Work) isLate(j int) int {
	p := w.Pages[j]
	return int(w.late[p/BlockPages] >> (p % BlockPages) & 1)
}

// bodyParts is how many parts the body makes, and the first of late pages.
func (w *Work) bodyParts() (all, late int) {
	late = (w.bodyEnds[0] + bodyPart - 1) / bodyPart
	return late + (w.bodyEnds[1]-w.bodyEnds[0]+bodyPart-1)/bodyPart, late
}

// attendBody sums part i of the body as part at of the parts.
func (w *Work) attendBody(i, at int, s *slot) {
	gd := w.Group * w.Head.Dim
	acc, parts := w.acc[at*gd:][:gd], w.parts[at*w.Group:][:w.Group]
	clear(acc)
	lo, end, pass := i*bodyPart, w.bodyEnds[0], 0
	if _, late := w.bodyParts(); i >= late {
		lo, end, pass = end+(i-late)*bodyPart, w.bodyEnds[1], 1
		i -= late
	}
	n := min(bodyPart, end-lo)
	for g := range parts {
		parts[g] = part{top: w.top[g]}
		if i == 0 { // the first part has the weights of all
			parts[g].sum = w.bodySums[pass*w.Group+g]
		}
	}
	w.addCodes(acc, lo, n, s.tmp(w.Group))
}

// addCodes adds the weighted values of n rows of the body from the lo-th on to each head's acc.
func (w *Work) addCodes(acc []float32, lo, n int, tmp []byte) {
	w.Kern.AccumulateCodes(acc, w.bodyW[lo:], w.bodyLD, w.Group, w.Head.Dim, w.Head.Planes[w.bind.values], w.bodyRows[lo:w.bodyEnds[len(w.bodyEnds)-1]], n, tmp)
}

// addTail makes the heads attend to what is neither read exactly nor in the body: by its estimated mass and the mean value.
func (w *Work) addTail(union bool) {
	n := len(w.Pages)
	values := w.valueSums()
	parts, _ := w.bodyParts()
	for g := range w.Group {
		rest := w.total[g]
		for i := range parts {
			rest -= w.parts[(attendParts(len(w.rows))+i)*w.Group+g].sum
		}
		weights := w.Logits(g)
		for _, j := range w.heavyPages {
			m := w.heavy[g*n+int(j)]
			if union {
				m = w.bodyMask[j] // as collectBody left it: any head's
			}
			for ; m != 0; m &= m - 1 {
				rest -= weights[int(j)*PageTokens+bits.TrailingZeros16(m)]
			}
		}
		if rest > 0 {
			w.summarise(g, w.top[g], rest, values, rest/float32(w.Head.N))
		}
	}
}
