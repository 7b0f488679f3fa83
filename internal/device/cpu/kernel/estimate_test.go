package kernel

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/tensor"
)

const blockTokens = attention.BlockTokens

// block is the keys of one block as real ones are, channels with large means and neighbours alike, and planes of it.
type block struct {
	dim    int
	keys   []uint16
	bounds []uint16
}

func newBlock(t testing.TB, r *rand.Rand, dim, page int) block {
	b := block{dim: dim, keys: make([]uint16, blockTokens*dim)}
	for c := range dim {
		mean, slow, fast := r.NormFloat64(), 0.0, 1.0
		if c%29 == 7 {
			mean, fast = 100*r.NormFloat64(), 4
		}
		for i := range blockTokens {
			slow = 0.9*slow + 0.4*r.NormFloat64()*fast
			b.keys[i*dim+c] = tensor.F32ToF16(float32(mean + slow + 0.3*fast*r.NormFloat64()))
		}
	}
	plane := attention.Bounds{Page: page}
	p := guarded[byte](t, plane.BlockBytes(dim))
	plane.Append(p, attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
	b.bounds = unsafe.Slice((*uint16)(unsafe.Pointer(&p[0])), len(p)/2)
	return b
}

func (b block) key(token, c int) float64 { return float64(tensor.F16ToF32(b.keys[token*b.dim+c])) }

// reach is the widest range of a channel over the block, and size the sum of the channels' largest magnitudes.
func (b block) reach() (reach, size float64) {
	for c := range b.dim {
		lo, hi := b.reachOf(c)
		reach, size = max(reach, hi-lo), size+max(math.Abs(lo), math.Abs(hi))
	}
	return reach, size
}

func (b block) reachOf(c int) (lo, hi float64) {
	lo, hi = b.key(0, c), b.key(0, c)
	for i := range blockTokens {
		lo, hi = min(lo, b.key(i, c)), max(hi, b.key(i, c))
	}
	return lo, hi
}

func (b block) bound(page, c int) (lo, hi float64) {
	return float64(tensor.F16ToF32(b.bounds[2*c*16+page])), float64(tensor.F16ToF32(b.bounds[(2*c+1)*16+page]))
}

// queries have a few channels that are much larger than the others, and one head that is zero.
func queries(t testing.TB, r *rand.Rand, group, dim int) []float32 {
	q := guardedCopy(t, fillNormal(r, make([]float32, group*dim)))
	for i := range q {
		q[i] *= float32(1+4*(i%11/10)) / float32(math.Sqrt(float64(dim)))
		if group > 2 && i/dim == 1 {
			q[i] = 0
		}
	}
	return q
}

func TestPageBounds(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(1)
		for _, dim := range dims {
			for _, page := range []int{8, 16, 32, 64} {
				b, pages := newBlock(t, r, dim, page), blockTokens/page
				for _, group := range groups {
					q, ld := queries(t, r, group, dim), pages+group%3
					dst := guarded[float32](t, (group-1)*ld+pages)
					k.PageBounds(dst, ld, q, group, dim, pages, b.bounds)
					for g := range group {
						for p := range pages {
							want, size := 0.0, 0.0
							for c := range dim {
								x := float64(q[g*dim+c])
								lo := x * float64(tensor.F16ToF32(b.bounds[2*c*pages+p]))
								hi := x * float64(tensor.F16ToF32(b.bounds[(2*c+1)*pages+p]))
								want, size = want+max(lo, hi), size+math.Abs(lo)+math.Abs(hi)
							}
							near(t, fmt.Sprintf("group %d dim %d page %d: head %d page %d", group, dim, page, g, p), dst[g*ld+p], want, size*1e-6)
						}
					}
				}
			}
		}
	})
}

