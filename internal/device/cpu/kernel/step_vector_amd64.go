//go:build !noasm

package kernel

// RMSNorm implements Step.
func (v vector) RMSNorm(dst, x, w []float32, eps float32) {
	n := len(w)
	for ; len(x) >= n && n > 0; dst, x = dst[n:], x[n:] {
		s := rmsScale(v.sumSquares(ptr(x), n), n, eps)
		v.scaleMul(ptr(dst[:n]), ptr(x), ptr(w), n, s)
	}
}

// Rope implements Step.
func (v vector) Rope(x []float32, dim int, cos, sin []float32, halves bool) {
	n := len(cos)
	sin = sin[:n]
	for ; len(x) >= dim && dim > 0; x = x[dim:] {
		row := x[:dim][:2*n]
		if halves {
			v.ropeHalves(ptr(row), ptr(row[n:]), ptr(cos), ptr(sin), n)
			continue
		}
		whole := n &^ 7
		if whole > 0 {
			v.ropePairs(ptr(row), ptr(cos), ptr(sin), 2*whole)
		}
		if whole < n {
			v.portable.Rope(row[2*whole:], 2*(n-whole), cos[whole:], sin[whole:], false)
		}
	}
}

// Gate implements Step.
func (v vector) Gate(dst, gate, up []float32, act Activation) {
	c1, c3 := act.gate()
	n := len(gate)
	v.gate(ptr(dst[:n]), ptr(gate), ptr(up[:n]), n, c1, c3)
}

// Add implements Step.
func (v vector) Add(dst, x []float32) { v.add(ptr(dst[:len(x)]), ptr(x), len(x)) }

// Scale implements attention.Kernels.
func (v vector) Scale(x []float32, s float32) { v.scale(ptr(x), len(x), s) }

// Narrow implements Step.
func (v vector) Narrow(dst []uint16, x []float32) {
	whole := len(x) &^ 15
	if whole > 0 {
		v.narrow(ptr(dst[:whole]), ptr(x), whole)
	}
	v.portable.Narrow(dst[whole:len(x)], x[whole:])
}

// Widen implements Step.
func (v vector) Widen(dst []float32, x []uint16) {
	whole := len(x) &^ 15
	if whole > 0 {
		v.widen(ptr(dst[:whole]), ptr(x), whole)
	}
	v.portable.Widen(dst[whole:len(x)], x[whole:])
}
