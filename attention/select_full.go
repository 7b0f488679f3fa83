package attention

// full proposes every token: no selection, so that estimation and pruning alone decide. Cost: nothing.
type full struct{ noScan }

func init() {
	RegisterSelector("full", Info{Doc: "every token", New: func(*Args) (any, error) { return full{}, nil }})
}

// Choose implements Selector.
func (full) Choose(w *Work) { w.ProposeAll() }

// noScan is for selectors without metadata.
type noScan struct{}

// Planes implements Selector.
func (noScan) Planes() []Plane { return nil }

// Scores implements Selector.
func (noScan) Scores(int) int { return 0 }

// Scan implements Selector.
func (noScan) Scan(*Work, int, int) {}
