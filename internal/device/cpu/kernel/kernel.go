// Package kernel is the vector arithmetic of the CPU device: attention's kernels and those of the transformer step, in plain Go and in machine code for AVX2 and
// AVX-512. Machine code is written by the generator in _generate; every routine there is held against the plain Go of the same name.
//
// All types are values without state: a device picks one with For when it opens, and calls it from as many goroutines as it likes. Results depend on the level,
// but at one level never on alignment, on how a call is split, or on what else the call computes.
package kernel

import (
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
)

//go:generate go -C _generate run . -kernel dot -out ../dot_amd64.s -stubs ../dot_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel accumulate -out ../accumulate_amd64.s -stubs ../accumulate_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel body -out ../body_amd64.s -stubs ../body_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel scan -out ../scan_amd64.s -stubs ../scan_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel pages -out ../pages_amd64.s -stubs ../pages_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel prefill -out ../prefill_amd64.s -stubs ../prefill_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel reduce -out ../reduce_amd64.s -stubs ../reduce_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel step -out ../step_amd64.s -stubs ../step_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel encode -out ../encode_amd64.s -stubs ../encode_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel select -out ../select_amd64.s -stubs ../select_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel tokens -out ../tokens_amd64.s -stubs ../tokens_amd64.go -pkg kernel
//go:generate go -C _generate run . -kernel peak -out ../peak_amd64.s -stubs ../peak_amd64.go -pkg kernel

// Kernels is everything that the device computes with vectors, matrix products of quantised weights aside. The attention stages see attention.Kernels only.
type Kernels interface {
	attention.Kernels
	attention.Encoder
	Step
	Roofline
	// Prefill is dense causal attention of a tile of prompt rows.
	Prefill(p *Prefill)
}

// Step is the elementwise part of a transformer step. Slices of one call have equal lengths unless said otherwise; dst may be one of the inputs, but not overlap
// one in part.
type Step interface {
	// RMSNorm sets each row of dst to x·w/√(mean(x²)+eps). A row has len(w) elements; x is whole rows. The sum of squares is kept in float32 lanes.
	RMSNorm(dst, x, w []float32, eps float32)
	// Rope turns the leading 2·len(cos) channels of every dim-sized row of x by the angles whose cosines and sines are given, in place: pairs (2i, 2i+1), or,
	// with halves, pairs (i, i+len(cos)) as GPT-NeoX lays them out. All rows share one position.
	Rope(x []float32, dim int, cos, sin []float32, halves bool)
	// Gate sets dst = act(gate)·up.
	Gate(dst, gate, up []float32, act Activation)
	// Add sets dst += x.
	Add(dst, x []float32)
	// Narrow rounds x to fp16, ties to even: rows on their way into the cache.
	Narrow(dst []uint16, x []float32)
	// Widen is the inverse of Narrow, exact.
	Widen(dst []float32, x []uint16)
}

// Activation is the nonlinearity of a gated feed-forward layer.
type Activation int

// The activations of the supported architectures.
const (
	SiLU Activation = iota // x·sigmoid(x)
	GELU                   // 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), the tanh form of llama.cpp and of Gemma
)

// gate gives c1 and c3 such that the activation is x·sigmoid(c1·x + c3·x³): (1 + tanh z)/2 = sigmoid(2z).
func (a Activation) gate() (c1, c3 float32) {
	if a == GELU {
		const k = 2 * 0.79788456080286535588 // 2√(2/π)
		return k, k * 0.044715
	}
	return 1, 0
}

// For is the fastest set of kernels that the level allows.
func For(level isa.Level) Kernels { return forLevel(level) }
