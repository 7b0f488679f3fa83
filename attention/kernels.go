package attention

// Kernels is the arithmetic that the stages are built from: what a device may replace by machine code. Portable defines every method; the
// pipeline calls them from several goroutines at once, so an implementation holds no state. This interface is for decoupling, not an extension point:
// a selector or an estimator needs none of it and may compute in plain Go.
//
// Shapes: a query group is [group][dim] float32, already scaled by 1/√dim. rows is a slab of fp16 vectors, row i at rows[i*dim:]; at lists row numbers.
// Results for query head g go to dst[g*ld+...]. Block layouts (bounds, codes) are those of the planes of the same name.
type Kernels interface {
	MiddleKernels
	SelectKernels
	// FetchRows is told of rows at of a slab of rows of dim elements, which are read soon: a hint.
	FetchRows(rows []uint16, dim int, at []int32)
	// Dot sets dst[g*ld+i] = q_g · rows[at[i]]. then, unless nil, is a slab of which the same rows are read next: a hint.
	Dot(dst []float32, ld int, q []float32, group, dim int, rows []uint16, at []int32, then []uint16)
	// Accumulate adds Σ_i w[g*ld+i] · rows[at[i]] to acc[g*dim:]. Rows whose weight is zero for a head leave that head's acc as it is. then is that of Dot.
	Accumulate(acc, w []float32, ld, group, dim int, rows []uint16, at []int32, then []uint16)
	// Max is the largest element of x (−Inf for none). NaN elements are ignored.
	Max(x []float32) float32
	// Exp sets x[i] = exp(x[i] − max) and returns the sum; −Inf becomes exactly 0. max is at least every element.
	Exp(x []float32, max float32) (sum float32)
	// Weigh sets x[i] = exp(x[i] − ref), to a relative error of 1e-3, for weights that choose and sum; ref is any number. −Inf becomes exactly 0. Where an element is too large for
	// a float, or NaN, the sum is at least 1e38 or NaN, except that NaN may count as 0.
	Weigh(x []float32, ref float32) (sum float32)
	// Scale sets x *= s.
	Scale(x []float32, s float32)
	// AddScaled adds f·x[i] to dst[i]; dst is at least as long as x.
	AddScaled(dst, x []float32, f float32)
	// AddRows adds to dst the rows at of a slab, each as long as dst.
	AddRows(dst, slab []float32, at []int32)
	// Above is the sum and the count of the elements of w that are at least t.
	Above(w []float32, t float32) (sum float32, n int)
	// Lanes sets bit i of mask[j] where w[j*PageTokens+i] >= t, for every whole page in w.
	Lanes(mask []uint16, w []float32, t float32)
	// SplitLanes is Lanes of two thresholds at once, and the count of the first's lanes: keep where w is at least least, heavy where it is at least much. Pages lists, ascending, the pages that
	// may have such lanes; the others have none.
	SplitLanes(keep, heavy []uint16, w []float32, pages []int32, least, much float32) (kept int)
	// Pack writes the elements of w that are at least t to dst, in order, and returns how many they are. dst has PageTokens elements more than w, which may be overwritten;
	// it may begin where w does.
	Pack(dst, w []float32, t float32) int
	// PackPages writes the elements w[j*PageTokens+i], for every set bit i of masks[j] of each page j listed, to dst in order, and returns how many they are. Pages ascend. dst has room for all
	// of the pages' elements, which may be overwritten.
	PackPages(dst, w []float32, pages []int32, masks []uint16) int
	// ListPages writes the places of the masks that have lanes to dst, in order, and returns how many they are. dst has PageTokens elements more than masks, which may be overwritten.
	ListPages(dst []int32, masks []uint16) int
	// ListLanes writes base[j]+i, for every set bit i of masks[j], to dst in order, and returns how many they are. dst has PageTokens elements more than that, which may be
	// overwritten.
	ListLanes(dst, base []int32, masks []uint16) int
	// PackLanes writes x·scale[rows[j]+i] with x = w[g*wld+pages[j]*PageTokens+i], for every set bit i of masks[j], to dst[g*ld:] in order, and sets lanes[g*PageTokens+i] to the sum of x
	// over the pages; lanes says how many query heads there are. x counts as zero where own[g*ownLD+j], which has bits that masks[j] has, has the bit clear. A head's part of dst has PageTokens elements more than there are bits, which may be overwritten.
	PackLanes(dst []float32, ld int, w []float32, wld int, pages []int32, masks, own []uint16, ownLD int, scale []float32, rows []int32, lanes []float32)
	// AccumulateCodes adds Σ_i w[g*ld+i] · codes[at[i]] to acc[g*dim:] for the first n of a list, those after them being what will be asked for next; codes is a slab of rows of dim signed bytes, and
	// weights are not negative. A weight may be off by a 254th of the head's largest in 128 rows, to either side. tmp is scratch of CodesTmp.
	AccumulateCodes(acc, w []float32, ld, group, dim int, codes []byte, at []int32, n int, tmp []byte)
	// PageBounds sets dst[g*ld+p] = Σ_c max(q_c·min_c, q_c·max_c), the upper bound of q_g·k over page p, for the pages of one block of a Bounds plane (Quest, arXiv 2406.10774).
	PageBounds(dst []float32, ld int, q []float32, group, dim, pages int, bounds []uint16)
	// Int4Dot estimates q_g·k from the per-token codes of one block, for the pages whose bit is set; page number j among the set ones has its tokens at dst[g*ld+j*PageTokens:].
	Int4Dot(dst []float32, ld int, q []float32, group, dim int, codes []byte, pages uint16, tmp []byte)
	// PageRangeDot does the same from page-range codes of the given bits and the block's Bounds plane of PageTokens-token pages.
	PageRangeDot(dst []float32, ld int, q []float32, group, dim, bits int, bounds []uint16, codes []byte, pages uint16, tmp []byte)
	// BlockRangeDot does the same from a slab of a BlockRange plane, for the first n of a list of slab pages, those after them being what will be asked for next: page p is the p%BlockPages-th of block p/BlockPages, and the tokens of pages[j]
	// go to dst[g*ld+j*PageTokens:]. Pages of one block should be consecutive, since a query is prepared for each run of them. shrink times Σ_c (q_c·step_c)² is subtracted
	// from the logits of the block: with 1/24, half the variance that uniform rounding errors give a logit, by which its exponential would else be too large on average.
	// ready, unless nil, is what PageMiddles left in Ready.Data for queries, bits and shrink as given here, and at says where in it: pages[j] is page at[j]%BlockPages of its block at[j]/BlockPages.
	// weigh, unless nil, makes weights of the logits.
	BlockRangeDot(dst []float32, ld int, q []float32, group, dim, bits int, plane []byte, pages []int32, n int, shrink float32, ready []byte, at []int32, weigh *Weighing, tmp []byte)
}

