package attention

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// tidal is TidalDecode (arXiv 2410.05076): a few selection layers compute the exact logits of all tokens and take the best; the layers after them attend to the same
// tokens, query head by query head. The paper selects in layer 2 and once more in a middle layer, 13 of Llama-8B's 32.
//
// It keeps no metadata. A selection layer reads every key, any other layer nothing. Which layers to choose can be calibrated (anchors-file), as which layers'
// attention resembles which differs between models: in SmolLM2-135M layer 2 foretells others badly (it holds .5 of their mass, layer 3 .8), and selecting in 2, 3
// and 12 instead of 2 and 12 takes the KL from dense at 4096 tokens, 256 attended to, from .23 to .17; but 2 and 3, which hold as much mass as 2 and 12, give .44. A layer that finds no set of
// this step, because the selection layer before it stayed dense, selects itself.
type tidal struct {
	exactScan
	budget
	layers      []int // nil: by the depth of the model
	calibration *Calibration
}

func init() {
	RegisterSelector("tidal", Info{Doc: "exact logits in a few layers, whose tokens the layers after them reuse", Paper: "2410.05076", New: newTidal})
}

func newTidal(a *Args) (any, error) {
	s := tidal{budget: readBudget(a, "budget")}
	list := a.Text("select", "", "layers that select, as 2/13; without it 2 and that at two fifths of the depth")
	path := a.Text("anchors-file", "", "what calibrate wrote: the layers that select")
	switch {
	case list != "" && path != "":
		return nil, fmt.Errorf("select=%s and anchors-file=%s: expected one of them", list, path)
	case path != "":
		c, err := ReadCalibration(path)
		if err != nil {
			return nil, err
		}
		if len(c.Anchors) == 0 {
			return nil, fmt.Errorf("calibration %s lists no anchors", path)
		}
		s.layers, s.calibration = c.Anchors, c
	case list != "":
		for _, f := range strings.Split(list, "/") {
			l, err := strconv.Atoi(f)
			if err != nil || l < 0 || l > 1<<20 {
				return nil, unexpected("select", list, "layers separated by /, as 2/13")
			}
			s.layers = append(s.layers, l)
		}
	}
	return s, nil
}

// Fits implements Fitted.
func (s tidal) Fits(shape Shape) error {
	if s.calibration != nil {
		return s.calibration.fits(shape)
	}
	return nil
}

// NewState implements Stateful.
func (s tidal) NewState(shape Shape) State {
	st := &tidalState{layers: s.layers, last: shape.Layers - 1, heads: make([]tidalHead, shape.KVHeads)}
	if st.layers == nil {
		st.layers = []int{2, (2*shape.Layers + 2) / 5}
	}
	return st
}

// tidalState is the sets of the step at work. Nothing of it outlives a step.
type tidalState struct {
	layers []int
	last   int // layer of the model, after which nobody reuses
	heads  []tidalHead
}

// tidalHead is the sets of one KV head for the rows of a step, which pass through a layer one by one before the next layer sees the first.
type tidalHead struct {
	layer, first, used int        // the layer at work; the first row's tokens; how many rows have sets
	sets               []tidalSet // of consecutive lengths
}

type tidalSet []uint16 // lanes, [page][Group]

// Fork implements State.
func (s *tidalState) Fork() State {
	return &tidalState{layers: s.layers, last: s.last, heads: make([]tidalHead, len(s.heads))}
}

// Truncate implements State.
func (s *tidalState) Truncate(int) {
	for i := range s.heads {
		s.heads[i].used = 0
	}
}

// reused is the set that the layer at work takes over, nil if it selects.
func (s *tidalState) reused(w *Work) tidalSet {
	h := &s.heads[w.KVHead()]
	i := w.Head.N - h.first
	if slices.Contains(s.layers, w.Layer()) || i < 0 || i >= h.used {
		return nil
	}
	return h.sets[i]
}

// next is room for the set of a step of n tokens and that many lanes.
func (h *tidalHead) next(layer, n, lanes int) tidalSet {
	if layer < h.layer || n < h.first || n > h.first+h.used {
		h.used = 0 // another step has begun
	}
	if h.used == 0 {
		h.first = n
	}
	i := n - h.first
	if i == len(h.sets) {
		h.sets = append(h.sets, nil)
	}
	h.layer, h.used = layer, max(h.used, i+1)
	h.sets[i] = grow(h.sets[i], lanes)
	return h.sets[i]
}

// Scan implements Selector.
func (s tidal) Scan(w *Work, lo, hi int) {
	if w.State().(*tidalState).reused(w) == nil {
		s.exactScan.Scan(w, lo, hi)
	}
}

// Choose implements Selector.
func (s tidal) Choose(w *Work) {
	st := w.State().(*tidalState)
	head := &st.heads[w.KVHead()]
	if set := st.reused(w); set != nil {
		head.layer = w.Layer()
		for i, m := range set {
			w.ProposeLanes(i%w.Group, i/w.Group, m)
		}
		return
	}
	w.ReadBytes(w.Head.N * w.Head.Dim * 2)
	for g := range w.Group {
		w.proposeBest(g, w.laneScores(g), s.of(w.Head.N))
	}
	if w.Layer() == st.last {
		return
	}
	set := head.next(w.Layer(), w.Head.N, w.Head.Pages()*w.Group)
	for p := range w.Head.Pages() {
		for g := range w.Group {
			set[p*w.Group+g] = w.proposed(g, int32(p))
		}
	}
}
