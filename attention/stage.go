package attention

import "math/bits"

// Selector proposes the candidates of a query: the existing sparse method that Twilight prunes further. An extension point. One value serves all
// layers, heads and sequences concurrently; whatever belongs to a step stands in Work, whatever belongs to tokens in a Plane.
type Selector interface {
	// Planes is the metadata that the selector reads, in the order of Work.SelectorPlane's index.
	Planes() []Plane
	// Scores is how many scores a query head needs for n tokens; 0 if the selector has nothing to scan, and Scan is then not called.
	Scores(n int) int
	// Scan fills the scores of blocks [lo,hi) for the whole group. Ranges of one Work are scanned concurrently.
	Scan(w *Work, lo, hi int)
	// Choose proposes candidates by calls of Work.Propose, once per Work, after all of it was scanned.
	Choose(w *Work)
}

// Estimator computes the logits of candidates from low-bit codes. An extension point, stateless like Selector.
type Estimator interface {
	// Planes is what the estimator reads, in the order of Work.EstimatorPlane's index.
	Planes() []Plane
	// Coded is how many of the first n tokens have codes: pages beyond are not given to Estimate, the pipeline computes their logits exactly. A multiple of PageTokens, or n.
	Coded(n int) int
	// Estimate sets the logits of candidate pages [lo,hi) of w.Pages, all lanes and all query heads: w.Logits(g)[j*PageTokens+lane]. Pages of one block are consecutive in w.Pages.
	Estimate(w *Work, lo, hi int)
	// PageBytes is what estimating one page of dim channels reads, for the statistics.
	PageBytes(dim int) int
}

// Sampler is a Selector that draws tokens at random and says at what odds (Work.Odds): a drawn token then counts as often as it stands for others.
type Sampler interface {
	Selector
	Samples()
}

// Compensator is a Selector that estimates itself what mass its proposal holds (Work.Hold). Where no pruner follows, the rest counts as its mass times the mean value.
type Compensator interface {
	Selector
	Compensates()
}

// Summariser is a Selector that attends to tokens by what is known of them together (Work.Summarise).
type Summariser interface {
	Selector
	Summarises()
}

// Pruner decides the survivors among the candidates of one query head. An extension point, stateless like Selector.
type Pruner interface {
	// Prune turns the weights of query head g's candidates, the exponentials of estimated logits up to a common factor, into masks of survivors: keep[j] for page w.Pages[j]. What
	// is no candidate weighs 0; total is the sum. The weights stay: from them the pruned tail is estimated.
	Prune(w *Work, g int, weights []float32, total float32, keep []uint16)
}

