package kernel

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
)

func TestPack(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(11)
		nan, inf := float32(math.NaN()), float32(math.Inf(1))
		for _, n := range []int{0, 1, 15, 16, 17, 32, 47, 64, 1000, 1040, 2048} {
			w := guardedCopy(t, fillNormal(r, make([]float32, n)))
			for i := range w {
				if i%37 == 5 {
					w[i] = []float32{nan, inf, -inf, 0}[i/37%4]
				}
			}
			for _, bar := range []float32{-inf, -0.5, 0, 1.5, 9, inf} {
				dst := guarded[float32](t, n+16)
				want := make([]float32, n+16)
				m := attention.Portable{}.Pack(want, w, bar)
				if got := k.Pack(dst, w, bar); got != m {
					t.Fatalf("%d elements, at least %v: %d are packed, want %d", n, bar, got, m)
				}
				for i, x := range want[:m] {
					if math.Float32bits(dst[i]) != math.Float32bits(x) {
						t.Fatalf("%d elements, at least %v: element %d is %v, want %v", n, bar, i, dst[i], x)
					}
				}
			}
		}
	})
}

func TestPackLanes(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(12)
		for _, pages := range []int{0, 1, 2, 17, 200} {
			masks, own := guarded[uint16](t, pages), guarded[uint16](t, pages)
			set := 0
			for j := range masks {
				masks[j] = []uint16{0, 0xffff, uint16(r.Uint32()), 1, 1 << 15}[r.IntN(5)]
				own[j] = uint16(r.Uint32())
				set += bits.OnesCount16(masks[j])
			}
			list := guarded[int32](t, pages)
			for j := range list {
				list[j] = int32(j + j/3)
			}
			rows, wantRows := guarded[int32](t, set+16), make([]int32, set+16)
			if n := k.ListLanes(rows, list, masks); n != set || (attention.Portable{}).ListLanes(wantRows, list, masks) != set || !slices.Equal(rows[:set], wantRows[:set]) {
				t.Fatalf("%d pages: %d rows %v, want %d: %v", pages, n, rows[:set], set, wantRows[:set])
			}
			w := guardedCopy(t, fillNormal(r, make([]float32, (pages+pages/3)*16)))
			for _, o := range [][]uint16{nil, own} {
				want, got := make([]float32, set+16), guarded[float32](t, set+16)
				attention.Portable{}.PackLanes(want, w, list, masks, o)
				k.PackLanes(got, w, list, masks, o)
				for i, x := range want[:set] {
					if math.Float32bits(got[i]) != math.Float32bits(x) {
						t.Fatalf("%d pages: element %d is %v, want %v", pages, i, got[i], x)
					}
				}
			}
		}
	})
}

func TestAccumulateCodes(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(13)
		const rows = 300
		for _, dim := range dims {
			codes := guarded[byte](t, rows*dim)
			for i := range codes {
				codes[i] = byte(r.Uint32())
			}
			scale := guardedCopy(t, positive(fillNormal(r, make([]float32, rows))))
			for _, group := range groups {
				tmp := guarded[byte](t, attention.CodesTmp(group))
				for _, n := range []int{0, 1, 7, 40, 131, 256} {
					if n > 100 && group > 3 {
						continue
					}
					ld := n + group%3
					w := guardedCopy(t, positive(fillNormal(r, make([]float32, max(0, (group-1)*ld+n)))))
					at := guarded[int32](t, n)
					for i := range at {
						at[i] = int32(rows*(i+1)/(n+1) + r.IntN(3))
					}
					if n > 0 {
						at[n-1] = rows - 1
					}
					start := fillNormal(r, make([]float32, group*dim))
					got := guardedCopy(t, start)
					k.AccumulateCodes(got, w, ld, group, dim, codes, scale, at, tmp)
					for g := range group {
						tops := make([]float64, 1+n/128)
						for i, row := range at {
							tops[i/128] = max(tops[i/128], float64(w[g*ld+i])*float64(scale[row]))
						}
						for c := range dim {
							want, size := float64(start[g*dim+c]), 1.0
							for i, row := range at {
								code := float64(int8(codes[int(row)*dim+c]))
								x := float64(w[g*ld+i]) * float64(scale[row]) * code
								want, size = want+x, size+1e-6*math.Abs(x)+tops[i/128]/254*math.Abs(code)
							}
							near(t, fmt.Sprintf("dim %d group %d, %d rows: head %d channel %d", dim, group, n, g, c), got[g*dim+c], want, size)
						}
					}
				}
			}
		}
	})
}

// positive drops the signs.
func positive(x []float32) []float32 {
	for i, v := range x {
		x[i] = max(v, -v)
	}
	return x
}

// TestAccumulateCodesSmallWeights holds that what is much lighter than the heaviest row is not lost: however it is rounded, it keeps its sum.
func TestAccumulateCodesSmallWeights(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		const rows, dim, light = 128, 64, 0.001
		codes, scale, at, w := make([]byte, rows*dim), make([]float32, rows), make([]int32, rows), make([]float32, rows)
		want := 0.0
		for i := range at {
			at[i], scale[i], w[i] = int32(i), 1, light
			if i == 50 {
				w[i] = 1
				continue
			}
			for c := range dim {
				codes[i*dim+c] = 100
			}
			want += light * 100
		}
		acc := make([]float32, dim)
		k.AccumulateCodes(acc, w, rows, 1, dim, codes, scale, at, make([]byte, attention.CodesTmp(1)))
		for c, x := range acc {
			near(t, fmt.Sprintf("channel %d", c), x, want, want*0.05)
		}
	})
}
