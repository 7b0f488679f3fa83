package attention

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/twilight-go/twilight/internal/tensor"
)

func asBytes(w []float64) []byte {
	if len(w) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), 8*len(w))
}

// near fails where got is further from want than float32 rounding of a sum of terms of that size explains.
func near(t *testing.T, what string, got float32, want, size float64) {
	t.Helper()
	if d := math.Abs(float64(got) - want); !(d <= 3e-6*size+1e-6) {
		t.Errorf("%s: got %v, want %v (terms of size %v)", what, got, want, size)
	}
}

func TestPortableDotAccumulate(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, dim := range []int{1, 2, 31, 32, 64, 80, 128} {
		for _, group := range []int{1, 3, 7} {
			for _, n := range []int{0, 1, 5, 16, 33} {
				x := newText(rng, 40, dim)
				at := make([]int32, n)
				for i := range at {
					at[i] = int32(rng.IntN(x.n))
				}
				q, ld := x.queries(rng, group), n+3
				dst := make([]float32, group*ld)
				Portable{}.Dot(dst, ld, q, group, dim, x.kh, at, nil)
				w, acc := make([]float32, group*ld), make([]float32, group*dim)
				for i := range w {
					if rng.IntN(3) > 0 {
						w[i] = rng.Float32()
					}
				}
				for i := range acc {
					acc[i] = rng.Float32()
				}
				before := append([]float32(nil), acc...)
				Portable{}.Accumulate(acc, w, ld, group, dim, x.vh, at, nil)
				for g := range group {
					want, size := make([]float64, dim), make([]float64, dim)
					for i, r := range at {
						var s, abs float64
						for c, y := range x.k[r] {
							s += float64(q[g*dim+c]) * y
							abs += math.Abs(float64(q[g*dim+c]) * y)
							want[c] += float64(w[g*ld+i]) * x.v[r][c]
							size[c] += math.Abs(float64(w[g*ld+i]) * x.v[r][c])
						}
						near(t, "Dot", dst[g*ld+i], s, abs)
					}
					for c := range dim {
						near(t, "Accumulate", acc[g*dim+c], float64(before[g*dim+c])+want[c], size[c])
					}
					for i := n; i < ld; i++ {
						if dst[g*ld+i] != 0 {
							t.Fatalf("Dot wrote beyond its rows")
						}
					}
				}
			}
		}
	}
}

// A weight of zero leaves the accumulator alone even where the row is infinite: rows that a head does not own must not reach it.
func TestPortableAccumulateZeroWeight(t *testing.T) {
	const inf16 = 0x7c00
	acc := []float32{1, 2}
	Portable{}.Accumulate(acc, []float32{0, 1}, 2, 1, 2, []uint16{inf16, nan16, 0x3c00, 0x3c00}, []int32{0, 1}, nil)
	if acc[0] != 2 || acc[1] != 3 {
		t.Errorf("got %v, want [2 3]", acc)
	}
}

func TestPortableReductions(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		x    []float32
		want float32
	}{{nil, -inf}, {[]float32{-3}, -3}, {[]float32{nan, -2, nan, -5}, -2}, {[]float32{nan}, -inf}, {[]float32{-inf, -inf}, -inf}, {[]float32{1, inf}, inf}} {
		if got := (Portable{}).Max(c.x); got != c.want {
			t.Errorf("Max(%v) = %v, want %v", c.x, got, c.want)
		}
	}
	x := []float32{0, -1, -inf, -200, -0.5}
	sum := Portable{}.Exp(x, 0)
	for i, want := range []float64{1, math.Exp(-1), 0, math.Exp(-200), math.Exp(-0.5)} {
		near(t, "Exp", x[i], want, 1)
	}
	near(t, "Exp sum", sum, 1+math.Exp(-1)+math.Exp(-0.5), 2)
	if x[0] != 1 || x[2] != 0 {
		t.Errorf("Exp of the maximum is %v and of −Inf %v; expected exactly 1 and 0", x[0], x[2])
	}
	w := []float32{0.5, nan, 0.25, 0.75, 0.25}
	if s, n := (Portable{}).Above(w, 0.5); s != 1.25 || n != 2 {
		t.Errorf("Above(0.5) = %v, %d", s, n)
	}
	if s, n := (Portable{}).Above(w, 0.25); s != 1.75 || n != 4 {
		t.Errorf("Above(0.25) = %v, %d", s, n)
	}
	lanes := make([]float32, 3*PageTokens)
	want := [3]uint16{}
	rng := rand.New(rand.NewPCG(2, 2))
	for i := range lanes {
		lanes[i] = float32(rng.IntN(5))
		if i%7 == 0 {
			lanes[i] = nan
		}
		if lanes[i] >= 2 {
			want[i/PageTokens] |= 1 << (i % PageTokens)
		}
	}
	got := [3]uint16{1, 2, 3}
	Portable{}.Lanes(got[:], lanes, 2)
	if got != want {
		t.Errorf("Lanes = %x, want %x", got, want)
	}
}

// pageMasks are subsets of a block's pages.
var pageMasks = []uint16{0xffff, 1, 0x8000, 0xa5c3, 0}