// Work is one KV head's share of a step, and the scratch of its stages. The exported fields and methods are what selectors, estimators and pruners use.
type Work struct {
	Head  Head
	Group int       // query heads that share this KV head
	Q     []float32 // [Group][Dim], scaled by 1/√Dim
	Kern  Kernels
	Pages []int32 // candidate pages, ascending: the union over the group

	call   Call
	bind   *binding
	sparse bool
	link   int // of the chain of selectors, which one is at work

	scoreLD    int
	scores     []float32
	whole      []uint32  // per page: query heads that propose all of it
	some       []uint32  // per page: query heads that propose some of it
	late       []uint16  // pages whose share of the output is to be judged, by masks of a block's,
	judged     bool      // if this is set
	uniform    []uint16  // pages that every head proposes, by masks of a block's, where nothing is yet written down of them in whole
	mixed      bool      // whole and some say something
	lanes      []uint16  // per page and head: which tokens, where some says so
	bounds     []uint16  // [page][Group] lanes that the chain's earlier selectors propose; empty for its first
	odds       []float32 // [Group][tokens] −ln of the odds at which a token was drawn; empty: nothing was
	slabPages  []int32   // where Pages stand in the slabs, in pages
	cand       []uint16  // [Group][len(Pages)] candidate lanes
	keep       []uint16  // [Group][len(Pages)] survivors
	heavy      []uint16  // [Group][len(Pages)] survivors that are read exactly, in precision by weight
	heavyPages []int32   // candidate pages, by index, with such lanes of any head
	logits     []float32
	top        []float32 // per query head: the logit that weights count from,
	sums       []float32 // [part of the estimate][Group] sums of weights,
	total      []float32 // and the sum of all
	rows       []int32   // flattened survivors of the union, as slab rows
	own        []uint32  // per survivor: the query heads that keep it, when heads attend to their own sets
	bias       []float32 // [Group][len(rows)] the survivors' share of odds
	bodyMask   []uint16  // [4+Group][len(Pages)] lanes that are read exactly, the lists of collectBody, and the body of each
	bodyRows   []int32   // flattened body,
	bodyEnds   [3]int    // where rows of pages that are not late end in it, where the body ends, and what stands behind it for judges
	bodyW      []float32 // [Group][bodyLD] weights of its rows, times their values' scales
	bodyLD     int
	bodyLanes  []float32 // [Group][PageTokens] such sums on their way
	bodySums   []float32 // [list of collectBody][Group] sums of weights
	parts      []part
	acc        []float32 // accumulators of the parts
	far        []part    // per query head: what is attended to by summaries
	farAcc     []float32 // [Group][Dim]
	hasFar     bool
	lateAcc    []float32  // [Group][Dim] values of late pages
	lateTmp    []byte     // kernel scratch for them
	blank      cutHint    // what is remembered of a head of which nothing is
	cuts       []cutHint  // per query head: where it cut lately (cuts.of); nil: unknown
	near       []float32  // per query head: what the first token and the newest page weigh
	searched   search     // as a pruner left it
	weighings  []Weighing // by part of the estimate: where its weights' sums go and which of them are noted
	fused      bool       // the estimator makes weights itself
	least      []float32  // per query head: from which weight on they are noted,
	likely     []uint16   // [Group][len(Pages)] which those are
	listed     []int32    // pages with lanes of some mask, by index
	heldBy     []int32    // pages that hold all that a pruner's search found, by index; nil if it does not know
	order      []float32  // scratch for threshold searches
	ints       []int32    // scratch of selectors
	beside     []float32  // the same
	long       []uint64   // the same
	masks      []uint16   // scratch for threshold searches
	tmp        []byte     // kernel scratch, TmpBytes for each part of an estimate
	reach      []float32  // by query head: what a page's radius counts (Pipeline.reach)
	queries    []byte     // Ready.Data, of a scan that prepares queries for the estimator
	count      counts
	audit      audit
}

type counts struct {
	b0, b1      []int // per query head
	union, cand int
	body        int // rows read by codes of values
	selBytes    int
	held        []float32 // estimated mass that the attended set holds, per query head
	mass, diff  []float64 // measured: true mass of the attended set and relative error of the output, per query head
}

// ScoreSlice is the scores of query head g.
func (w *Work) ScoreSlice(g int) []float32 { return w.scores[g*w.scoreLD:][:w.scoreLD] }

// ScoreStride is the distance between the scores of neighbouring query heads, for kernels that write a group at once into Scores().
func (w *Work) ScoreStride() int { return w.scoreLD }

// AllScores is the scores of the group, query head g at [g*ScoreStride():].
func (w *Work) AllScores() []float32 { return w.scores[:w.Group*w.scoreLD] }

// Logits is the estimated logits of query head g, a page of PageTokens lanes for each of w.Pages; where a pruner follows, the estimate stage ends by making weights of them.
func (w *Work) Logits(g int) []float32 { n := w.LogitStride(); return w.logits[g*n:][:n] }

// LogitStride is the distance between the logits of neighbouring query heads.
func (w *Work) LogitStride() int { return len(w.Pages) * PageTokens }

// AllLogits is the logits of the group.
func (w *Work) AllLogits() []float32 { return w.logits[:w.Group*w.LogitStride()] }

// SelectorPlane is block b of the i-th plane that the selector declared.
func (w *Work) SelectorPlane(i, b int) []byte { return w.Head.Plane(w.bind.sel[w.link][i], b) }

// selectorSlab is all of the i-th plane that the selector declared.
func (w *Work) selectorSlab(i int) []byte { return w.Head.Planes[w.bind.sel[w.link][i]] }

// EstimatorPlane is block b of the i-th plane that the estimator declared.
func (w *Work) EstimatorPlane(i, b int) []byte { return w.Head.Plane(w.bind.est[i], b) }

// State is the memory of the sequence that the selector at work asked for by NewState.
func (w *Work) State() State { return w.call.Memory.find(w.selector().memory) }

