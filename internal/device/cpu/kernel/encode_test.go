package kernel

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
)

func encodedPlanes() (all []attention.Plane) {
	for _, b := range []int{1, 2, 3, 4, 8} {
		all = append(all, attention.PageRange{Bits: b})
	}
	for _, p := range []int{8, 16, 32, 64} {
		all = append(all, attention.Bounds{Page: p})
	}
	for _, b := range []int{2, 4, 8} {
		all = append(all, attention.BlockRange{Bits: b})
	}
	return append(all, attention.Int4{}, attention.ValueSum{}, attention.Middles{})
}

// appendCuts brings a plane up to date in the given cuts; the rows end where those written do.
func appendCuts(t testing.TB, p attention.Plane, e attention.Encoder, rows []uint16, dim int, cuts []int) []byte {
	dst, from := guarded[byte](t, p.BlockBytes(dim)), 0
	for _, to := range cuts {
		k := guardedCopy(t, rows[:to*dim])
		p.Append(dst, attention.Rows{K: k, V: k, Dim: dim, From: from, To: to, Enc: e})
		from = to
	}
	return dst
}

// sameBytes compares planes; where halves or floats may be NaN, any NaN equals another.
func sameBytes(p attention.Plane, dim int, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	switch p := p.(type) {
	case attention.Int4:
		n := p.PageBytes(dim)
		for i := range a {
			if a[i] == b[i] {
				continue
			}
			if i%n < n-4*attention.PageTokens {
				return false
			}
			x, y := *(*uint16)(unsafe.Pointer(&a[i&^1])), *(*uint16)(unsafe.Pointer(&b[i&^1]))
			if x&0x7fff <= 0x7c00 || y&0x7fff <= 0x7c00 {
				return false
			}
		}
		return true
	case attention.ValueSum:
		x, y := unsafe.Slice((*float32)(unsafe.Pointer(&a[0])), dim), unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), dim)
		for i := range x {
			if x[i] != y[i] && (x[i] == x[i] || y[i] == y[i]) {
				return false
			}
		}
		return true
	}
	return false
}

// encodeRows are rows of ordinary keys, of keys that are equal, zeros of either sign and subnormal, and of any bits at all, infinities and NaN among them.
func encodeRows(r *rand.Rand, dim int) map[string][]uint16 {
	n := blockTokens * dim
	keys, few, spoilt, any := fillKeys(r, make([]uint16, n), dim), make([]uint16, n), make([]uint16, n), make([]uint16, n)
	copy(spoilt, keys)
	values := []uint16{0, 0x8000, 1, 0x8001, 0x3c00, 0x3c00, 0x7bff, 0xfbff}
	for i := range n {
		few[i], any[i] = values[r.IntN(len(values))>>uint(i/dim/32%4)], uint16(r.Uint32())
		if r.IntN(40) == 0 {
			spoilt[i] = []uint16{0x7c00, 0xfc00, 0x7e00, 0xfe00}[r.IntN(4)]
		}
	}
	return map[string][]uint16{"keys": keys, "few": few, "spoilt": spoilt, "any": any}
}

// TestEncode holds that every level fills planes with the bytes of the definition, however the rows come.
func TestEncode(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		if k == For(isa.Portable) {
			t.Skip("the definition itself")
		}
		r := newRand(9)
		for _, dim := range []int{32, 40, 96, 128, 256, 288} {
			for what, rows := range encodeRows(r, dim) {
				for _, p := range encodedPlanes() {
					for _, cuts := range [][]int{{256}, {1}, {3, 4, 5, 17, 31, 32, 33, 100}, {15}, {16, 255}} {
						want := appendCuts(t, p, attention.Portable{}, rows, dim, cuts[len(cuts)-1:])
						got := appendCuts(t, p, k, rows, dim, cuts)
						if !sameBytes(p, dim, got, want) {
							at := 0
							for got[at] == want[at] {
								at++
							}
							t.Fatalf("%s of %s, dim %d, cuts %v: byte %d is %#x, want %#x", p.Name(), what, dim, cuts, at, got[at], want[at])
						}
					}
				}
			}
		}
	})
}

// TestSaturate holds that every level rounds and saturates as the definition does.
func TestSaturate(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(10)
		for n := range 70 {
			x, want := guarded[float32](t, n), make([]uint16, n)
			for i := range x {
				x[i] = []float32{float32(r.NormFloat64()) * 1e-6, float32(r.NormFloat64()), 65519, 65520, -1e9, inf, -inf, nan, math.Float32frombits(r.Uint32())}[r.IntN(9)]
			}
			got := guarded[uint16](t, n)
			attention.Portable{}.Halves(want, x)
			k.Halves(got, x)
			for i, h := range got {
				if h != want[i] && (h&0x7fff <= 0x7c00 || want[i]&0x7fff <= 0x7c00) || h&0x7fff == 0x7c00 {
					t.Fatalf("%d elements: %v becomes %#x, want %#x", n, x[i], h, want[i])
				}
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	benchLevels(b, func(b *testing.B, k Kernels) {
		for _, dim := range []int{64, 128, 256} {
			rows := newBlock(b, newRand(1), dim, 16).keys
			for _, p := range encodedPlanes() {
				dst := make([]byte, p.BlockBytes(dim))
				for _, n := range []int{1, blockTokens} {
					b.Run(fmt.Sprintf("%s/dim=%d/rows=%d", p.Name(), dim, n), func(b *testing.B) {
						b.SetBytes(int64(2 * dim * n))
						for b.Loop() {
							p.Append(dst, attention.Rows{K: rows, V: rows, Dim: dim, From: blockTokens - n, To: blockTokens, Enc: k})
						}
					})
				}
			}
		}
	})
}
