package attention

import "slices"

// cuts is where a sequence's thresholds stood in the step before: it tells the estimate which weights to note, and searches where to begin. That saves time and changes nothing of what is
// found, so that it is no memory in the sense of Pipeline.Remembers.
type cuts struct {
	kvHeads, group int
	of             []cutHint // [layer][KV head][group]
}

// cutHint is one query head's. The zero value says nothing.
type cutHint struct {
	note        float32 // the least survivor by what the first token and the newest page weigh, lately
	keep, heavy float32 // the least survivor, and the least that is read exactly, as shares of the mass
}

func newCuts(s Shape) *cuts {
	return &cuts{s.KVHeads, s.Group, make([]cutHint, s.Layers*s.KVHeads*s.Group)}
}

// Fork implements State.
func (c *cuts) Fork() State { return &cuts{c.kvHeads, c.group, slices.Clone(c.of)} }

// Truncate implements State.
func (c *cuts) Truncate(int) {}

// cuts is what is known of the call's KV head, nil if nothing ever is: without a memory, or where pruners do not cut.
func (p *Pipeline) cuts(c *Call) []cutHint {
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
	cutBelow = 0.3 // weights are noted from this share of the last cut on,
	cutRise  = 1.2 // which follows larger ones by so much a step: a newest page that begins makes a cut look larger for a while
)

// hint is what is remembered of query head g, to read and to write; of no use where nothing is.
func (w *Work) hint(g int) *cutHint {
	if w.cuts == nil || len(w.weighings) == 0 { // a selector may cut by scores of its own
		w.blank = cutHint{}
		return &w.blank
	}
	return &w.cuts[g]
}

// cut remembers that query head g cut at the weight least of so much in total; near is Work.near, if there is any.
func (h *cutHint) cut(least, total float32, near []float32, g int) {
	h.keep = least / total
	if g >= len(near) || !(near[g] > 0) {
		return
	}
	now := least / near[g]
	if h.note > 0 {
		now = min(now, h.note*cutRise)
	}
	h.note = now
}
