// Package calibrate learns from a model's queries and keys on a text what some selectors want to know beforehand: the important channels of each KV head (Double
// Sparsity, arXiv 2408.07092), and which layers should select for those after them (TidalDecode, arXiv 2410.05076).
package calibrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
)

// ErrText is in the error of a text that is too short.
var ErrText = errors.New("the text is too short")

// Text is a calibration by a text.
type Text struct {
	Model   string // named in the result
	Text    string
	Tokens  int     // of the text, from its start
	Anchors int     // layers that select
	Keep    float64 // share of the context that a layer selects, when layers are compared
	Samples int     // queries by which layers are compared, spread over the second half of the text
	// Progress is told of tokens done. May be nil.
	Progress func(stage string, done, total int64)

	seen *observer
}

// Options are o with what the calibration needs of the model.
func (t *Text) Options(o twilight.Options) twilight.Options {
	o.Attention, o.Also, o.Context = "dense", nil, max(o.Context, t.Tokens)
	o.Watch = func(ob *attention.Observation) { t.seen.observe(ob) }
	return o
}

// Run calibrates a model opened by Options.
func (t *Text) Run(ctx context.Context, m *twilight.Model) (*attention.Calibration, error) {
	h := m.Hyper()
	if t.Tokens < 2 || t.Samples < 1 || t.Anchors < 1 {
		return nil, fmt.Errorf("calibrate: %d tokens, %d samples, %d anchors: expected at least 2, 1 and 1", t.Tokens, t.Samples, t.Anchors)
	}
	text := m.Encode(t.Text)
	if len(text) < t.Tokens {
		return nil, fmt.Errorf("calibrate: %w: it has %d tokens, expected %d", ErrText, len(text), t.Tokens)
	}
	t.seen = newObserver(t, attention.Shape{Layers: h.Layers, KVHeads: h.KVHeads, Group: h.Group(), Dim: h.HeadDim})
	s, err := m.NewSession("dense")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	_, _, err = s.Prefill(ctx, text[:t.Tokens], func(done, total int) {
		if t.Progress != nil {
			t.Progress("reading the text", int64(done), int64(total))
		}
	})
	if err != nil {
		return nil, err
	}
	c := &attention.Calibration{Model: t.Model, Tokens: t.Tokens, Layers: h.Layers, KVHeads: h.KVHeads, Dim: h.HeadDim, Channels: t.seen.channels()}
	c.Anchors, c.Held = bestAnchors(t.seen.held(), t.Anchors)
	return c, nil
}