func TestPortablePageKernels(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for _, dim := range []int{2, 20, 32, 64, 128} {
		for _, group := range []int{1, 3, 7} {
			x := newText(rng, BlockTokens, dim)
			q := x.queries(rng, group)
			testPageBounds(t, x, q, group)
			codes := aligned(Int4{}.BlockBytes(dim))
			Int4{}.Append(codes, Rows{K: x.kh, V: x.vh, Dim: dim, To: x.n})
			int4 := decodeInt4(codes, dim)
			bounds := aligned(Bounds{PageTokens}.BlockBytes(dim))
			Bounds{PageTokens}.Append(bounds, Rows{K: x.kh, V: x.vh, Dim: dim, To: x.n})
			for _, pages := range pageMasks {
				testPageDot(t, "Int4Dot", q, group, int4, pages, func(dst []float32, ld int, tmp []byte) {
					Portable{}.Int4Dot(dst, ld, q, group, dim, codes, pages, tmp)
				})
				for _, b := range []int{1, 2, 3, 4, 8} {
					p := PageRange{b}
					rc := aligned(p.BlockBytes(dim))
					p.Append(rc, Rows{K: x.kh, V: x.vh, Dim: dim, To: x.n})
					testPageDot(t, p.Name(), q, group, decodePageRange(p, x, rc), pages, func(dst []float32, ld int, tmp []byte) {
						Portable{}.PageRangeDot(dst, ld, q, group, dim, b, as[uint16](bounds), rc, pages, tmp)
					})
				}
			}
		}
	}
}

// testPageDot holds a kernel against dot products with the decoded keys of the pages in the mask.
func testPageDot(t *testing.T, what string, q []float32, group int, keys [][]float64, pages uint16, dot func(dst []float32, ld int, tmp []byte)) {
	t.Helper()
	n, dim := bits.OnesCount16(pages)*PageTokens, len(keys[0])
	ld := n + PageTokens
	dst := make([]float32, group*ld)
	dot(dst, ld, make([]byte, TmpBytes(group, dim)))
	for j, m := 0, pages; m != 0; j, m = j+1, m&(m-1) {
		for lane := range PageTokens {
			k := keys[bits.TrailingZeros16(m)*PageTokens+lane]
			for g := range group {
				var s, abs float64
				for c, y := range k {
					s += float64(q[g*dim+c]) * y
					abs += math.Abs(float64(q[g*dim+c])) * (math.Abs(y) + 10)
				}
				near(t, what, dst[g*ld+j*PageTokens+lane], s, abs)
			}
		}
	}
}

// testPageBounds: the definition, and that it is an upper bound of every key of the page.
func testPageBounds(t *testing.T, x *text, q []float32, group int) {
	t.Helper()
	for _, page := range []int{8, 16, 32, 64} {
		p := Bounds{page}
		plane := aligned(p.BlockBytes(x.dim))
		p.Append(plane, Rows{K: x.kh, V: x.vh, Dim: x.dim, To: x.n})
		pages := BlockTokens / page
		ld := pages + 1
		dst := make([]float32, group*ld)
		Portable{}.PageBounds(dst, ld, q, group, x.dim, pages, as[uint16](plane))
		for g := range group {
			s := x.logits(q[g*x.dim:][:x.dim])
			for j := range pages {
				var want, size float64
				for c := range x.dim {
					lo, hi := math.Inf(1), math.Inf(-1)
					for i := j * page; i < (j+1)*page; i++ {
						lo, hi = min(lo, x.k[i][c]), max(hi, x.k[i][c])
					}
					y := float64(q[g*x.dim+c])
					want += max(y*lo, y*hi)
					size += math.Abs(max(y*lo, y*hi))
				}
				got := dst[g*ld+j]
				near(t, p.Name(), got, want, size)
				for i := j * page; i < (j+1)*page; i++ {
					if s[i] > float64(got)+1e-5*size+1e-5 {
						t.Errorf("%s: token %d has logit %v above its page's bound %v", p.Name(), i, s[i], got)
					}
				}
			}
		}
	}
}

// decodeInt4 reads a block of the int4 plane by its documented layout.
func decodeInt4(block []byte, dim int) (keys [][]float64) {
	size := (dim*PageTokens/2+63)/64*64 + 64
	for t := range BlockTokens {
		page, lane := block[t/PageTokens*size:][:size], t%PageTokens
		par := as[uint16](page[size-64:])
		scale, lo := float64(tensor.F16ToF32(par[lane])), float64(tensor.F16ToF32(par[PageTokens+lane]))
		row := make([]float64, dim)
		for c := range row {
			row[c] = lo + scale*float64(packed(page, 4, lane, c))
		}
		keys = append(keys, row)
	}
	return keys
}

// packed reads a code by the documented layout: runs of 64 bytes hold four channels of 16 tokens, and 8/bits runs share the bytes of one.
func packed(page []byte, bits, lane, c int) int {
	run, per := c/4, 8/bits
	return int(page[run/per*64+4*lane+c%4]) >> (run % per * bits) & (1<<bits - 1)
}

// decodePageRange reads the full pages of a block of the page-range plane, taking the ranges from the keys.
func decodePageRange(p PageRange, x *text, block []byte) (keys [][]float64) {
	size, high := p.PageBytes(x.dim), (x.dim*PageTokens/4+63)/64*64
	for t := range x.n / PageTokens * PageTokens {
		first, page := t/PageTokens*PageTokens, block[t/PageTokens*size:][:size]
		row := make([]float64, x.dim)
		for c := range row {
			lo, hi := math.Inf(1), math.Inf(-1)
			for i := first; i < first+PageTokens; i++ {
				lo, hi = min(lo, x.k[i][c]), max(hi, x.k[i][c])
			}
			u := 0
			if p.Bits == 3 {
				u = packed(page, 2, t%PageTokens, c)<<1 | packed(page[high:], 1, t%PageTokens, c)
			} else {
				u = packed(page, p.Bits, t%PageTokens, c)
			}
			row[c] = lo + (hi-lo)*float64(u)/float64(int(1)<<p.Bits-1)
		}
		keys = append(keys, row)
	}
	return keys
}
