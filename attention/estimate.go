package attention

func init() {
	RegisterEstimator("exact", Info{Doc: "full-precision logits of the candidates", New: func(*Args) (any, error) { return exact{}, nil }})
	RegisterEstimator("int4", Info{Doc: "INT4 keys per token with their own scale and minimum", Paper: "2502.02770", New: func(*Args) (any, error) { return int4{}, nil }})
	RegisterEstimator("page-range", Info{Doc: "codes between the page's own channel bounds", New: func(a *Args) (any, error) {
		b := a.Int("bits", 4, 1, 8, "bits a channel: 1, 2, 3, 4 or 8")
		if b > 4 && b != 8 {
			return nil, unexpected("bits", b, "1, 2, 3, 4 or 8")
		}
		return pageRange{bits: b, planes: []Plane{Bounds{PageTokens}, PageRange{b}}}, nil
	}})
	RegisterEstimator("block-range", Info{Doc: "codes between the channel bounds of 256 tokens", New: func(a *Args) (any, error) {
		b := a.Int("bits", 4, 2, 8, "bits a channel: 2, 4 or 8")
		if b&(b-1) != 0 {
			return nil, unexpected("bits", b, "2, 4 or 8")
		}
		e := blockRange{bits: b, planes: []Plane{BlockRange{b}}, shrink: 1. / 24}
		if a.Flag("biased", "leave the upward bias that rounding gives to sums of exponentials") {
			e.shrink = 0
		}
		return e, nil
	}})
}

// exact computes the candidates' logits from the fp16 keys: the upper bound of every estimator, at the price of reading what it estimates.
type exact struct{}

// Planes implements Estimator.
func (exact) Planes() []Plane { return nil }

// Coded implements Estimator.
func (exact) Coded(n int) int { return n }

// PageBytes implements Estimator.
func (exact) PageBytes(dim int) int { return PageTokens * dim * 2 }

// Estimate implements Estimator.
func (exact) Estimate(w *Work, lo, hi int) {
	w.exact(lo, hi)
}

// exact computes the logits of candidate pages [lo,hi) from the keys, neighbours of a block in one call. Lanes beyond the head's tokens stay as they are; mask removes them.
func (w *Work) exact(lo, hi int) {
	for j := lo; j < hi; {
		at, first := j, int(w.Pages[j])
		for j++; j < hi && int(w.Pages[j]) == first+j-at && int(w.Pages[j])%BlockPages != 0; j++ {
		}
		w.exactRows(at, first*PageTokens, min((j-at)*PageTokens, w.Head.N-first*PageTokens))
	}
}

// exactRows computes the logits of n tokens of a block from token first on, which begins candidate page j.
func (w *Work) exactRows(j, first, n int) {
	w.Kern.Dot(w.AllLogits()[j*PageTokens:], w.LogitStride(), w.Q, w.Group, w.Head.Dim, w.Head.K[int(w.Head.Row(first))*w.Head.Dim:], consecutive[:n], nil)
}

// estimateLogits runs the estimator: −Inf for what is no candidate.
func (w *Work) estimateLogits(lo, hi int) {
	if coded := w.exactPages(lo, hi); coded > lo {
		w.call.Pipeline.est.Estimate(w, lo, coded)
	}
	w.mask(lo, hi)
}

// exactPages computes the logits of those of candidate pages [lo,hi) that have no codes, which are the last ones, and says from where on.
func (w *Work) exactPages(lo, hi int) (coded int) {
	n := (w.call.Pipeline.est.Coded(w.Head.N) + PageTokens - 1) / PageTokens
	for coded = hi; coded > lo && int(w.Pages[coded-1]) >= n; coded-- {
	}
	w.exact(coded, hi)
	return coded
}

// fetchUncoded asks for the keys of the block being filled that have no codes, and for the first token's: they are read one by one soon, and nobody else knows of them.
func (w *Work) fetchUncoded() {
	w.Kern.FetchRows(w.Head.Keys(0), w.Head.Dim, consecutive[:1])
	if from, b := w.call.Pipeline.est.Coded(w.Head.N), w.Head.Blocks()-1; from >= b*BlockTokens {
		w.Kern.FetchRows(w.Head.Keys(b), w.Head.Dim, consecutive[from-b*BlockTokens:w.Head.N-b*BlockTokens])
	}
}

