package kernel

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
)

// TestBlockRangeWeights holds that weights are the exponentials of the logits that the same call makes, as near as Weighing says, that sums are theirs, and that
// exactly those of at least so much are noted.
func TestBlockRangeWeights(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(15)
		for _, nbits := range []int{2, 4, 8} {
			plane := attention.BlockRange{Bits: nbits}
			for _, dim := range dims {
				b := newBlock(t, r, dim, 16)
				codes := guarded[byte](t, plane.BlockBytes(dim))
				plane.Append(codes, attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
				for _, group := range shapes(dim) {
					q, tmp := queries(t, r, group, dim), guarded[byte](t, attention.TmpBytes(group, dim))
					for _, pages := range []uint16{0, 1, 0x8421, 0xffff} {
						list, n := pageList(pages), 16*bits.OnesCount16(pages)
						ld, name := n+16+group%3, fmt.Sprintf("bits %d group %d dim %d pages %x", nbits, group, dim, pages)
						logits, got := make([]float32, group*ld+1), guarded[float32](t, max(0, (group-1)*ld+n))
						k.BlockRangeDot(logits, ld, q, group, dim, nbits, codes, append(list, 0), len(list), 0, nil, nil, nil, tmp)
						lanesLD := len(list) + group%2
						w := attention.Weighing{Ref: make([]float32, group), Least: make([]float32, group), Sums: make([]float32, group), Lanes: guarded[uint16](t, max(0, (group-1)*lanesLD+len(list))), LanesLD: lanesLD}
						for g := range group {
							l := logits[g*ld:][:n]
							w.Ref[g], w.Sums[g] = slices.Max(append(slices.Clone(l), 0))-float32(g), 1
							w.Least[g] = []float32{0.5, 0, float32(math.Inf(1))}[g%3]
						}
						k.BlockRangeDot(got, ld, q, group, dim, nbits, codes, append(list, 0), len(list), 0, nil, nil, &w, tmp)
						for g := range group {
							sum := 1.0
							for i, x := range got[g*ld : g*ld+n] {
								want := math.Exp(float64(logits[g*ld+i]) - float64(w.Ref[g]))
								near(t, fmt.Sprintf("%s: head %d, weight %d", name, g, i), x, want, want*0.042+1e-37)
								sum += float64(x)
								if noted := w.Lanes[g*lanesLD+i/16]>>(i%16)&1 != 0; noted != (x >= w.Least[g]) {
									t.Fatalf("%s: head %d: weight %d, %v, is noted: %v, those from %v on should be", name, g, i, x, noted, w.Least[g])
								}
							}
							near(t, fmt.Sprintf("%s: head %d, sum", name, g), w.Sums[g], sum, sum*1e-5)
						}
					}
				}
			}
		}
	})
}

// TestWeightsExtremes holds that weights beyond floats are told apart from those that are not, whatever the reference.
func TestWeightsExtremes(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		const dim, group = 64, 7
		r, plane := newRand(16), attention.BlockRange{Bits: 4}
		b := newBlock(t, r, dim, 16)
		codes := make([]byte, plane.BlockBytes(dim))
		plane.Append(codes, attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
		q, tmp := queries(t, r, group, dim), make([]byte, attention.TmpBytes(group, dim))
		for _, ref := range []float32{-1e30, -2000, 2000, 1e30} {
			w := attention.Weighing{Ref: make([]float32, group), Least: make([]float32, group), Sums: make([]float32, group), Lanes: make([]uint16, group*16), LanesLD: 16}
			for g := range group {
				w.Ref[g] = ref
			}
			k.BlockRangeDot(make([]float32, group*blockTokens), blockTokens, q, group, dim, 4, codes, pageList(0xffff), 16, 0, nil, nil, &w, tmp)
			for g, sum := range w.Sums {
				if ref > 0 && sum != 0 || ref < 0 && !(sum >= 1e38) {
					t.Errorf("reference %g: head %d: the sum is %v", ref, g, sum)
				}
			}
		}
	})
}
