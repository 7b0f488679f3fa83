package checkpoint

import (
	"errors"
	"fmt"
	"math"

	"github.com/twilight-go/twilight/gguf"
)

// rotary is what config.json says of the rotary embedding: rope_theta and rope_scaling in older files, rope_parameters in newer ones.
type rotary struct {
	Base       *float64        `json:"rope_theta"`
	LocalBase  *float64        `json:"rope_local_base_freq"` // of layers with a window
	Partial    *float64        `json:"partial_rotary_factor"`
	Scaling    *scaling        `json:"rope_scaling"`
	Parameters *ropeParameters `json:"rope_parameters"`
}

// ropeParameters is one rotary embedding, or one for each kind of layer.
type ropeParameters struct {
	scaling
	Full  *scaling `json:"full_attention"`
	Local *scaling `json:"sliding_attention"`
}

// scaling is a way to reach further than a model was trained for.
type scaling struct {
	Type      string   `json:"rope_type"`
	OldType   string   `json:"type"`
	Base      *float64 `json:"rope_theta"`
	Partial   *float64 `json:"partial_rotary_factor"`
	Factor    *float64 `json:"factor"`
	Low       *float64 `json:"low_freq_factor"`
	High      *float64 `json:"high_freq_factor"`
	Original  *float64 `json:"original_max_position_embeddings"`
	Attention *float64 `json:"attention_factor"`
	BetaFast  *float64 `json:"beta_fast"`
	BetaSlow  *float64 `json:"beta_slow"`
	Scale     *float64 `json:"mscale"`
	ScaleAll  *float64 `json:"mscale_all_dim"`
	Truncate  *bool    `json:"truncate"`
}

// The kinds of scaling.
const (
	plain  = "default"
	linear = "linear"
	yarn   = "yarn"
	llama3 = "llama3"
)

// kind is the name under which the scaling goes.
func (s *scaling) kind() string {
	switch {
	case s.Type != "":
		return s.Type
	case s.OldType != "":
		return s.OldType
	}
	return plain
}

// rope is the rotary embedding of the layers without a window, under GGUF's terms.
type rope struct {
	base float64
	kind string // none, linear or yarn; Llama 3's scaling is none, with factors

	factor, attention, betaFast, betaSlow float64
	original                              uint32
}

// rotation understands the rotary embedding.
func (n *network) rotation(r *rotary) error {
	s, local := &scaling{}, &scaling{Base: r.LocalBase}
	if r.Scaling != nil {
		s = r.Scaling
	}
	if p := r.Parameters; p != nil {
		s = &p.scaling
		if p.Full != nil {
			s = p.Full
		}
		if p.Local != nil {
			local = p.Local
		}
	}
	for _, p := range []*float64{r.Partial, s.Partial} {
		if p != nil && *p != 1 {
			return fmt.Errorf("partial_rotary_factor = %v is not supported: all channels of a head must rotate", *p)
		}
	}
	const localBase = 10000
	if n.locals && (local.kind() != plain || *or(local.Base, new(1e4)) != localBase) {
		return fmt.Errorf("rope of the sliding layers: type %.50q with base %v is not supported in a %s; supported: %s with base %d",
			local.kind(), *or(local.Base, new(1e4)), n.title, plain, localBase)
	}
	n.rope = rope{base: *or(or(s.Base, r.Base), new(1e4)), kind: "none"}
	if !(n.rope.base > 1 && n.rope.base <= math.MaxFloat32) {
		return fmt.Errorf("rope_theta = %v: expected a finite number above 1", n.rope.base)
	}
	switch s.kind() {
	case plain:
		return nil
	case linear:
		n.rope.kind = linear
		return s.number("factor", s.Factor, nil, &n.rope.factor)
	case llama3:
		return n.llama3(s)
	case yarn:
		return n.yarn(s)
	}
	return fmt.Errorf("rope scaling of type %.50q is not supported; supported: %s, %s, %s, %s", s.kind(), plain, linear, yarn, llama3)
}

