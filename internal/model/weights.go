package model

import (
	"fmt"
	"strings"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/tensor"
)

// layer is the weights of one transformer layer. Vectors that an architecture lacks are nil.
type layer struct {
	attnNorm, ffnNorm         []float32
	qNorm, kNorm              []float32 // per head
	postAttnNorm, postFFNNorm []float32
	qkv, out, up, down        []device.Linear // products that share an input
}

// loader reads the tensors of a model into a device and keeps the first error.
type loader struct {
	s   Source
	dev device.Device
	err error
	// progress is told of the bytes taken in so far.
	progress func(done int64)
	done     int64
}

func (l *loader) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// matrix takes in a tensor of the given shape.
func (l *loader) matrix(name string, rows, cols int) device.Weight {
	if l.err != nil {
		return nil
	}
	t, err := find(l.s, name, rows, cols)
	if err != nil {
		l.fail(err)
		return nil
	}
	w, err := l.dev.Weight(device.Matrix{Name: name, Type: t.Type, Rows: rows, Cols: cols, Data: t.Data})
	if err != nil {
		l.fail(fmt.Errorf("model: %s: %w", l.s.Name(), err))
		return nil
	}
	if l.done += int64(len(t.Data)); l.progress != nil {
		l.progress(l.done)
	}
	return w
}

// find is a tensor of the given shape.
func find(s Source, name string, rows, cols int) (gguf.Tensor, error) {
	t, ok := s.Tensor(name)
	if !ok {
		return t, fmt.Errorf("model: %s: tensor %s: not found", s.Name(), name)
	}
	if len(t.Dims) != 2 || t.Dims[0] != uint64(cols) || t.Dims[1] != uint64(rows) {
		return t, fmt.Errorf("model: %s: tensor %s has dimensions %v; expected [%d %d]", s.Name(), name, t.Dims, cols, rows)
	}
	return t, nil
}

// vector reads a tensor of n elements as float32.
func (l *loader) vector(name string, n int) []float32 {
	t, ok := l.s.Tensor(name)
	if !ok {
		l.fail(fmt.Errorf("model: %s: tensor %s: not found", l.s.Name(), name))
		return nil
	}
	v, err := floats(l.s, t, n)
	if err != nil {
		l.fail(err)
	}
	return v
}

// optional is vector for a tensor that some architectures lack.
func (l *loader) optional(name string, n int) []float32 {
	if _, ok := l.s.Tensor(name); !ok {
		return nil
	}
	return l.vector(name, n)
}

func floats(s Source, t gguf.Tensor, n int) ([]float32, error) {
	count := uint64(1)
	for _, d := range t.Dims {
		count *= d
	}
	if count != uint64(n) {
		return nil, fmt.Errorf("model: %s: tensor %s has dimensions %v; expected %d elements", s.Name(), t.Name, t.Dims, n)
	}
	v := make([]float32, n)
	if err := tensor.Decode(t.Type, v, t.Data); err != nil {
		return nil, fmt.Errorf("model: %s: tensor %s: %w", s.Name(), t.Name, err)
	}
	return v, nil
}

// fine reports whether a product asks for more than 8 bits of its inputs. Those of attention do: their errors pass a softmax, or
// stay in the cache for every later token. Those of the feed-forward block, most of a prompt's arithmetic, do not.
func fine(name string) bool { return strings.HasPrefix(name, "attn_") }

func (l *loader) layer(i int, h *Hyper, a *activations) layer {
	name := func(s string) string { return fmt.Sprintf("blk.%d.%s", i, s) }
	lin := func(s string, rows, cols int, dst device.Tensor) device.Linear {
		return device.Linear{W: l.matrix(name(s+".weight"), rows, cols), Bias: l.optional(name(s+".bias"), rows), Dst: dst, Fine: fine(s)}
	}
	q, kv := h.Heads*h.HeadDim, h.KVHeads*h.HeadDim
	return layer{
		attnNorm:     l.vector(name("attn_norm.weight"), h.Embed),
		ffnNorm:      l.vector(name("ffn_norm.weight"), h.Embed),
		qNorm:        l.optional(name("attn_q_norm.weight"), h.HeadDim),
		kNorm:        l.optional(name("attn_k_norm.weight"), h.HeadDim),
		postAttnNorm: l.optional(name("post_attention_norm.weight"), h.Embed),
		postFFNNorm:  l.optional(name("post_ffw_norm.weight"), h.Embed),
		qkv:          []device.Linear{lin("attn_q", q, h.Embed, a.q), lin("attn_k", kv, h.Embed, a.k), lin("attn_v", kv, h.Embed, a.v)},
		out:          []device.Linear{lin("attn_output", h.Embed, q, a.y)},
		up:           []device.Linear{lin("ffn_gate", h.FFN, h.Embed, a.gate), lin("ffn_up", h.FFN, h.Embed, a.up)},
		down:         []device.Linear{lin("ffn_down", h.Embed, h.FFN, a.y)},
	}
}
