package kernel

import (
	"fmt"
	"math"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

func TestRMSNorm(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(1)
		for _, n := range lengths() {
			const rows = 2
			x, w := guardedCopy(t, fillNormal(r, make([]float32, rows*n))), guardedCopy(t, fillNormal(r, make([]float32, n)))
			dst := guarded[float32](t, rows*n)
			k.RMSNorm(dst, x, w, 1e-5)
			for row := range rows {
				sum := 0.0
				for _, v := range x[row*n:][:n] {
					sum += float64(v) * float64(v)
				}
				s := 1 / math.Sqrt(sum/float64(n)+1e-5)
				for i := range n {
					want := float64(x[row*n+i]) * s * float64(w[i])
					near(t, fmt.Sprintf("n %d: row %d element %d", n, row, i), dst[row*n+i], want, math.Abs(want)*2e-6)
				}
			}
		}
	})
}

func TestRope(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(2)
		for _, halves := range []bool{false, true} {
			for _, pairs := range []int{1, 7, 8, 9, 16, 20, 32, 48, 64, 128} {
				for _, rest := range []int{0, 5} {
					const rows = 3
					dim := 2*pairs + rest
					x := guardedCopy(t, fillNormal(r, make([]float32, rows*dim)))
					in := append([]float32(nil), x...)
					cos, sin := guarded[float32](t, pairs), guarded[float32](t, pairs)
					for i := range cos {
						s, c := math.Sincos(r.Float64() * 6)
						cos[i], sin[i] = float32(c), float32(s)
					}
					k.Rope(x, dim, cos, sin, halves)
					for row := range rows {
						for i := range pairs {
							a, b := row*dim+2*i, row*dim+2*i+1
							if halves {
								a, b = row*dim+i, row*dim+i+pairs
							}
							u, v, c, s := float64(in[a]), float64(in[b]), float64(cos[i]), float64(sin[i])
							what := fmt.Sprintf("halves %v pairs %d: row %d pair %d", halves, pairs, row, i)
							near(t, what, x[a], u*c-v*s, 1e-6)
							near(t, what, x[b], v*c+u*s, 1e-6)
						}
						for i := 2 * pairs; i < dim; i++ {
							if x[row*dim+i] != in[row*dim+i] {
								t.Fatalf("halves %v pairs %d: turned channel %d beyond the pairs", halves, pairs, i)
							}
						}
					}
				}
			}
		}
	})
}

func TestGate(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(3)
		for _, act := range []Activation{SiLU, GELU} {
			for _, n := range lengths() {
				gate, up := guarded[float32](t, n), guardedCopy(t, fillNormal(r, make([]float32, n)))
				for i := range gate {
					gate[i] = float32(r.NormFloat64() * math.Pow(10, 3*r.Float64()-1.5))
				}
				dst := guarded[float32](t, n)
				k.Gate(dst, gate, up, act)
				for i := range dst {
					x := float64(gate[i])
					y := x / (1 + math.Exp(-x))
					if act == GELU {
						y = 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
					}
					y *= float64(up[i])
					near(t, fmt.Sprintf("act %d n %d: %v", act, n, x), dst[i], y, math.Abs(y)*4e-6+1e-7)
				}
			}
			x := []float32{inf, -1e30, -200, 200, nan, 0}
			dst := make([]float32, len(x))
			k.Gate(dst, x, []float32{1, 1, 1, 1, 1, 1}, act)
			if dst[0] != inf || dst[1] != 0 || dst[2] != 0 || dst[3] != 200 || dst[4] == dst[4] || dst[5] != 0 {
				t.Fatalf("act %d: %v of %v", act, dst, x)
			}
		}
	})
}

func TestElementwise(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(4)
		for _, n := range lengths() {
			x, y := guardedCopy(t, fillNormal(r, make([]float32, n))), guardedCopy(t, fillNormal(r, make([]float32, n)))
			in := append([]float32(nil), x...)
			k.Add(x, y)
			for i := range x {
				if x[i] != in[i]+y[i] {
					t.Fatalf("add, n %d: element %d is %v", n, i, x[i])
				}
			}
			copy(x, in)
			k.Scale(x, 0.37)
			for i := range x {
				if x[i] != in[i]*0.37 {
					t.Fatalf("scale, n %d: element %d is %v", n, i, x[i])
				}
			}
			h, back := guarded[uint16](t, n), guarded[float32](t, n)
			k.Narrow(h, in)
			k.Widen(back, h)
			for i := range h {
				if h[i] != tensor.F32ToF16(in[i]) || back[i] != tensor.F16ToF32(h[i]) {
					t.Fatalf("fp16, n %d: %v is %04x, back %v", n, in[i], h[i], back[i])
				}
			}
		}
	})
}

// TestHalves narrows and widens every half, and values between neighbours.
func TestHalves(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		all := make([]uint16, 1<<16)
		for i := range all {
			all[i] = uint16(i)
		}
		wide, again := make([]float32, len(all)), make([]uint16, len(all))
		k.Widen(wide, all)
		k.Narrow(again, wide)
		for i, v := range wide {
			want := tensor.F16ToF32(all[i])
			if v != want && (v == v || want == want) {
				t.Fatalf("%04x widens to %v, want %v", all[i], v, want)
			}
			if again[i] != all[i] && v == v {
				t.Fatalf("%04x comes back as %04x", all[i], again[i])
			}
		}
		for i := range wide {
			wide[i] = (wide[i] + tensor.F16ToF32(all[(i+1)&0xffff])) / 2 * 1.0000001
		}
		k.Narrow(again, wide)
		for i, v := range wide {
			if want := tensor.F32ToF16(v); again[i] != want && v == v {
				t.Fatalf("%v narrows to %04x, want %04x", v, again[i], want)
			}
		}
	})
}
