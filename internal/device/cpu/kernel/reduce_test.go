package kernel

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
)

// lengths are those at which loops turn, and a long one.
func lengths() []int {
	n := []int{255, 256, 1000, 4099}
	for i := range 100 {
		n = append(n, i)
	}
	return n
}

func TestMax(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(1)
		for _, n := range lengths() {
			x := guardedCopy(t, fillNormal(r, make([]float32, n)))
			want := -inf
			for i := range x {
				switch r.IntN(9) {
				case 0:
					x[i] = nan
				case 1:
					x[i] = -inf
				}
				if x[i] > want {
					want = x[i]
				}
			}
			if got := k.Max(x); got != want {
				t.Fatalf("n %d: got %v, want %v", n, got, want)
			}
		}
		for i := range 70 { // the largest in every place
			x := make([]float32, 70)
			x[i] = 1
			if k.Max(x) != 1 {
				t.Fatalf("element %d missed", i)
			}
		}
	})
}

func TestExp(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(2)
		worst := 0.0
		for _, n := range lengths() {
			x := guarded[float32](t, n)
			for i := range x {
				x[i] = float32(-math.Pow(10, 4*r.Float64()-2)) + 3
				if r.IntN(10) == 0 {
					x[i] = -inf
				}
			}
			if n > 0 {
				x[r.IntN(n)] = 3
			}
			in := append([]float32(nil), x...)
			got := k.Exp(x, 3)
			sum := 0.0
			for i, v := range in {
				d := v - 3
				want := math.Exp(float64(d))
				near(t, fmt.Sprintf("n %d: exp(%v)", n, d), x[i], want, want*(2e-7+3e-9*math.Abs(float64(d)))+1e-44)
				if (d == 0 && x[i] != 1) || (v == -inf && x[i] != 0) {
					t.Fatalf("n %d: exp(%v) = %v", n, d, x[i])
				}
				if want > 1e-37 {
					worst = max(worst, math.Abs(float64(x[i])/want-1))
				}
				sum += float64(x[i])
			}
			near(t, fmt.Sprintf("n %d: sum", n), got, sum, sum*1e-6)
		}
		t.Logf("worst relative error %.3g", worst)
		x := []float32{1, nan, 0}
		if s := k.Exp(x, 1); x[0] != 1 || x[1] == x[1] || s == s {
			t.Fatalf("NaN: %v, sum %v", x, s)
		}
	})
}

func TestAboveAndLanes(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(3)
		for _, n := range lengths() {
			w := guarded[float32](t, n)
			for i := range w {
				w[i] = float32(r.IntN(8)) // many ties
				switch r.IntN(12) {
				case 0:
					w[i] = nan
				case 1:
					w[i] = -inf
				}
			}
			for _, at := range []float32{-inf, 0, 3, 7, 8, inf} {
				wantSum, wantN := 0.0, 0
				lanes := make([]uint16, n/16)
				for i, x := range w {
					if x >= at {
						wantSum += float64(x)
						wantN++
						if i/16 < len(lanes) {
							lanes[i/16] |= 1 << (i % 16)
						}
					}
				}
				sum, count := k.Above(w, at)
				if count != wantN || float64(sum) != wantSum {
					t.Fatalf("n %d t %v: sum %v count %d, want %v %d", n, at, sum, count, wantSum, wantN)
				}
				mask := guarded[uint16](t, n/16)
				k.Lanes(mask, w, at)
				for j, m := range mask {
					if m != lanes[j] {
						t.Fatalf("n %d t %v: page %d is %016b, want %016b", n, at, j, m, lanes[j])
					}
				}
				keep, heavy, want := guarded[uint16](t, n/16), guarded[uint16](t, n/16), make([]uint16, n/16)
				pages := guarded[int32](t, n/16)
				for j := range pages {
					pages[j] = int32(j)
				}
				for _, much := range []float32{-inf, 3, 5, inf} {
					if much >= at {
						pages = slices.DeleteFunc(pages, func(j int32) bool { return lanes[j] == 0 }) // which hold nothing
					}
					kept := k.SplitLanes(keep, heavy, w, pages, at, much)
					attention.Portable{}.Lanes(want, w, much)
					for _, m := range lanes {
						kept -= bits.OnesCount16(m)
					}
					if kept != 0 || !slices.Equal(keep, lanes) || !slices.Equal(heavy, want) {
						t.Fatalf("n %d t %v and %v: %016b and %016b, want %016b and %016b; %d counted too many", n, at, much, keep, heavy, lanes, want, kept)
					}
				}
			}
		}
	})
}

func TestWeigh(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(7)
		for _, n := range lengths() {
			for _, ref := range []float32{3, -40, 70} { // elements are at most 3
				x := guarded[float32](t, n)
				for i := range x {
					x[i] = float32(-math.Pow(10, 4*r.Float64()-2)) + 3
					if i%10 == 9 {
						x[i] = -inf
					}
				}
				in := append([]float32(nil), x...)
				got, sum := k.Weigh(x, ref), 0.0
				for i, v := range in {
					want := math.Exp(float64(v) - float64(ref))
					near(t, fmt.Sprintf("n %d: exp(%v−%v)", n, v, ref), x[i], want, want*1e-3+2e-38)
					if v == -inf && x[i] != 0 {
						t.Fatalf("n %d: exp(%v) = %v", n, v, x[i])
					}
					sum += float64(x[i])
				}
				near(t, fmt.Sprintf("n %d: sum", n), got, sum, sum*1e-5+1e-37)
			}
		}
		if sum := k.Weigh([]float32{1, 200, 2}, 0); sum < 1e38 {
			t.Errorf("what is too large for a float sums to %v", sum)
		}
		x := []float32{1, nan, 2}
		if sum := k.Weigh(x, 2); x[1] != 0 && sum < 1e38 {
			t.Errorf("NaN weighs %v, the sum is %v", x[1], sum)
		}
	})
}

func TestAddScaled(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(9)
		for _, n := range lengths() {
			x, dst := guardedCopy(t, fillNormal(r, make([]float32, n))), guardedCopy(t, fillNormal(r, make([]float32, n)))
			want := make([]float64, n)
			for i := range want {
				want[i] = float64(dst[i]) + 0.75*float64(x[i])
			}
			k.AddScaled(dst, x, 0.75)
			for i, y := range want {
				if math.Abs(float64(dst[i])-y) > 1e-6*(1+math.Abs(y)) {
					t.Fatalf("n %d element %d: got %v, want %v", n, i, dst[i], y)
				}
			}
		}
	})
}

func TestAddRows(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(17)
		const rows = 9
		for _, dim := range dims {
			slab := guardedCopy(t, fillNormal(r, make([]float32, rows*dim)))
			for _, n := range []int{0, 1, 2, 40} {
				at, got := guarded[int32](t, n), guardedCopy(t, fillNormal(r, make([]float32, dim)))
				for i := range at {
					at[i] = int32(r.IntN(rows))
				}
				want := slices.Clone(got)
				attention.Portable{}.AddRows(want, slab, at)
				k.AddRows(got, slab, at)
				k.FetchRows(make([]uint16, rows*dim), dim, at)
				for c, x := range want {
					near(t, fmt.Sprintf("dim %d, %d rows: channel %d", dim, n, c), got[c], float64(x), float64(n)*1e-6)
				}
			}
		}
	})
}
