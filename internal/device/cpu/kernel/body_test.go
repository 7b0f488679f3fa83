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

// TestPackPages holds lists of pages with lanes, and what is packed of them, against plain Go.
func TestPackPages(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(14)
		for _, n := range []int{0, 1, 2, 15, 16, 17, 33, 500} {
			masks, w := guarded[uint16](t, n), guardedCopy(t, fillNormal(r, make([]float32, 16*n)))
			for j := range masks {
				masks[j] = []uint16{0, 0, 0xffff, uint16(r.Uint32()), 1, 1 << 15}[r.IntN(6)]
			}
			list, want := guarded[int32](t, n+16), make([]int32, n+16)
			set := attention.Portable{}.ListPages(want, masks)
			if got := k.ListPages(list, masks); got != set || !slices.Equal(list[:got], want[:set]) {
				t.Fatalf("%d masks: pages %v, want %v", n, list[:got], want[:set])
			}
			pages := guardedCopy(t, list[:set])
			dst, packed := guarded[float32](t, 16*set), make([]float32, 16*set)
			m := attention.Portable{}.PackPages(packed, w, pages, masks)
			if got := k.PackPages(dst, w, pages, masks); got != m || !slices.Equal(dst[:got], packed[:m]) {
				t.Fatalf("%d masks: %d are packed, want %d", n, got, m)
			}
		}
	})
}

func TestPackLanes(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(12)
		for _, pages := range []int{0, 1, 2, 17, 200} {
			masks := guarded[uint16](t, pages)
			set := 0
			for j := range masks {
				masks[j] = []uint16{0, 0xffff, uint16(r.Uint32()), 1, 1 << 15}[r.IntN(5)]
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
			for _, group := range groups {
				wld, ld := (pages+pages/3)*16+group, set+16
				w, scale, at := guardedCopy(t, fillNormal(r, make([]float32, group*wld))), guardedCopy(t, fillNormal(r, make([]float32, (pages+1)*16))), guarded[int32](t, pages)
				for j := range at {
					at[j] = int32(r.IntN(pages+1) * 16)
				}
				own := guarded[uint16](t, max(1, group*pages))
				for j := range own {
					if pages > 0 {
						own[j] = uint16(r.Uint32()) & masks[j%pages]
					}
				}
				for _, o := range []int{0, pages} { // the same for all heads, or each head's
					want, got, wantSums, sums := make([]float32, group*ld), guarded[float32](t, group*ld), make([]float32, group*16), make([]float32, group*16)
					attention.Portable{}.PackLanes(want, ld, w, wld, list, masks, own, o, scale, at, wantSums)
					k.PackLanes(got, ld, w, wld, list, masks, own, o, scale, at, sums)
					for g := range group {
						for i, x := range want[g*ld:][:set] {
							if got[g*ld+i] != x {
								t.Fatalf("%d pages, head %d of %d: element %d is %v, want %v", pages, g, group, i, got[g*ld+i], x)
							}
						}
						for i := range 16 {
							near(t, fmt.Sprintf("%d pages, head %d of %d: sum of lane %d", pages, g, group, i), sums[g*16+i], float64(wantSums[g*16+i]), float64(set+1)*1e-5)
						}
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
					k.AccumulateCodes(got, w, ld, group, dim, codes, append(slices.Clip(at), 0, rows-1), n, tmp)
					for g := range group {
						tops := make([]float64, 1+n/128)
						for i := range at {
							tops[i/128] = max(tops[i/128], float64(w[g*ld+i]))
						}
						for c := range dim {
							want, size := float64(start[g*dim+c]), 1.0
							for i, row := range at {
								code := float64(int8(codes[int(row)*dim+c]))
								x := float64(w[g*ld+i]) * code
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
		codes, at, w := make([]byte, rows*dim), make([]int32, rows), make([]float32, rows)
		want := 0.0
		for i := range at {
			at[i], w[i] = int32(i), light
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
		k.AccumulateCodes(acc, w, rows, 1, dim, codes, at, rows, make([]byte, attention.CodesTmp(1)))
		for c, x := range acc {
			near(t, fmt.Sprintf("channel %d", c), x, want, want*0.05)
		}
	})
}
