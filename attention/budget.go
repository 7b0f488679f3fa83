package attention

import "math/bits"

// budget is how many tokens a selector proposes.
type budget struct {
	keep   float64
	tokens int
}

// readBudget reads the arguments that every selector by tokens has. The number is called name. Papers fix a small number; the default share is what a pruner that
// follows wants to choose from.
func readBudget(a *Args, name string) budget {
	return budget{
		keep:   a.Float("keep", 0.25, 0, 1, "share of the context that is proposed"),
		tokens: a.Int(name, 0, 0, 1<<30, "tokens proposed, instead of a share"),
	}
}

// of is the number for n tokens, at least 1.
func (b budget) of(n int) int {
	want := b.tokens
	if want == 0 {
		want = int(b.keep*float64(n) + 0.5)
	}
	return max(min(want, n), 1)
}

// tokenScores is the number of scores of n tokens: whole pages.
func tokenScores(n int) int { return (n + PageTokens - 1) / PageTokens * PageTokens }

// laneScores is the scores of query head g as whole pages, −Inf beyond the text.
func (w *Work) laneScores(g int) []float32 {
	s := w.ScoreSlice(g)[:tokenScores(w.Head.N)]
	for i := w.Head.N; i < len(s); i++ {
		s[i] = negInf
	}
	return s
}

// proposeBest proposes the want tokens of largest score among those that the chain leaves query head g; the others' scores become −Inf.
func (w *Work) proposeBest(g int, scores []float32, want int) {
	w.bound(g, scores)
	w.ProposeBest(g, 0, scores[:w.Head.N], want)
}

// bound sets to −Inf the scores of tokens that the chain's earlier selectors do not leave query head g.
func (w *Work) bound(g int, scores []float32) {
	if w.link == 0 {
		return
	}
	for p := range w.whole {
		for m := ^w.Bounded(g, p); m != 0; m &= m - 1 {
			scores[p*PageTokens+bits.TrailingZeros16(m)] = negInf
		}
	}
}

// proposeMasks proposes the tokens of the set bits, bit i of mask j being that of token first+j*PageTokens+i.
func (w *Work) proposeMasks(g, first int, masks []uint16) {
	p, shift := first/PageTokens, first%PageTokens
	for j, m := range masks {
		w.ProposeLanes(g, p+j, m<<shift)
		if over := m >> (PageTokens - shift); over != 0 { // of a first token within a page
			w.ProposeLanes(g, p+j+1, over)
		}
	}
}

// scanTmp is scratch of TmpBytes(Group, Dim) bytes for the Scan of blocks from lo on.
func (w *Work) scanTmp(lo int) []byte {
	n := TmpBytes(w.Group, w.Head.Dim)
	return w.tmp[lo/scanPart*n:][:n]
}
