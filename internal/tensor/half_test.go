package tensor

import (
	"math"
	"testing"
)

// TestF16ToF32 holds all 65,536 halves against the definition in float64.
func TestF16ToF32(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		sign, exp, frac := 1-2*float64(h>>15), int(h>>10&31), float64(h&1023)
		got := float64(F16ToF32(h))
		switch {
		case exp == 31 && frac != 0:
			if !math.IsNaN(got) {
				t.Fatalf("%#04x is %g, want NaN", h, got)
			}
			continue
		case exp == 31:
			if !math.IsInf(got, int(sign)) {
				t.Fatalf("%#04x is %g, want an infinity of sign %g", h, got, sign)
			}
			continue
		}
		want := sign * math.Ldexp(1+frac/1024, exp-15)
		if exp == 0 {
			want = sign * math.Ldexp(frac, -24)
		}
		if got != want || math.Signbit(got) != math.Signbit(want) {
			t.Fatalf("%#04x is %g, want %g", h, got, want)
		}
	}
}

// testRounding walks all pairs of neighbours of a 16-bit format: each converts to itself, their midpoint to the even one,
// and the float32 values next to the midpoint to the nearer one.
func testRounding(t *testing.T, top uint16, to func(float32) uint16, from func(uint16) float32) {
	for h := range top {
		a, b := from(h), from(h+1)
		if got := to(a); got != h {
			t.Fatalf("%g encodes as %#04x, want %#04x", a, got, h)
		}
		if got := to(-a); got != h|1<<15 {
			t.Fatalf("%g encodes as %#04x, want %#04x", -a, got, h|1<<15)
		}
		mid := (float64(a) + float64(b)) / 2
		if h == top-1 { // the next number after the largest is an infinity: rounding acts as if the exponent went on
			mid = float64(a) + (float64(a)-float64(from(h-1)))/2
		}
		m := float32(mid)
		if float64(m) != mid {
			t.Fatalf("midpoint %g of %#04x is not a float32", mid, h)
		}
		for _, c := range []struct {
			x    float32
			want uint16
		}{{math.Nextafter32(m, 0), h}, {m, h + h&1}, {math.Nextafter32(m, math.MaxFloat32), h + 1}} {
			if c.x == math.MaxFloat32 {
				continue
			}
			if got := to(c.x); got != c.want {
				t.Fatalf("%g, near the middle of %#04x and the next, encodes as %#04x, want %#04x", c.x, h, got, c.want)
			}
		}
	}
	inf := float32(math.Inf(1))
	if to(inf) != top || to(-inf) != top|1<<15 {
		t.Errorf("infinities encode as %#04x, %#04x", to(inf), to(-inf))
	}
	for _, bits := range []uint32{0x7fc00000, 0xffc00000, 0x7f800001, 0xff800001, 0x7fffffff} {
		if got := to(math.Float32frombits(bits)); got&top != top || got&^(top|1<<15) == 0 {
			t.Errorf("NaN %#x encodes as %#04x, no NaN", bits, got)
		}
	}
}

func TestF16Rounding(t *testing.T)  { testRounding(t, 0x7c00, F32ToF16, F16ToF32) }
func TestBF16Rounding(t *testing.T) { testRounding(t, 0x7f80, F32ToBF16, BF16ToF32) }

func TestF32ToF16Extremes(t *testing.T) {
	for _, c := range []struct {
		x    float32
		want uint16
	}{{65519.996, 0x7bff}, {65520, 0x7c00}, {math.MaxFloat32, 0x7c00}, {math.SmallestNonzeroFloat32, 0}, {1 << 17, 0x7c00}} {
		if got := F32ToF16(c.x); got != c.want {
			t.Errorf("%g encodes as %#04x, want %#04x", c.x, got, c.want)
		}
	}
}

func TestHalfSlices(t *testing.T) {
	x := []float32{0, 1, -2.5, 1e-7, 65504}
	h, y := make([]uint16, len(x)), make([]float32, len(x))
	F32sToF16s(h, x)
	F16sToF32s(y, h)
	for i := range x {
		if y[i] != F16ToF32(F32ToF16(x[i])) {
			t.Errorf("half of %g is %g", x[i], y[i])
		}
	}
	F32sToBF16s(h, x)
	BF16sToF32s(y, h)
	for i := range x {
		if y[i] != BF16ToF32(F32ToBF16(x[i])) {
			t.Errorf("bfloat16 of %g is %g", x[i], y[i])
		}
	}
}