// ready is where the scan leaves queries for the estimator; without data where the pipeline has no two stages that share them, or nothing is scanned.
func (w *Work) ready() Ready {
	r := w.call.Pipeline.ready
	if w.call.Pipeline.shares && w.scoreLD > 0 {
		r.Data = w.queries
	}
	return r
}

func (w *Work) selector() *link { return &w.call.Pipeline.chain[w.link] }

// KVHead is the KV head within the layer.
func (w *Work) KVHead() int { return w.call.KVHead }

// Layer is the layer the head belongs to.
func (w *Work) Layer() int { return w.call.Layer }

// ReadBytes adds to what the selection stage read, for the statistics. Choose calls it.
func (w *Work) ReadBytes(n int) { w.count.selBytes += n }

// Scratch is float scratch of at least n elements for Choose and Prune, contents undefined.
func (w *Work) Scratch(n int) []float32 { w.order = grow(w.order, n); return w.order[:n] }

// Ints is integer scratch of n elements for Choose, contents undefined.
func (w *Work) Ints(n int) []int32 { w.ints = grow(w.ints, n); return w.ints[:n] }

// floats is scratch beside Scratch.
func (w *Work) floats(n int) []float32 { w.beside = grow(w.beside, n); return w.beside[:n] }

// longs is scratch of words.
func (w *Work) longs(n int) []uint64 { w.long = grow(w.long, n); return w.long[:n] }

// ProposeBest makes the want best scored tokens candidates of query head g, of equal ones the earlier; score i is that of token first+i. NaN is never taken.
func (w *Work) ProposeBest(g, first int, score []float32, want int) {
	w.proposeBestTo(g, g+1, first, score, want)
}

// proposeBestTo is ProposeBest for query heads [g,end), which share the scores.
func (w *Work) proposeBestTo(g, end, first int, score []float32, want int) {
	if want < 1 {
		return
	}
	masks := w.maskScratch((len(score) + PageTokens - 1) / PageTokens)
	if want < len(score) {
		bestOf(w.Kern, score, want, masks)
	}
	for ; g < end; g++ {
		if want < len(score) {
			w.proposeMasks(g, first, masks)
		} else {
			w.Propose(g, first, first+len(score))
		}
	}
}

// maskScratch is scratch of n masks for Choose, contents undefined.
func (w *Work) maskScratch(n int) []uint16 {
	w.spread() // what all heads propose may stand there
	w.masks = grow(w.masks, n)
	return w.masks[:n]
}

// join sets dst to the union of the heads' masks.
func (w *Work) join(dst, masks []uint16) {
	n := len(w.Pages)
	copy(dst, masks[:n])
	for g := 1; g < w.Group; g++ {
		orMasks(dst, masks[g*n:][:n])
	}
}

// collect flattens the group's masks into rows, and remembers whose they are where heads attend to their own sets.
func (w *Work) collect(union bool, masks []uint16) {
	n := len(w.Pages)
	w.rows, w.own, w.bias = w.rows[:0], w.own[:0], w.bias[:0]
	w.masks = grow(w.masks, n)
	w.join(w.masks, masks)
	for _, j := range w.listPages(w.masks) {
		row := w.slabPages[j] * PageTokens
		for m := w.masks[j]; m != 0; m &= m - 1 {
			i := bits.TrailingZeros16(m)
			w.rows = append(w.rows, row+int32(i))
			if !union {
				who := uint32(0)
				for g := range w.Group {
					who |= uint32(masks[g*n+int(j)]>>i&1) << g
				}
				w.own = append(w.own, who)
			}
		}
	}
	w.count.union = len(w.rows)
	if len(w.odds) > 0 {
		w.collectOdds(w.masks)
	}
}

// estimatedMass is the share of the candidates' estimated mass that query head g's attended set holds; weights are the exponentials that a pruner left in the logits.
func (w *Work) estimatedMass(g int, union bool) float32 {
	n, weights := len(w.Pages), w.Logits(g)
	var in, all float32
	for j := range w.Pages {
		m := w.keep[g*n+j]
		if union {
			for h := range w.Group {
				m |= w.keep[h*n+j]
			}
		}
		page := weights[j*PageTokens:][:PageTokens]
		for i, x := range page {
			all += x
			if m>>i&1 != 0 {
				in += x
			}
		}
	}
	if all == 0 {
		return 1
	}
	return min(in/all, 1)
}

// grow returns s with room for n elements, contents undefined beyond what s held.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}
