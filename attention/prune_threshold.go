package attention

func init() {
	RegisterPruner("threshold", Info{Doc: "candidates whose estimated weight is at least t times the largest", New: func(a *Args) (any, error) {
		return threshold{t: a.Float("t", 0.01, 0, 1, "share of the largest estimated weight")}, nil
	}})
}

// threshold keeps candidates by their weight against the head's largest. It needs one vector pass and no search, and its budget adapts as top-p's does, but it
// promises no mass: n−s tokens just under the line may hold up to t·(n−s) times what the first token holds. The threshold is relative because weights of a head
// shrink with the context, so that no absolute one fits two lengths or two heads; t = 0.01 keeps logits within 4.6 of the largest.
type threshold struct{ t float64 }

// Prune implements Pruner.
func (t threshold) Prune(w *Work, g int, weights []float32, _ float32, keep []uint16) {
	w.Kern.Lanes(keep, weights, float32(t.t)*w.Kern.Max(weights))
}