// eachBlock calls f for every block that candidate pages [lo,hi) touch: the block, its first candidate's index, the mask of its candidate pages, and kernel scratch.
func (w *Work) eachBlock(lo, hi int, f func(block, first int, pages uint16, tmp []byte)) {
	tmp := w.partTmp(lo)
	for j := lo; j < hi; {
		b, first, m := int(w.Pages[j])/BlockPages, j, uint16(0)
		for ; j < hi && int(w.Pages[j])/BlockPages == b; j++ {
			m |= 1 << (w.Pages[j] % BlockPages)
		}
		f(b, first, m, tmp)
	}
}

// partTmp is kernel scratch of the part of an estimate that begins at candidate page lo: ranges of one Work run concurrently, each within its own part.
func (w *Work) partTmp(lo int) []byte {
	size := TmpBytes(w.Group, w.Head.Dim)
	return w.tmp[lo/estimatePart*size:][:size]
}

// int4 is the paper's estimator: per-token INT4 over all channels.
type int4 struct{}

var int4Planes = []Plane{Int4{}}

// Planes implements Estimator.
func (int4) Planes() []Plane { return int4Planes }

// Coded implements Estimator.
func (int4) Coded(n int) int { return n }

// PageBytes implements Estimator.
func (int4) PageBytes(dim int) int { return Int4{}.PageBytes(dim) }

// Estimate implements Estimator.
func (int4) Estimate(w *Work, lo, hi int) {
	w.eachBlock(lo, hi, func(b, first int, pages uint16, tmp []byte) {
		w.Kern.Int4Dot(w.AllLogits()[first*PageTokens:], w.LogitStride(), w.Q, w.Group, w.Head.Dim, w.EstimatorPlane(0, b), pages, tmp)
	})
}

// pageRange estimates from codes between the page's own bounds: finer than a scale per token at the same bits, because a page's channel range is far
// narrower than a token's range over channels, above all where keys have outlier channels.
type pageRange struct {
	bits   int
	planes []Plane
}

// Planes implements Estimator.
func (e pageRange) Planes() []Plane { return e.planes }

// Coded implements Estimator: a page's range is final, and its codes written, only when it is full.
func (pageRange) Coded(n int) int { return n / PageTokens * PageTokens }

// PageBytes implements Estimator.
func (e pageRange) PageBytes(dim int) int { return PageRange{e.bits}.PageBytes(dim) + 4*dim }

// Estimate implements Estimator.
func (e pageRange) Estimate(w *Work, lo, hi int) {
	w.eachBlock(lo, hi, func(b, first int, pages uint16, tmp []byte) {
		w.Kern.PageRangeDot(w.AllLogits()[first*PageTokens:], w.LogitStride(), w.Q, w.Group, w.Head.Dim, e.bits,
			as[uint16](w.EstimatorPlane(0, b)), w.EstimatorPlane(1, b), pages, tmp)
	})
}

// blockRange estimates from codes between the channel bounds of a block: nearly as fine as a page's own, and one scaled query serves 256 tokens.
// Noise in an exponent makes sums of exponentials too large, E[exp(ŝ)] = exp(s + σ²/2); the step of the codes tells σ², so it is taken off.
type blockRange struct {
	bits   int
	shrink float32
	planes []Plane
}

// Planes implements Estimator.
func (e blockRange) Planes() []Plane { return e.planes }

// Coded implements Estimator: a block's range is final, and its codes written, only when it is full.
func (blockRange) Coded(n int) int { return n / BlockTokens * BlockTokens }

// PageBytes implements Estimator: the codes, and the page's share of the block's bounds.
func (e blockRange) PageBytes(dim int) int { return BlockRange{e.bits}.BlockBytes(dim) / BlockPages }

// Estimate implements Estimator.
func (e blockRange) Estimate(w *Work, lo, hi int) {
	e.estimateWeights(w, lo, hi, nil)
}

// estimateWeights implements weigher; nil leaves the logits.
func (e blockRange) estimateWeights(w *Work, lo, hi int, weigh *Weighing) {
	w.Kern.BlockRangeDot(w.AllLogits()[lo*PageTokens:], w.LogitStride(), w.Q, w.Group, w.Head.Dim, e.bits, w.Head.Planes[w.bind.est[0]], w.slabPages[lo:], hi-lo, e.shrink, w.ready().Data, w.Pages[lo:], weigh, w.partTmp(lo))
}
