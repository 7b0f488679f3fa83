package kernel

import (
	"fmt"
	"math"
	"testing"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

// What tokens add to the score of their page's middle is the logarithm of their exponentials' sum: in all channels that makes the score the sum of the estimated weights.
func TestPageTokens(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(8)
		for _, dim := range dims {
			b, plane, mids := newBlock(t, r, dim, 16), attention.BlockRange{Bits: 4}, attention.Middles{}
			codes, middles := guarded[byte](t, 2*plane.BlockBytes(dim)), guarded[byte](t, 2*mids.BlockBytes(dim))
			for i := range 2 {
				plane.Append(codes[i*plane.BlockBytes(dim):], attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
				mids.Append(middles[i*mids.BlockBytes(dim):], attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
			}
			step := unsafe.Slice((*uint16)(unsafe.Pointer(&codes[0])), 2*dim)[dim:]
			var every []int32
			for l := range int32(dim / 8) {
				every = append(every, l)
			}
			blocks := []int32{1, 0}
			for _, group := range shapes(dim) {
				q, ld, tmp := queries(t, r, group, dim), 32+group%3, guarded[byte](t, attention.TmpBytes(group, dim))
				ready := attention.Ready{Data: guarded[byte](t, 2*attention.ReadyBytes(group, dim)), Shrink: 1. / 24}
				scores := func() []float32 {
					dst := guarded[float32](t, (group-1)*ld+32)
					k.PageMiddles(dst, ld, q, group, dim, middles, blocks, make([]float32, group), ready, tmp)
					return dst
				}
				for _, lines := range [][]int32{every, every[:1], {1, 3}} {
					for _, ready := range []attention.Ready{{}, ready} {
						before, dst, ref := scores(), scores(), scores()
						k.PageTokens(dst, ld, q, group, dim, lines, middles, codes, blocks, ready, tmp)
						attention.Portable{}.PageTokens(ref, ld, q, group, dim, lines, middles, codes, blocks, ready, nil)
						for g := range group {
							tol := 0.1
							top := 0.0
							for c := range dim {
								top = max(top, math.Abs(float64(q[g*dim+c]))*float64(tensor.F16ToF32(step[c])))
							}
							tol += top * 0.51 / 127 * float64(8*len(lines)) * 15
							for p := range 32 {
								what := fmt.Sprintf("group %d dim %d lines %v ready %v: head %d page %d", group, dim, lines, ready.Data != nil, g, p)
								near(t, what, dst[g*ld+p], float64(ref[g*ld+p]), tol)
								if len(lines) < len(every) {
									continue
								}
								sum := 0.0
								for i := range 16 {
									x := 0.0
									for c := range dim {
										x += float64(q[g*dim+c]) * b.key(p%16*16+i, c)
									}
									sum += math.Exp(x)
								}
								steps := 0.0
								for c := range dim {
									steps += math.Abs(float64(q[g*dim+c])) * float64(tensor.F16ToF32(step[c]))
								}
								near(t, what+", keys", ref[g*ld+p], math.Log(sum), steps*0.51*1.1+math.Abs(float64(before[g*ld+p]))*1e-3+tol)
							}
						}
					}
				}
			}
		}
	})
}
