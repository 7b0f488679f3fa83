package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/tensor"
)

var (
	inf    = float32(math.Inf(1))
	nan    = float32(math.NaN())
	groups = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 16}
	dims   = []int{32, 64, 96, 128, 256, 40} // the last has no machine code
)

// levels runs f for every instruction-set level that this machine has.
func levels(t *testing.T, f func(t *testing.T, k Kernels)) {
	for l := isa.Portable; l <= isa.Best(); l++ {
		t.Run(l.String(), func(t *testing.T) { f(t, For(l)) })
	}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func fillNormal(r *rand.Rand, x []float32) []float32 {
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// fillKeys makes fp16 rows with the outlier channels that real keys have.
func fillKeys(r *rand.Rand, x []uint16, dim int) []uint16 {
	for i := range x {
		v := r.NormFloat64()
		if c := i % dim; c%29 == 7 {
			v = v*2 + 40
		}
		x[i] = tensor.F32ToF16(float32(v))
	}
	return x
}

func some(r *rand.Rand, n, rows int) []int32 {
	at := make([]int32, n)
	for i := range at {
		at[i] = int32(r.IntN(rows))
	}
	return at
}

func guardedCopy[T any](t testing.TB, x []T) []T {
	g := guarded[T](t, len(x))
	copy(g, x)
	return g
}

// near fails where got is further from want than tol; NaN is near NaN only.
func near(t *testing.T, what string, got float32, want, tol float64) {
	t.Helper()
	if g := float64(got); math.IsNaN(g) != math.IsNaN(want) || (g != want && !(math.Abs(g-want) <= tol) && !math.IsNaN(g)) {
		t.Fatalf("%s: got %v, want %v ± %.3g", what, got, want, tol)
	}
}

func TestDot(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(1)
		for _, dim := range dims {
			const held = 50
			rows := guardedCopy(t, fillKeys(r, make([]uint16, held*dim), dim))
			for _, group := range groups {
				q := guardedCopy(t, fillNormal(r, make([]float32, group*dim)))
				counts := []int{0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 40}
				if group == 7 {
					counts = append(counts, 255, 256)
				}
				for _, n := range counts {
					at := guardedCopy(t, some(r, n, held))
					ld := n + n%3
					dst := guarded[float32](t, max(0, (group-1)*ld+n))
					for i := range dst {
						dst[i] = nan
					}
					k.Dot(dst, ld, q, group, dim, rows, at, rows)
					for g := range group {
						for i, a := range at {
							want, size := 0.0, 0.0
							for c := range dim {
								p := float64(q[g*dim+c]) * float64(tensor.F16ToF32(rows[int(a)*dim+c]))
								want, size = want+p, size+math.Abs(p)
							}
							near(t, fmt.Sprintf("group %d dim %d n %d: head %d row %d", group, dim, n, g, i), dst[g*ld+i], want, size*1e-6)
						}
						for i := n; i < ld && g+1 < group; i++ {
							if dst[g*ld+i] == dst[g*ld+i] {
								t.Fatalf("group %d dim %d n %d: wrote between the heads", group, dim, n)
							}
						}
					}
				}
			}
		}
	})
}

// TestDotSame holds that a product's bits depend on its row and query alone.
func TestDotSame(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(2)
		for _, dim := range dims {
			const group, n = 9, 37
			rows := fillKeys(r, make([]uint16, n*dim), dim)
			q := fillNormal(r, make([]float32, group*dim))
			at := some(r, n, n)
			all := make([]float32, group*n)
			k.Dot(all, n, q, group, dim, rows, at, nil)
			one := make([]float32, 5)
			for range 200 {
				g, i := r.IntN(group), r.IntN(n-5)
				k.Dot(one, 0, q[g*dim:], 1, dim, rows, at[i:i+5], nil)
				for j, v := range one {
					if v != all[g*n+i+j] {
						t.Fatalf("dim %d: head %d row %d is %v alone and %v among others", dim, g, i+j, v, all[g*n+i+j])
					}
				}
			}
		}
	})
}