// number reads a positive number of a scaling; def is the value of a missing one, nil if it must be there.
func (s *scaling) number(key string, v, def *float64, to *float64) error {
	if v = or(v, def); v == nil {
		return fmt.Errorf("rope scaling of type %s: %s: not found", s.kind(), key)
	}
	if !(*v > 0 && *v <= math.MaxInt32) {
		return fmt.Errorf("rope scaling of type %s: %s = %v: expected a positive number up to %d", s.kind(), key, *v, math.MaxInt32)
	}
	*to = *v
	return nil
}

// llama3 computes Llama 3.1's factors as llama.cpp's converter does: slow channels, which turn less than low_freq_factor times over the original context, are
// slowed by factor; fast ones, from high_freq_factor turns on, stay; between the two it blends.
func (n *network) llama3(s *scaling) error {
	var factor, low, high, original float64
	if err := errors.Join(s.number("factor", s.Factor, nil, &factor), s.number("low_freq_factor", s.Low, nil, &low), s.number("high_freq_factor", s.High, nil, &high),
		s.number("original_max_position_embeddings", s.Original, nil, &original)); err != nil {
		return err
	}
	if high <= low {
		return fmt.Errorf("rope scaling of type %s: low_freq_factor = %v and high_freq_factor = %v: expected the latter to be greater", llama3, low, high)
	}
	n.ropeFactors = make([]float32, n.headDim/2)
	for i := range n.ropeFactors {
		turns := original * math.Pow(n.rope.base, -2*float64(i)/float64(n.headDim)) / (2 * math.Pi)
		blend := min(max((turns-low)/(high-low), 0), 1) // 1: fast
		n.ropeFactors[i] = float32(1 / ((1-blend)/factor + blend))
	}
	return nil
}

// yarn reads YaRN's parameters. GGUF's attn_factor comes on top of the attention factor that follows from the scaling's own.
func (n *network) yarn(s *scaling) error {
	r := &n.rope
	r.kind = yarn
	var original float64
	if err := errors.Join(s.number("factor", s.Factor, nil, &r.factor), s.number("beta_fast", s.BetaFast, new(32.0), &r.betaFast),
		s.number("beta_slow", s.BetaSlow, new(1.0), &r.betaSlow), s.number("original_max_position_embeddings", s.Original, new(float64(n.context)), &original)); err != nil {
		return err
	}
	if r.factor < 1 || original < 1 {
		return fmt.Errorf("rope scaling of type %s: factor = %v over %v tokens: expected at least 1", yarn, r.factor, original)
	}
	if s.Truncate != nil && !*s.Truncate {
		return fmt.Errorf("rope scaling of type %s: truncate = false is not supported", yarn)
	}
	r.original = uint32(original)
	usual := 1 + 0.1*math.Log(r.factor)
	attention := usual
	switch {
	case s.Attention != nil:
		if err := s.number("attention_factor", s.Attention, nil, &attention); err != nil {
			return err
		}
	case s.Scale != nil && s.ScaleAll != nil && *s.Scale != 0 && *s.ScaleAll != 0:
		var scale, all float64
		if err := errors.Join(s.number("mscale", s.Scale, nil, &scale), s.number("mscale_all_dim", s.ScaleAll, nil, &all)); err != nil {
			return err
		}
		attention = (1 + 0.1*scale*math.Log(r.factor)) / (1 + 0.1*all*math.Log(r.factor))
	}
	r.attention = attention / usual
	return nil
}

// metadata is the rotary embedding under GGUF's keys.
func (r *rope) metadata(key func(string) string) []gguf.KV {
	kv := []gguf.KV{{Key: key("rope.freq_base"), Value: float32(r.base)}}
	add := func(name string, value any) { kv = append(kv, gguf.KV{Key: key("rope.scaling." + name), Value: value}) }
	switch r.kind {
	case linear:
		add("type", linear)
		add("factor", float32(r.factor))
	case yarn:
		add("type", yarn)
		add("factor", float32(r.factor))
		add("original_context_length", r.original)
		add("attn_factor", float32(r.attention))
		add("yarn_beta_fast", float32(r.betaFast))
		add("yarn_beta_slow", float32(r.betaSlow))
	}
	return kv
}
