package kernel

import (
	"encoding/binary"
	"math"
	"sync/atomic"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

// portable is Kernels in plain Go: the definition that machine code is tested against, and what runs where there is none.
type portable struct{ attention.Portable }

// RMSNorm implements Step.
func (portable) RMSNorm(dst, x, w []float32, eps float32) {
	n := len(w)
	for ; len(x) >= n && n > 0; dst, x = dst[n:], x[n:] {
		var sum float32
		for _, v := range x[:n] {
			sum += v * v
		}
		s := rmsScale(sum, n, eps)
		for i, v := range x[:n] {
			dst[i] = v * s * w[i]
		}
	}
}

func rmsScale(sumSquares float32, n int, eps float32) float32 {
	return float32(1 / math.Sqrt(float64(sumSquares)/float64(n)+float64(eps)))
}

// Rope implements Step.
func (portable) Rope(x []float32, dim int, cos, sin []float32, halves bool) {
	n := len(cos)
	step, apart := 2, 1
	if halves {
		step, apart = 1, n
	}
	for ; len(x) >= dim && dim > 0; x = x[dim:] {
		for i, c := range cos {
			a, b, s := x[i*step], x[i*step+apart], sin[i]
			x[i*step], x[i*step+apart] = a*c-b*s, b*c+a*s
		}
	}
}

// Gate implements Step.
func (portable) Gate(dst, gate, up []float32, act Activation) {
	c1, c3 := act.gate()
	for i, x := range gate {
		z := x * (c1 + c3*min(x*x, 1e8)) // or an infinite square would meet c3 = 0
		dst[i] = x / (1 + float32(math.Exp(-float64(z)))) * up[i]
	}
}

// Add implements Step.
func (portable) Add(dst, x []float32) {
	for i, v := range x {
		dst[i] += v
	}
}

// Narrow implements Step.
func (portable) Narrow(dst []uint16, x []float32) { tensor.F32sToF16s(dst, x) }

// Widen implements Step.
func (portable) Widen(dst []float32, x []uint16) { tensor.F16sToF32s(dst, x) }

// ReadBandwidth implements Roofline.
func (portable) ReadBandwidth(buf []byte) (sum uint64) {
	for ; len(buf) >= 512; buf = buf[512:] {
		for i := 0; i < 512; i += 8 {
			sum += binary.NativeEndian.Uint64(buf[i:])
		}
	}
	return sum
}

// PeakFMA implements Roofline.
func (portable) PeakFMA(n int) int {
	var a, b, c, d float32
	for i := 0; i < n; i += 4 {
		a, b, c, d = a*0.5+1, b*0.5+1, c*0.5+1, d*0.5+1
	}
	portableSink.Store(math.Float32bits(a + b + c + d))
	return (n + 3) / 4 * 4
}

// PeakVNNI implements Roofline.
func (portable) PeakVNNI(n int) int {
	var s int32
	for i := range n {
		s += int32(int8(i)) * int32(uint8(i>>8))
	}
	portableSink.Store(uint32(s))
	return n
}

// portableSink takes results that nobody wants, so that they are computed.
var portableSink atomic.Uint32
