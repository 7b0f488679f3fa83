package bench

import (
	"fmt"
	"math"

	"github.com/twilight-go/twilight/internal/tensor"
)

// lineup says which captured queries, keys and values the sequences of a batch have at one context. Texts take turns; sequences of the same text differ in what heads, query heads and
// positions they take, so that no two ask the same as long as the captures last.
type lineup struct {
	texts          []*Capture
	at             []int // by text: the context among the text's
	kvHeads, group int
}

// newLineup takes the captures that have the context. heads and kvHeads are the shape's, 0 those of the model; the captured layers are stacked to more heads than a model has.
func newLineup(captures []*Capture, view string, context, heads, kvHeads int) (*lineup, error) {
	l := &lineup{}
	for _, c := range captures {
		for i, n := range c.Contexts {
			if n == context {
				l.texts, l.at = append(l.texts, c), append(l.at, i)
			}
		}
	}
	if len(l.texts) == 0 {
		return nil, fmt.Errorf("bench: a context of %d tokens: no capture has it", context)
	}
	first := l.texts[0]
	for _, c := range l.texts {
		if c.Dim != first.Dim || kvHeads == 0 && (c.KVHeads != first.KVHeads || c.Group != first.Group) {
			return nil, fmt.Errorf("bench: captures of %s (%d KV heads of %d query heads, %d channels) and %s (%d, %d, %d): expected one shape, or numbers of heads",
				first.Model, first.KVHeads, first.Group, first.Dim, c.Model, c.KVHeads, c.Group, c.Dim)
		}
	}
	if heads == 0 {
		heads = first.KVHeads * first.Group
	}
	if kvHeads == 0 {
		kvHeads = first.KVHeads
	}
	if view == ViewMHA {
		kvHeads = heads
	}
	if kvHeads < 1 || heads < 1 || heads%kvHeads != 0 || heads/kvHeads > first.Group {
		return nil, fmt.Errorf("bench: %d query heads on %d KV heads: expected equal groups of at most %d, as captured", heads, kvHeads, first.Group)
	}
	l.kvHeads, l.group = kvHeads, heads/kvHeads
	return l, nil
}

func (l *lineup) dim() int { return l.texts[0].Dim }

// round is how many sequences before this one have the same text.
func (l *lineup) round(sequence int) int { return sequence / len(l.texts) }

// head is the captured head that a KV head of a sequence is.
func (l *lineup) head(sequence, h int) *CapturedHead {
	heads := l.texts[sequence%len(l.texts)].Heads
	return &heads[(l.round(sequence)*l.kvHeads+h)%len(heads)]
}

// window is a sequence's position in the window before the context.
func (l *lineup) window(sequence int) int {
	return l.round(sequence) * 7 % l.texts[sequence%len(l.texts)].Window
}

// length is a sequence's tokens.
func (l *lineup) length(sequence int) int {
	t := sequence % len(l.texts)
	return l.texts[t].length(l.at[t], l.window(sequence))
}

// query is the fp16 query of query head g of a KV head.
func (l *lineup) query(sequence, h, g int) []uint16 {
	t := sequence % len(l.texts)
	c := l.texts[t]
	return c.query(l.head(sequence, h), l.at[t], l.window(sequence), (g+l.round(sequence)+h/len(c.Heads)*l.group)%c.Group)
}

// exact is the softmax of a query over a sequence's tokens, and the output of attention, by definition.
func (l *lineup) exact(sequence, h, g int) (weights, out []float32) {
	n, dim, head := l.length(sequence), l.dim(), l.head(sequence, h)
	q, row := make([]float32, dim), make([]float32, dim)
	tensor.F16sToF32s(q, l.query(sequence, h, g))
	logits, top, sum := make([]float64, n), math.Inf(-1), 0.0
	for t := range logits {
		tensor.F16sToF32s(row, head.k[t*dim:][:dim])
		dot := 0.0
		for c, x := range q {
			dot += float64(x) * float64(row[c])
		}
		logits[t] = dot / math.Sqrt(float64(dim))
		top = max(top, logits[t])
	}
	for t, x := range logits {
		logits[t] = math.Exp(x - top)
		sum += logits[t]
	}
	weights, out = make([]float32, n), make([]float32, dim)
	all := make([]float64, dim)
	for t, x := range logits {
		weights[t] = float32(x / sum)
		tensor.F16sToF32s(row, head.v[t*dim:][:dim])
		for c, v := range row {
			all[c] += x / sum * float64(v)
		}
	}
	for c, x := range all {
		out[c] = float32(x)
	}
	return weights, out
}

// apart is ‖a − b‖/‖b‖.
func apart(a, b []float32) float64 {
	var d, n float64
	for i, y := range b {
		x := float64(a[i] - y)
		d += x * x
		n += float64(y) * float64(y)
	}
	return math.Sqrt(d / max(n, 1e-30))
}