// Weighing is what becomes of logits that are made weights of where they are made: those of query head g count from Ref[g], as Weigh has it but to 4 percent and right on average, their sum is added to Sums[g],
// and Lanes[g*LanesLD+j] says which of page j are at least Least[g].
// An element that is no number may weigh nothing, too. Where one is too large for a float, or no number, sums of all heads may be infinite and weights anything.
type Weighing struct {
	Ref, Least, Sums []float32
	Lanes            []uint16 // nil, if nobody wants to know; BlockRangeDot is always asked for them
	LanesLD          int
}

// After is the same for logits that begin so many pages later.
func (w Weighing) After(pages int) Weighing {
	if w.Lanes != nil {
		w.Lanes = w.Lanes[pages:]
	}
	return w
}

// Apply does so, exactly as Weigh has it, for n logits of each head, whole pages, by the kernels for each step.
func (w Weighing) Apply(k Kernels, logits []float32, ld, n int) {
	for g := range w.Ref {
		l := logits[g*ld:][:n]
		w.Sums[g] += k.Weigh(l, w.Ref[g])
		if w.Lanes != nil {
			k.Lanes(w.Lanes[g*w.LanesLD:][:n/PageTokens], l, w.Least[g])
		}
	}
}

// CodesTmp is the size in bytes of the scratch that AccumulateCodes may use for a query group.
func CodesTmp(group int) int { return group*(128+4) + 3*64 + 16 }

// TmpBytes is the size of the scratch that Int4Dot and PageRangeDot may use for a query group of this shape.
// For each head that is a query of two bytes a channel for every page of a block, the query itself and the pages' maps from code products to logits.
func TmpBytes(group, dim int) int {
	return (group+1)*(dim*(2*BlockPages+4)+8*BlockPages+8) + 4*BlockPages + 64
}
