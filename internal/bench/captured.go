package bench

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/checkpoint"
	"github.com/twilight-go/twilight/internal/tensor"
)

// Capture is real attention apart from its model: the keys and values of some layers over a text, and the queries asked at the ends of some contexts. WriteTo and ReadCapture
// keep it in a file for a machine that has neither the model nor the time to read the text.
type Capture struct {
	Model               string
	Dim, Group, KVHeads int   // of the model
	Contexts            []int // tokens, ascending
	Window              int   // queries of the last positions before each context
	Heads               []CapturedHead
}

// CapturedHead is one KV head of one layer.
type CapturedHead struct {
	Layer, Head int
	q           []uint16 // fp16 [contexts][window][group][dim], after RoPE; the softmax is of q·k/√dim
	k, v        []uint16 // fp16 [tokens][dim], after RoPE
}

// Tokens is the longest context.
func (c *Capture) Tokens() int { return c.Contexts[len(c.Contexts)-1] }

// length is the tokens in sight of position w of a context's window.
func (c *Capture) length(at, w int) int { return c.Contexts[at] - c.Window + w + 1 }

// query is one query of a head.
func (c *Capture) query(h *CapturedHead, at, w, g int) []uint16 {
	return h.q[((at*c.Window+w)*c.Group+g)*c.Dim:][:c.Dim]
}

// layers are the distinct layers.
func (c *Capture) layers() (list []int) {
	for i := range c.Heads {
		if !slices.Contains(list, c.Heads[i].Layer) {
			list = append(list, c.Heads[i].Layer)
		}
	}
	return list
}

// shallow is a model file of which only the first layers are run.
type shallow struct {
	checkpoint.File
	layers int
}

// Uint implements model.Source.
func (s shallow) Uint(key string) (uint64, error) {
	n, err := s.File.Uint(key)
	if strings.HasSuffix(key, ".block_count") {
		n = min(n, uint64(s.layers))
	}
	return n, err
}

// Record captures what attention sees in the given layers, or in three of the model's, while the model decodes the last b.Steps tokens before each of b.Contexts. A text is read with the
// layers up to the last given alone. Specs and Views do not matter.
func (b *Attention) Record(ctx context.Context, layers []int) (c *Capture, err error) {
	if b.Steps < 1 || !ascending(layers) || len(layers) > 0 && layers[0] < 0 {
		return nil, fmt.Errorf("bench: capturing %d steps of layers %v: expected at least one step, and layers in ascending order", b.Steps, layers)
	}
	if !ascending(b.Contexts) || len(b.Contexts) > 0 && b.Contexts[0] < b.Steps+3 {
		return nil, fmt.Errorf("bench: contexts %v: expected them ascending, each with room for %d steps", b.Contexts, b.Steps)
	}
	depth := 0
	if len(layers) > 0 {
		depth = layers[len(layers)-1] + 1
	}
	s, err := openSource(ctx, b, nil, depth)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	h := &s.hyper
	if len(layers) == 0 {
		all := s.layers(min(2, h.Layers-1)) // the first are unlike the others, and dense in most pipelines
		k := min(3, len(all))
		for i := range k {
			layers = append(layers, all[i*len(all)/k])
		}
	}
	c = &Capture{Model: b.Model, Dim: h.HeadDim, Group: h.Group(), KVHeads: h.KVHeads, Contexts: b.Contexts, Window: b.Steps}
	for _, l := range layers {
		if l >= h.Layers || h.Sliding != nil && h.Sliding[l] {
			return nil, fmt.Errorf("bench: capturing layer %d of %s: expected one of %d layers, without a sliding window", l, b.Model, h.Layers)
		}
		for i := range h.KVHeads {
			c.Heads = append(c.Heads, CapturedHead{Layer: l, Head: i, q: make([]uint16, 0, len(b.Contexts)*b.Steps*c.Group*c.Dim)})
		}
	}
	for _, n := range b.Contexts {
		if err := c.window(ctx, b, s, n); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// window adds the queries before the context of n tokens, and of the longest the keys and values.
func (c *Capture) window(ctx context.Context, b *Attention, s *source, n int) error {
	return s.replay(ctx, n-b.Steps, n, func(i int) error {
		b.progress(fmt.Sprintf("capturing at %d tokens", n), int64(i), int64(b.Steps))
		root := float32(math.Sqrt(float64(c.Dim)))
		for j := range c.Heads {
			h := &c.Heads[j]
			for _, x := range s.rec.q[h.Layer][h.Head*c.Group*c.Dim:][:c.Group*c.Dim] {
				h.q = append(h.q, tensor.F32ToF16(x*root)) // the recorder has scaled them
			}
			if n == c.Tokens() && i == b.Steps-1 {
				rows := s.rec.host.Head(s.rec.seq, h.Layer, h.Head, n)
				for at := 0; at < n; at += attention.BlockTokens {
					most := min(attention.BlockTokens, n-at) * c.Dim
					h.k = append(h.k, rows.Keys(at / attention.BlockTokens)[:most]...)
					h.v = append(h.v, rows.Values(at / attention.BlockTokens)[:most]...)
				}
			}
		}
		return nil
	})
}

// ascending says whether each number is larger than the one before.
func ascending(x []int) bool {
	return slices.IsSorted(x) && len(slices.Compact(slices.Clone(x))) == len(x)
}