func TestPageMiddles(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(6)
		for _, dim := range dims {
			b, plane := newBlock(t, r, dim, 16), attention.Middles{}
			block := guarded[byte](t, plane.BlockBytes(dim))
			plane.Append(block, attention.Rows{K: b.keys, Dim: dim, To: blockTokens, Enc: k})
			low := unsafe.Slice((*uint16)(unsafe.Pointer(&block[0])), 2*dim)
			for _, group := range groups {
				q, ld := queries(t, r, group, dim), 16+group%3
				dst, ref, tmp := guarded[float32](t, (group-1)*ld+16), make([]float32, (group-1)*ld+16), guarded[byte](t, attention.TmpBytes(group, dim))
				far := make([]float32, group)
				for g := range far {
					far[g] = float32(g%3) * 0.7
				}
				k.PageMiddles(dst, ld, q, group, dim, block, []int32{0}, far, attention.Ready{}, tmp)
				attention.Portable{}.PageMiddles(ref, ld, q, group, dim, block, []int32{0}, far, attention.Ready{}, nil)
				for g := range group {
					widest, steps, size := 0.0, 0.0, 0.0
					for c := range dim {
						x, step := math.Abs(float64(q[g*dim+c])), float64(tensor.F16ToF32(low[dim+c]))
						widest, steps = max(widest, x*step), steps+x*step
						lo, hi := b.reachOf(c)
						size += x * max(math.Abs(lo), math.Abs(hi))
					}
					for p := range 16 {
						what := fmt.Sprintf("group %d dim %d: head %d page %d", group, dim, g, p)
						near(t, what, dst[g*ld+p], float64(ref[g*ld+p]), widest*float64(dim)*7.5*0.51/127+size*2e-6) // half of a step of the query, times centred codes
						exact := 0.0
						for c := range dim {
							lo, hi := b.bound(p, c)
							exact += float64(q[g*dim+c])*(lo+hi)/2 + float64(far[g])*(hi-lo)/2/float64(dim)
						}
						near(t, what+", codes", ref[g*ld+p], exact, steps*0.51+size*2e-6+float64(far[g])*1e-4)
					}
				}
			}
		}
	})
}

// masks are sets of pages.
var masks = []uint16{0, 1, 1 << 15, 0xffff, 0x8421, 0x0ff0, 0x1234}

// estimate is what an estimator computes for one token and head, how far rounding the query may carry it, and the logit of the key itself.
type estimate func(g, token int) (want, tolerance, exact float64)

// holdEstimates runs an estimator over every mask and compares. It returns the errors of rounding the query and of the codes themselves, as standard deviations
// over the tokens of a head: what is common to all tokens changes no weight.
func holdEstimates(t *testing.T, what string, group int, run func(dst []float32, ld int, pages uint16), e estimate) (rounding, codes float64) {
	t.Helper()
	for _, pages := range masks {
		set := bits.OnesCount16(pages)
		ld := 16*set + set%3
		dst := guarded[float32](t, max(0, (group-1)*ld+16*set))
		run(dst, ld, pages)
		for g := range group {
			var r, c spread
			for j, left := 0, pages; left != 0; j, left = j+1, left&(left-1) {
				for i := range 16 {
					want, tol, exact := e(g, bits.TrailingZeros16(left)*16+i)
					got := dst[g*ld+16*j+i]
					near(t, fmt.Sprintf("%s pages %04x: head %d page %d token %d", what, pages, g, j, i), got, want, tol)
					r.add(float64(got) - want)
					c.add(want - exact)
				}
			}
			if pages == 0xffff {
				rounding, codes = rounding+r.variance(), codes+c.variance()
			}
		}
	}
	return math.Sqrt(rounding), math.Sqrt(codes)
}

// spread gathers a variance.
type spread struct{ n, sum, squares float64 }

func (s *spread) add(x float64) { s.n, s.sum, s.squares = s.n+1, s.sum+x, s.squares+x*x }

func (s *spread) variance() float64 { return max(0, s.squares/s.n-s.sum/s.n*s.sum/s.n) }

