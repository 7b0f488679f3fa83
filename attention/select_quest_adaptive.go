package attention

import (
	"math"
	"slices"
)

// adaptive is quest whose lists are as long as pays, for each KV head of a sequence by itself: heads differ thirtyfold in how many pages hold what they look for, and that is a trait
// which lasts. In a step that judges, what the pages ranked in the last quarter of the list bring to the output is kept apart: its square, relative to the output's, is about what
// the error's would grow by without them. Per share of the context that the quarter takes, all heads are brought to the same number, gain; then no page moved from one head's list
// to another's would make the sum of squared errors smaller. floor is for what a head looks for once in a while, which no average shows.
type adaptive struct {
	quest
	gain, floor float64
}

const (
	lastPages    = 0.25 // of a list: what is judged
	leastList    = 512  // tokens
	judgedEarly  = 12   // steps of a sequence that all judge,
	judgedEvery  = 4    // and then every so many
	quickStep    = 0.35 // how far a judgement moves a length at most, as a logarithm, in the early steps
	slowStep     = 0.12 // and afterwards
	judgedWithin = 16.  // times the wanted gain, or a fraction: further off moves no further
)

// adaptiveState is the lengths of a sequence's lists.
type adaptiveState struct {
	kvHeads int
	heads   []adaptiveHead
}

type adaptiveHead struct {
	keep float64 // share of the context; 0: as the spec begins
	age  int     // steps
}

// NewState implements Stateful.
func (s adaptive) NewState(shape Shape) State {
	return &adaptiveState{shape.KVHeads, make([]adaptiveHead, shape.Layers*shape.KVHeads)}
}

// Fork implements State.
func (s *adaptiveState) Fork() State { return &adaptiveState{s.kvHeads, slices.Clone(s.heads)} }

// Truncate implements State. How long lists pay is a trait of the heads, not of the tokens that were dropped.
func (s *adaptiveState) Truncate(int) {}

// Scores implements Selector: how many pages a head will want is not known before.
func (s adaptive) Scores(n int) int { return BlocksOf(n) * BlockPages }

func (s adaptive) head(w *Work) *adaptiveHead {
	st := w.State().(*adaptiveState)
	return &st.heads[w.Layer()*st.kvHeads+w.KVHead()]
}

// Choose implements Selector.
func (s adaptive) Choose(w *Work) {
	h, n := s.head(w), w.Head.Pages()
	s.read(w)
	if h.keep == 0 {
		want, all := s.pages(w.Head.N)
		h.keep = float64(want) / float64(all)
	}
	want := min(max(int(h.keep*float64(w.Head.N))/PageTokens, leastList/PageTokens, 1), n)
	masks := w.maskScratch(w.Head.Blocks())
	shares(w.Kern, w.AllScores(), w.ScoreStride(), w.Group, s.ranked(w, n))
	s.best(w, 0, n, want, masks)
	h.age++
	if first := want - int(lastPages*float64(want)); first < want && (h.age <= judgedEarly || (h.age+w.Layer())%judgedEvery == 0) {
		w.judged, w.late = true, grow(w.late, len(masks))
		s.best(w, 0, n, first, w.late)
		for i, m := range masks {
			w.late[i] = m &^ w.late[i]
		}
	}
	w.proposePages(w.everyHead(), PageTokens, masks)
}

// judge implements judge: it moves the length of the list towards where its last quarter brings the gain.
func (s adaptive) judge(w *Work, change float64) {
	h := s.head(w)
	off := change / (s.gain * lastPages * h.keep)
	if off != off { // damaged values say nothing
		return
	}
	step := slowStep
	if h.age <= judgedEarly {
		step = quickStep
	}
	off = min(max(off, 1/judgedWithin), judgedWithin)
	least := s.floor
	if w.Group == 1 { // what other heads would list is not needed
		least /= 4
	}
	h.keep = min(max(h.keep*math.Exp(step*math.Log(off)/math.Log(judgedWithin)), least), 1)
}

// judge is a Selector that sets Work.late and Work.judged in Choose, to hear what those pages change.
type judge interface {
	// judge is told the squared change of the output by the late pages, relative to the output's square, both summed over the group.
	judge(w *Work, change float64)
}

// lateChange is what a judge is told, once the outputs are merged; lse is the logarithm of each query head's sum of exponentials. Rows of late pages that are read exactly count
// here by their codes. A head whose late pages bring more than its output is, counts as one whose output they are.
func (w *Work) lateChange(lse []float32) float64 {
	dim, first := w.Head.Dim, attendParts(len(w.rows))
	w.lateAcc = grow(w.lateAcc, w.Group*dim)
	clear(w.lateAcc)
	heavy := w.bodyEnds[2] - w.bodyEnds[1]
	if heavy > 0 {
		w.lateTmp = grow(w.lateTmp, CodesTmp(w.Group))
		w.addCodes(w.lateAcc, w.bodyEnds[1], heavy, w.lateTmp)
	}
	parts, late := w.bodyParts()
	var change, whole float32
	for g := range w.Group {
		acc, sum := w.lateAcc[g*dim:][:dim], w.bodySums[2*w.Group+g]
		for i := late; i < parts; i++ {
			at := (first+i)*w.Group + g
			sum += w.parts[at].sum
			w.Kern.AddScaled(acc, w.acc[at*dim:][:dim], 1)
		}
		share := float32(math.Exp(float64(w.top[g] - lse[g]))) // of all exponentials, that a weight is
		held := sum * share
		var diff, norm float32
		for c, o := range w.call.Out[g*dim:][:dim] {
			d := acc[c]*share - held*o
			diff += d * d
			norm += o * o
		}
		change += min(diff/((1-held)*(1-held)), norm)
		whole += norm
	}
	return float64(change / whole)
}
