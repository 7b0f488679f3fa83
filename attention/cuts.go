package attention

import "slices"

// cuts is where a sequence's thresholds stood in the step before: it tells the estimate which weights to pack. That saves a search time and changes nothing of what it finds, so that it is
// no memory in the sense of Pipeline.Remembers.
type cuts struct {
	kvHeads, group int
	of             []float32 // [layer][KV head][group] the least survivor by what the first token and the newest page weigh, lately
}

func newCuts(s Shape) *cuts {
	return &cuts{s.KVHeads, s.Group, make([]float32, s.Layers*s.KVHeads*s.Group)}
}

// Fork implements State.
func (c *cuts) Fork() State { return &cuts{c.kvHeads, c.group, slices.Clone(c.of)} }

// Truncate implements State.
func (c *cuts) Truncate(int) {}

// cuts is what is known of the call's KV head, nil if nothing ever is: without a memory, or where pruners do not cut.
func (p *Pipeline) cuts(c *Call) []float32 {
	if p.cutBy == "" {
		return nil
	}
	s, ok := c.Memory.find(p.cutBy).(*cuts)
	if !ok {
		return nil
	}
	at := (c.Layer*s.kvHeads + c.KVHead) * s.group
	if s.group != c.Group || at+s.group > len(s.of) { // made for another shape
		return nil
	}
	return s.of[at:][:s.group]
}

const (
	cutBelow = 0.3 // weights are packed from this share of the last cut on,
	cutRise  = 1.2 // which follows larger ones by so much a step: a newest page that begins makes a cut look larger for a while
)

// cutAt remembers that query head g cut at the weight least.
func (w *Work) cutAt(g int, least float32) {
	if w.cuts == nil || len(w.weighings) == 0 || !(w.near[g] > 0) { // a selector may cut by scores of its own
		return
	}
	now := least / w.near[g]
	if old := w.cuts[g]; old > 0 {
		now = min(now, old*cutRise)
	}
	w.cuts[g] = now
}