// shapes are the groups to try at dim: all of them at one, a few elsewhere, since the definition is slow.
func shapes(dim int) []int {
	if dim == 64 {
		return groups
	}
	return []int{1, 3, 5}
}

func TestInt4Dot(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		if k == For(isa.Portable) {
			t.Skip("the definition itself")
		}
		r := newRand(2)
		for _, dim := range dims {
			b := newBlock(t, r, dim, 16)
			codes := guarded[byte](t, attention.Int4{}.BlockBytes(dim))
			attention.Int4{}.Append(codes, attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
			for _, group := range shapes(dim) {
				q, tmp := queries(t, r, group, dim), guarded[byte](t, attention.TmpBytes(group, dim))
				ref := make([]float32, group*blockTokens)
				attention.Portable{}.Int4Dot(ref, blockTokens, q, group, dim, codes, 0xffff, nil)
				what := fmt.Sprintf("group %d dim %d", group, dim)
				rounding, own := holdEstimates(t, what, group, func(dst []float32, ld int, pages uint16) {
					k.Int4Dot(dst, ld, q, group, dim, codes, pages, tmp)
				}, func(g, token int) (want, tol, exact float64) {
					lo, hi, top := math.Inf(1), math.Inf(-1), 0.0
					for c := range dim {
						x := b.key(token, c)
						lo, hi, exact, top = min(lo, x), max(hi, x), exact+x*float64(q[g*dim+c]), max(top, math.Abs(float64(q[g*dim+c])))
					}
					return float64(ref[g*blockTokens+token]), top * (hi - lo) * float64(dim) * 0.6 / 254, exact
				})
				if rounding > own/20 {
					t.Errorf("%s: rounding the query errs by %.3g, the codes by %.3g", what, rounding, own)
				}
			}
		}
	})
}

func TestPageRangeDot(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		if k == For(isa.Portable) {
			t.Skip("the definition itself")
		}
		r := newRand(3)
		for _, nbits := range []int{1, 2, 3, 4, 8} {
			plane, worst := attention.PageRange{Bits: nbits}, 0.0
			for _, dim := range dims {
				b := newBlock(t, r, dim, 16)
				codes := guarded[byte](t, plane.BlockBytes(dim))
				plane.Append(codes, attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
				for _, group := range shapes(dim) {
					q, tmp := queries(t, r, group, dim), guarded[byte](t, attention.TmpBytes(group, dim))
					ref := make([]float32, group*blockTokens)
					attention.Portable{}.PageRangeDot(ref, blockTokens, q, group, dim, nbits, b.bounds, codes, 0xffff, nil)
					what := fmt.Sprintf("bits %d group %d dim %d", nbits, group, dim)
					rounding, own := holdEstimates(t, what, group, func(dst []float32, ld int, pages uint16) {
						k.PageRangeDot(dst, ld, q, group, dim, nbits, b.bounds, codes, pages, tmp)
					}, func(g, token int) (want, tol, exact float64) {
						reach, top, size := 0.0, 0.0, 0.0
						for c := range dim {
							x := float64(q[g*dim+c])
							exact += x * b.key(token, c)
							lo, hi := b.bound(token/16, c)
							reach, top, size = max(reach, hi-lo), max(top, math.Abs(x)), size+math.Abs(x)*(math.Abs(lo)+math.Abs(hi))
						}
						step := 254.0
						if nbits == 8 {
							step *= 128
						}
						return float64(ref[g*blockTokens+token]), top*reach*float64(dim)*0.6/step + size*1e-6, exact
					})
					worst = max(worst, rounding/own)
				}
			}
			t.Logf("%d bits: rounding the query errs by at most %.3f of the codes' error", nbits, worst)
			if worst > 0.8 {
				t.Errorf("%d bits: rounding the query errs by %.3f of the codes' error", nbits, worst)
			}
		}
	})
}

