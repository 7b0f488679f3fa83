package attention

// streaming is StreamingLLM (arXiv 2309.17453): the first tokens, which serve as attention sinks, and a window of the latest. Keeps nothing, costs nothing.
type streaming struct {
	noScan
	sink, window int
}

func init() {
	RegisterSelector("streaming", Info{Doc: "sink tokens and the recent window", Paper: "2309.17453", New: func(a *Args) (any, error) {
		return streaming{sink: a.Int("sink", 4, 0, 1<<20, "first tokens always kept"), window: a.Int("window", 1020, 1, 1<<30, "latest tokens kept")}, nil
	}})
}

// Choose implements Selector.
func (s streaming) Choose(w *Work) {
	for g := range w.Group {
		w.Propose(g, 0, s.sink)
		w.Propose(g, max(0, w.Head.N-s.window), w.Head.N)
	}
}
