package model

import (
	"math"

	"github.com/twilight-go/twilight/internal/device"
)

// rope builds the rotary embedding that the file asks for: plain, linearly scaled, YaRN (arXiv 2309.00071), or with the per-channel factors of Llama 3.1, which
// converters store as tensor rope_freqs.weight.
func (r *reader) rope(h *Hyper, base float64) *device.Rope {
	dims := r.int("rope.dimension_count", h.HeadDim, 2, h.HeadDim)
	if base <= 0 || dims%2 != 0 {
		r.fail("%s: rotary embedding of %d channels with base %v: expected an even number and a positive base", r.s.Name(), dims, base)
		return nil
	}
	rope := &device.Rope{Freq: make([]float64, dims/2), Magnitude: 1}
	for i := range rope.Freq {
		rope.Freq[i] = math.Pow(base, -2*float64(i)/float64(dims))
	}
	if t, ok := r.s.Tensor("rope_freqs.weight"); ok {
		factors, err := floats(r.s, t, dims/2)
		if err != nil {
			r.fail("%w", err)
			return rope
		}
		for i, f := range factors {
			if !(f > 0 && f <= math.MaxFloat32) {
				r.fail("%s: tensor rope_freqs.weight: factor %d is %v: expected a positive number", r.s.Name(), i, f)
				return rope
			}
			rope.Freq[i] /= float64(f)
		}
	}
	factor := r.float("rope.scaling.factor", 0)
	switch kind := r.string("rope.scaling.type", ""); kind {
	case "", "none":
		if legacy := r.float("rope.scale_linear", 0); legacy > 0 {
			linear(rope, legacy)
		}
	case "linear":
		linear(rope, factor)
	case "yarn":
		original := r.int("rope.scaling.original_context_length", h.Context, 1, math.MaxInt32)
		r.yarn(rope, base, factor, dims, original)
	default:
		r.fail("%s: rope scaling %q is not supported; supported: none, linear, yarn, and Llama 3's factors", r.s.Name(), kind)
	}
	return rope
}

func linear(rope *device.Rope, factor float64) {
	if factor <= 0 {
		return
	}
	for i := range rope.Freq {
		rope.Freq[i] /= factor
	}
}

// yarn interpolates the slow channels by factor, leaves the fast ones, and blends between: channels that turn fewer than beta_slow times over the original context are
// slow, more than beta_fast times fast.
func (r *reader) yarn(rope *device.Rope, base, factor float64, dims, original int) {
	if factor <= 0 {
		r.fail("%s: %s.rope.scaling.factor = %v: yarn needs a positive factor", r.s.Name(), r.arch, factor)
		return
	}
	turns := func(beta float64) float64 { // the channel that turns beta times
		return float64(dims) * math.Log(float64(original)/(beta*2*math.Pi)) / (2 * math.Log(base))
	}
	lo := max(0, math.Floor(turns(r.float("rope.scaling.yarn_beta_fast", 32))))
	hi := min(float64(dims-1), math.Ceil(turns(r.float("rope.scaling.yarn_beta_slow", 1))))
	ext := r.float("rope.scaling.yarn_ext_factor", 1)
	for i := range rope.Freq {
		ramp := min(max((float64(i)-lo)/max(0.001, hi-lo), 0), 1)
		mix := (1 - ramp) * ext // 1: fast, extrapolated
		rope.Freq[i] = rope.Freq[i]/factor*(1-mix) + rope.Freq[i]*mix
	}
	rope.Magnitude = r.float("rope.scaling.attn_factor", 1)
	if ext != 0 {
		rope.Magnitude *= 1 + 0.1*math.Log(factor)
	}
}
