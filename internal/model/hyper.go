// Package model owns the architectures: hyper-parameters from a model file's keys, and the forward pass in terms of device operations.
package model

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
)

// Source is a model file as this package reads it: typed metadata under GGUF's keys, and tensors under GGUF's names. *gguf.File is one.
type Source interface {
	Name() string
	Has(key string) bool
	Uint(key string) (uint64, error)
	Float(key string) (float64, error)
	String(key string) (string, error)
	Floats(key string) ([]float32, error)
	Tensor(name string) (gguf.Tensor, bool)
	Fingerprint() [32]byte
}

// Hyper is a model's hyper-parameters.
type Hyper struct {
	Arch            string
	Layers          int
	Embed, FFN      int // channels of the residual stream and of the feed-forward layer
	Heads, KVHeads  int
	HeadDim         int
	Vocab           int
	Context         int     // tokens the model was trained for
	Eps             float32 // of the norms
	Act             device.Activation
	EmbedScale      float32      // factor on the embeddings
	AttnScale       float32      // factor on the attention logits
	Rope, LocalRope *device.Rope // of global and of sliding-window layers; LocalRope is nil where there are none
	Window          int          // tokens in sight of a sliding-window layer
	Sliding         []bool       // by layer; nil: no layer has a window
}

// Group is the number of query heads that share a KV head.
func (h *Hyper) Group() int { return h.Heads / h.KVHeads }

// KVBytes is what a token costs in the cache, exact keys and values in fp16, over all layers.
func (h *Hyper) KVBytes() int { return h.Layers * h.KVHeads * h.HeadDim * 4 }

// window is the tokens in sight of a layer, 0 for all.
func (h *Hyper) window(layer int) int {
	if h.Sliding != nil && h.Sliding[layer] {
		return h.Window
	}
	return 0
}

func (h *Hyper) rope(layer int) *device.Rope {
	if h.window(layer) > 0 && h.LocalRope != nil {
		return h.LocalRope
	}
	return h.Rope
}

// architectures maps general.architecture to what sets it apart from the common decoder. One file each.
var architectures = map[string]func(*reader, *Hyper){}

// Bounds on hyper-parameters: far beyond any model, near enough that products of them cannot overflow.
const (
	maxLayers = 1 << 10
	maxWidth  = 1 << 20
	maxVocab  = 1 << 24
)

// ReadHyper reads the hyper-parameters. Errors name the file, the key, what was found and what was expected.
func ReadHyper(s Source) (*Hyper, error) {
	arch, err := s.String("general.architecture")
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	special, ok := architectures[arch]
	if !ok {
		return nil, fmt.Errorf("model: %s: architecture %q is not supported; supported: %s", s.Name(), arch, strings.Join(slices.Sorted(maps.Keys(architectures)), ", "))
	}
	r := &reader{s: s, arch: arch}
	if n := r.int("expert_count", 0, 0, maxWidth); n > 0 {
		return nil, fmt.Errorf("model: %s: %d experts: mixtures of experts are not supported", s.Name(), n)
	}
	h := &Hyper{Arch: arch, EmbedScale: 1}
	h.Layers = r.int("block_count", -1, 1, maxLayers)
	h.Embed = r.int("embedding_length", -1, 1, maxWidth)
	h.FFN = r.int("feed_forward_length", -1, 1, maxWidth)
	h.Heads = r.int("attention.head_count", -1, 1, maxWidth)
	h.KVHeads = r.int("attention.head_count_kv", h.Heads, 1, maxWidth)
	h.Context = r.int("context_length", -1, 1, math.MaxInt32)
	h.Eps = float32(r.float("attention.layer_norm_rms_epsilon", -1))
	if r.err != nil {
		return nil, r.err
	}
	h.HeadDim = r.int("attention.key_length", h.Embed/h.Heads, 2, maxWidth)
	if v := r.int("attention.value_length", h.HeadDim, 1, maxWidth); r.err == nil && v != h.HeadDim {
		return nil, fmt.Errorf("model: %s: keys of %d channels and values of %d: expected equal", s.Name(), h.HeadDim, v)
	}
	if r.err == nil && (h.Heads%h.KVHeads != 0 || h.Group() > attention.MaxGroup) {
		return nil, fmt.Errorf("model: %s: %d query heads and %d KV heads: expected a multiple, at most %d", s.Name(), h.Heads, h.KVHeads, attention.MaxGroup)
	}
	h.AttnScale = float32(1 / math.Sqrt(float64(h.HeadDim)))
	h.Rope = r.rope(h, r.float("rope.freq_base", 10000))
	if r.err == nil {
		special(r, h)
	}
	if r.err == nil {
		r.err = h.checkSizes(s)
	}
	if r.err != nil {
		return nil, r.err
	}
	return h, nil
}

// checkSizes takes the vocabulary's size from the embeddings, and holds the widths that scratch memory is made for against tensors that the file really has.
func (h *Hyper) checkSizes(s Source) error {
	e, ok := s.Tensor("token_embd.weight")
	if !ok {
		return fmt.Errorf("model: %s: tensor token_embd.weight: not found", s.Name())
	}
	if h.Vocab = e.Rows(); h.Vocab < 1 || h.Vocab > maxVocab {
		return fmt.Errorf("model: %s: tensor token_embd.weight has %d rows; expected one a token, at most %d", s.Name(), h.Vocab, maxVocab)
	}
	for _, t := range []struct {
		name string
		rows int
	}{{"token_embd", h.Vocab}, {"blk.0.attn_q", h.Heads * h.HeadDim}, {"blk.0.attn_k", h.KVHeads * h.HeadDim}, {"blk.0.ffn_gate", h.FFN}} {
		if _, err := find(s, t.name+".weight", t.rows, h.Embed); err != nil {
			return err
		}
	}
	return nil
}

// reader reads keys below the architecture's name and keeps the first error.
type reader struct {
	s    Source
	arch string
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("model: "+format, args...)
	}
}

// int reads a whole number within [lo,hi]; def is the value of a missing key, −1 if it must be there.
func (r *reader) int(key string, def, lo, hi int) int {
	key = r.arch + "." + key
	v, err := r.s.Uint(key)
	if errors.Is(err, gguf.ErrNotFound) && def >= 0 {
		v, err = uint64(def), nil // it may follow from other keys, and be as wrong as they are
	}
	if err != nil {
		r.fail("%w", err)
		return lo
	}
	if v < uint64(lo) || v > uint64(hi) {
		r.fail("%s: %s = %d: expected %d to %d", r.s.Name(), key, v, lo, hi)
		return lo
	}
	return int(v)
}

// float reads a finite number; def is the value of a missing key, negative if it must be there.
func (r *reader) float(key string, def float64) float64 {
	key = r.arch + "." + key
	v, err := r.s.Float(key)
	if errors.Is(err, gguf.ErrNotFound) && def >= 0 {
		return def
	}
	if err != nil {
		r.fail("%w", err)
		return 1
	}
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		r.fail("%s: %s = %v: expected a finite number, not negative", r.s.Name(), key, v)
		return 1
	}
	return v
}

func (r *reader) string(key, def string) string {
	v, err := r.s.String(r.arch + "." + key)
	if errors.Is(err, gguf.ErrNotFound) {
		return def
	}
	if err != nil {
		r.fail("%w", err)
	}
	return v
}
