package attention

// exactScan scores every token by its exact logit: no metadata, and all keys are read.
type exactScan struct{}

// Planes implements Selector.
func (exactScan) Planes() []Plane { return nil }

// Scores implements Selector.
func (exactScan) Scores(n int) int { return tokenScores(n) }

// Scan implements Selector.
func (exactScan) Scan(w *Work, lo, hi int) {
	for b := lo; b < hi; b++ {
		w.exactBlock(b)
	}
}

// exactBlock sets the scores of the tokens of block b to their exact logits.
func (w *Work) exactBlock(b int) {
	n := min(BlockTokens, w.Head.N-b*BlockTokens)
	w.Kern.Dot(w.AllScores()[b*BlockTokens:], w.ScoreStride(), w.Q, w.Group, w.Head.Dim, w.Head.Keys(b), consecutive[:n], nil)
}

// oracleK is exact top-k: the best that any selector with a fixed budget can do. It keeps nothing and reads every key, so that it saves only the reading of values.
type oracleK struct {
	exactScan
	budget
}

// oracleP is exact top-p: the fewest tokens that hold the mass, so the bound of every pipeline. Memory and cost are those of oracle-k.
type oracleP struct {
	exactScan
	p float64
}

func init() {
	RegisterSelector("oracle-k", Info{Doc: "exact logits of everything, the k largest: the bound of fixed budgets", New: func(a *Args) (any, error) {
		return oracleK{budget: readBudget(a, "k")}, nil
	}})
	RegisterSelector("oracle-p", Info{Doc: "exact logits of everything, the fewest with mass p: the bound of every method", New: func(a *Args) (any, error) {
		return oracleP{p: a.Float("p", 0.9, 0, 1, "mass that is proposed")}, nil
	}})
}

// PerToken implements Coster.
func (exactScan) PerToken(dim int) (stores, reads float64) { return 0, 2 * float64(dim) }

// Choose implements Selector.
func (s oracleK) Choose(w *Work) {
	w.ReadBytes(w.Head.N * w.Head.Dim * 2)
	for g := range w.Group {
		w.proposeBest(g, w.laneScores(g), s.of(w.Head.N))
	}
}

// Choose implements Selector.
func (s oracleP) Choose(w *Work) {
	w.ReadBytes(w.Head.N * w.Head.Dim * 2)
	if s.p >= 1 {
		w.ProposeAll()
		return
	}
	for g := range w.Group {
		scores, masks := w.laneScores(g), w.maskScratch(w.Head.Pages())
		w.bound(g, scores)
		topP{s.p}.Prune(w, g, scores, w.Kern.Weigh(scores, w.Kern.Max(scores)), masks)
		w.proposeMasks(g, 0, masks)
	}
}
