//go:build !noasm

package kernel

// RMSNorm implements Step.
func (avx512) RMSNorm(dst, x, w []float32, eps float32) {
	n := len(w)
	for ; len(x) >= n && n > 0; dst, x = dst[n:], x[n:] {
		s := rmsScale(sumSquaresAVX512(ptr(x), n), n, eps)
		scaleMulAVX512(ptr(dst[:n]), ptr(x), ptr(w), n, s)
	}
}

// Rope implements Step.
func (avx512) Rope(x []float32, dim int, cos, sin []float32, halves bool) {
	n := len(cos)
	sin = sin[:n]
	for ; len(x) >= dim && dim > 0; x = x[dim:] {
		row := x[:dim][:2*n]
		if halves {
			ropeHalvesAVX512(ptr(row), ptr(row[n:]), ptr(cos), ptr(sin), n)
		} else {
			ropePairsAVX512(ptr(row), ptr(cos), ptr(sin), 2*n)
		}
	}
}

// Gate implements Step.
func (avx512) Gate(dst, gate, up []float32, act Activation) {
	c1, c3 := act.gate()
	n := len(gate)
	gateAVX512(ptr(dst[:n]), ptr(gate), ptr(up[:n]), n, c1, c3)
}

// Add implements Step.
func (avx512) Add(dst, x []float32) { addAVX512(ptr(dst[:len(x)]), ptr(x), len(x)) }

// Scale implements Step.
func (avx512) Scale(x []float32, s float32) { scaleAVX512(ptr(x), len(x), s) }

// Narrow implements Step.
func (avx512) Narrow(dst []uint16, x []float32) { narrowAVX512(ptr(dst[:len(x)]), ptr(x), len(x)) }

// Widen implements Step.
func (avx512) Widen(dst []float32, x []uint16) { widenAVX512(ptr(dst[:len(x)]), ptr(x), len(x)) }