// pageList is the pages of block 0 whose bit is set.
func pageList(mask uint16) (at []int32) {
	for p := range int32(16) {
		if mask>>p&1 != 0 {
			at = append(at, p)
		}
	}
	return at
}

func TestBlockRangeDot(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		if k == For(isa.Portable) {
			t.Skip("the definition itself")
		}
		r := newRand(5)
		for _, nbits := range []int{2, 4, 8} {
			plane := attention.BlockRange{Bits: nbits}
			for _, dim := range dims {
				b := newBlock(t, r, dim, 16)
				codes := guarded[byte](t, plane.BlockBytes(dim))
				plane.Append(codes, attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
				middles := make([]byte, attention.Middles{}.BlockBytes(dim))
				attention.Middles{}.Append(middles, attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
				for _, group := range shapes(dim) {
					q, tmp := queries(t, r, group, dim), guarded[byte](t, attention.TmpBytes(group, dim))
					reach, size := b.reach()
					ref := make([]float32, group*blockTokens)
					attention.Portable{}.BlockRangeDot(ref, blockTokens, q, group, dim, nbits, codes, pageList(0xffff), 16, 1./24, nil, nil, nil, nil)
					ready := attention.Ready{Data: guarded[byte](t, 2*attention.ReadyBytes(group, dim)), Shrink: 1. / 24}
					k.PageMiddles(make([]float32, group*2*16), 2*16, q, group, dim, middles, []int32{0, 0}, make([]float32, group), ready, tmp)
					for _, data := range [][]byte{nil, ready.Data} {
						if data != nil && nbits != 4 {
							continue // middles have as many
						}
						const slack = 0.6 / 254
						rounding, own := holdEstimates(t, fmt.Sprintf("bits %d group %d dim %d ready %v", nbits, group, dim, data != nil), group, func(dst []float32, ld int, pages uint16) {
							list := pageList(pages)
							at := make([]int32, len(list))
							for i, p := range list {
								at[i] = 16 + p
							}
							k.BlockRangeDot(dst, ld, q, group, dim, nbits, codes, append(list, 0, 5), len(list), 1./24, data, at, nil, tmp)
						}, func(g, token int) (want, tol, exact float64) {
							top := 0.0
							for c := range dim {
								x := float64(q[g*dim+c])
								exact += x * b.key(token, c)
								top = max(top, math.Abs(x))
							}
							return float64(ref[g*blockTokens+token]), top*reach*float64(dim)*slack + top*size*1e-6, exact
						})
						if nbits < 8 && rounding > own*0.8 {
							t.Errorf("bits %d group %d dim %d: rounding the query errs by %.3g, the codes by %.3g", nbits, group, dim, rounding, own)
						}
					}
				}
			}
		}
	})
}

// TestEstimateContained holds that a page whose metadata is not finite spoils no other page.
func TestEstimateContained(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		const group, dim = 3, 64
		r := newRand(4)
		b, q, tmp := newBlock(t, r, dim, 16), queries(t, r, group, dim), make([]byte, attention.TmpBytes(group, dim))
		plane := attention.PageRange{Bits: 4}
		codes := make([]byte, plane.BlockBytes(dim))
		plane.Append(codes, attention.Rows{K: b.keys, Dim: dim, To: blockTokens})
		want, got := make([]float32, group*blockTokens), make([]float32, group*blockTokens)
		k.PageRangeDot(want, blockTokens, q, group, dim, 4, b.bounds, codes, 0xffff, tmp)
		b.bounds[2*5*16+3], b.bounds[(2*9+1)*16+3] = 0x7e00, 0x7c00
		k.PageRangeDot(got, blockTokens, q, group, dim, 4, b.bounds, codes, 0xffff, tmp)
		for i, v := range got {
			if i%blockTokens/16 != 3 && v != want[i] {
				t.Fatalf("element %d changes from %v to %v", i, want[i], v)
			}
		}
	})
}