// TestDotContained holds that an infinity or NaN in one row shows in that row's products only.
func TestDotContained(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		const group, dim, n = 3, 64, 21
		r := newRand(3)
		rows := fillKeys(r, make([]uint16, n*dim), dim)
		rows[5*dim+11] = 0x7c00 // +Inf
		rows[18*dim+63] = 0x7e00
		q := fillNormal(r, make([]float32, group*dim))
		at := make([]int32, n)
		for i := range at {
			at[i] = int32(i)
		}
		dst := make([]float32, group*n)
		k.Dot(dst, n, q, group, dim, rows, at, nil)
		for g := range group {
			for i := range n {
				v := float64(dst[g*n+i])
				switch bad := math.IsNaN(v) || math.IsInf(v, 0); {
				case i == 5 && !math.IsInf(v, 0), i == 18 && !math.IsNaN(v), i != 5 && i != 18 && bad:
					t.Fatalf("head %d row %d: %v", g, i, v)
				}
			}
		}
	})
}

func TestAccumulate(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(4)
		for _, dim := range dims {
			const held = 50
			rows := guardedCopy(t, fillKeys(r, make([]uint16, held*dim), dim))
			for _, group := range groups {
				counts := []int{0, 1, 2, 3, 15, 16, 17, 40}
				if group == 7 {
					counts = append(counts, 255, 256)
				}
				for _, n := range counts {
					at, ld := guardedCopy(t, some(r, n, held)), n+n%3
					w := guarded[float32](t, max(0, (group-1)*ld+n))
					for i := range w {
						w[i] = r.Float32() * float32(r.IntN(2))
					}
					start := fillNormal(r, make([]float32, group*dim))
					acc := guardedCopy(t, start)
					k.Accumulate(acc, w, ld, group, dim, rows, at, rows)
					for g := range group {
						for c := range dim {
							want := float64(start[g*dim+c])
							size := math.Abs(want)
							for i, a := range at {
								p := float64(w[g*ld+i]) * float64(tensor.F16ToF32(rows[int(a)*dim+c]))
								want, size = want+p, size+math.Abs(p)
							}
							near(t, fmt.Sprintf("group %d dim %d n %d: head %d channel %d", group, dim, n, g, c), acc[g*dim+c], want, size*2e-6)
						}
					}
				}
			}
		}
	})
}

// TestAccumulateZeroWeight holds that a row under weight zero does not count, whatever it holds, and that one under another weight does.
func TestAccumulateZeroWeight(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		const n = 20
		r := newRand(5)
		for _, dim := range dims {
			for _, group := range groups {
				rows := fillKeys(r, make([]uint16, n*dim), dim)
				at := make([]int32, n)
				w := make([]float32, group*n)
				for i := range at {
					at[i] = int32(i)
				}
				for i := range w {
					w[i] = r.Float32()
				}
				for c := range dim {
					rows[3*dim+c] = 0x7c00
				}
				for g := range group {
					w[g*n+3] = 0
				}
				w[(group-1)*n+3] = 1
				acc := make([]float32, group*dim)
				k.Accumulate(acc, w, n, group, dim, rows, at, nil)
				for i, v := range acc {
					if math.IsNaN(float64(v)) || (i/dim == group-1) != math.IsInf(float64(v), 1) {
						t.Fatalf("group %d dim %d: head %d channel %d is %v", group, dim, i/dim, i%dim, v)
					}
				}
			}
		}
	})
}

// TestAccumulateSplit holds that a list's sum has the same bits in one call and in several, and for a head alone and in a group.
func TestAccumulateSplit(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		const group, n = 9, 70
		r := newRand(6)
		for _, dim := range dims {
			rows := fillKeys(r, make([]uint16, n*dim), dim)
			at, w := some(r, n, n), fillNormal(r, make([]float32, group*n))
			whole, parts := make([]float32, group*dim), make([]float32, group*dim)
			k.Accumulate(whole, w, n, group, dim, rows, at, nil)
			for g := range group {
				for i := 0; i < n; {
					j := min(n, i+1+r.IntN(30))
					k.Accumulate(parts[g*dim:], w[g*n+i:], n, 1, dim, rows, at[i:j], nil)
					i = j
				}
			}
			for i := range whole {
				if whole[i] != parts[i] {
					t.Fatalf("dim %d: element %d is %v in one call and %v in parts", dim, i, whole[i], parts[i])
				}
			}
		}
	})
}
