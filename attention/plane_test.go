package attention

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
	"pgregory.net/rapid"
)

// allPlanes is every plane and every parameter.
func allPlanes() (all []Plane) {
	for _, b := range []int{1, 2, 3, 4, 8} {
		all = append(all, PageRange{b})
	}
	for _, p := range []int{8, 16, 32, 64} {
		all = append(all, Bounds{p})
	}
	for _, n := range []int{8, 16, 32, 64} {
		all = append(all, Clusters{n})
	}
	return append(all, Int4{}, Int8{}, ValueSum{}, Middles{}, KeyChannels{}, Labels{Count: 5})
}

func TestInt4Definition(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, dim := range []int{2, 32, 64, 128} {
		x := newText(rng, BlockTokens, dim)
		for c := range dim { // a constant token: range zero
			x.kh[7*dim+c], x.k[7][c] = 0x4200, 3
		}
		block := aligned(Int4{}.BlockBytes(dim))
		Int4{}.Append(block, Rows{K: x.kh, V: x.vh, Dim: dim, To: x.n})
		got := decodeInt4(block, dim)
		for i, k := range x.k {
			lo, hi := math.Inf(1), math.Inf(-1)
			for _, y := range k {
				lo, hi = min(lo, y), max(hi, y)
			}
			scale := max(hi-lo, 1e-9) / 15
			for c, y := range k {
				u := min(max(math.Floor((y-lo)/scale+0.5), 0), 15)
				want := lo + scale*u
				off := math.Abs(got[i][c] - want)
				// the stored scale is fp16 (relative 2^-11, fifteen times), and at a tie float32 may round to the other code
				if tie := math.Abs((y-lo)/scale-math.Floor((y-lo)/scale)-0.5) < 1e-4; off > scale*15.0/2048+1e-6 && !(tie && off < scale*1.02) {
					t.Fatalf("dim %d token %d channel %d: key %v decodes to %v, by the definition to %v", dim, i, c, y, got[i][c], want)
				}
				if math.Abs(got[i][c]-y) > scale*(0.5+15.0/2048)+1e-6 {
					t.Fatalf("dim %d token %d channel %d: key %v decodes to %v, further than half a step of %v", dim, i, c, y, got[i][c], scale)
				}
			}
		}
	}
}

func TestPageRangeDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, b := range []int{1, 2, 3, 4, 8} {
		for _, dim := range []int{2, 20, 32, 128} {
			p, x := PageRange{b}, newText(rng, BlockTokens-5, dim) // the last page is not full
			for i := range PageTokens {                            // a constant channel: range zero
				x.kh[i*dim], x.k[i][0] = 0x4200, 3
			}
			rows := append(append([]uint16(nil), x.kh...), make([]uint16, 5*dim)...)
			block := aligned(p.BlockBytes(dim))
			p.Append(block, Rows{K: rows, Dim: dim, To: x.n})
			keys := decodePageRange(p, x, block)
			if want := x.n / PageTokens * PageTokens; len(keys) != want {
				t.Fatalf("%d keys, want %d", len(keys), want)
			}
			top := float64(int(1)<<b - 1)
			for i, row := range keys {
				first := i / PageTokens * PageTokens
				for c, got := range row {
					lo, hi := math.Inf(1), math.Inf(-1)
					for j := first; j < first+PageTokens; j++ {
						lo, hi = min(lo, x.k[j][c]), max(hi, x.k[j][c])
					}
					if d := math.Abs(got - x.k[i][c]); d > (hi-lo)/top*0.5001+1e-9 {
						t.Fatalf("%s dim %d token %d channel %d: key %v decodes to %v, further than half a step of %v", p.Name(), dim, i, c, x.k[i][c], got, (hi-lo)/top)
					}
				}
			}
			if last := block[x.n/PageTokens*p.PageBytes(dim):]; !bytes.Equal(last, make([]byte, len(last))) {
				t.Errorf("%s: a page that is not full has codes", p.Name())
			}
		}
	}
}

func TestBoundsAndValueSumDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for _, n := range []int{1, 7, 8, 9, 100, 255, 256} {
		const dim = 24
		x := newText(rng, n, dim)
		x.kh[0], x.k[0][0] = 0x8000, 0 // minus zero
		sum := aligned(ValueSum{}.BlockBytes(dim))
		ValueSum{}.Append(sum, Rows{K: x.kh, V: x.vh, Dim: dim, To: n})
		for c := range dim {
			var want, size float64
			for _, v := range x.v {
				want += v[c]
				size += math.Abs(v[c])
			}
			near(t, "value-sum", as[float32](sum)[c], want, size)
		}
		for _, page := range []int{8, 16, 32, 64} {
			p := Bounds{page}
			block := aligned(p.BlockBytes(dim))
			p.Append(block, Rows{K: x.kh, V: x.vh, Dim: dim, To: n})
			b, pages := as[uint16](block), BlockTokens/page
			for j := range (n + page - 1) / page {
				for c := range dim {
					lo, hi := math.Inf(1), math.Inf(-1)
					for i := j * page; i < min((j+1)*page, n); i++ {
						lo, hi = min(lo, x.k[i][c]), max(hi, x.k[i][c])
					}
					gotLo, gotHi := float64(tensor.F16ToF32(b[2*c*pages+j])), float64(tensor.F16ToF32(b[(2*c+1)*pages+j]))
					if gotLo != lo || gotHi != hi {
						t.Fatalf("%s: %d tokens, page %d channel %d: bounds %v..%v, want %v..%v", p.Name(), n, j, c, gotLo, gotHi, lo, hi)
					}
				}
			}
		}
	}
}

// However the cache cuts what it appends, the plane is the same bytes.
func TestPlanesAnySplit(t *testing.T) {
	const dim = 20
	x := newText(rand.New(rand.NewPCG(8, 8)), BlockTokens, dim)
	for _, p := range allPlanes() {
		t.Run(p.Name(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				n := rapid.IntRange(1, BlockTokens).Draw(t, "tokens")
				whole, cut := aligned(p.BlockBytes(dim)), aligned(p.BlockBytes(dim))
				p.Append(whole, Rows{K: x.kh, V: x.vh, Dim: dim, To: n})
				for at := 0; at < n; {
					to := min(at+rapid.IntRange(1, 40).Draw(t, "chunk"), n)
					p.Append(cut, Rows{K: x.kh, V: x.vh, Dim: dim, From: at, To: to})
					at = to
				}
				if !bytes.Equal(whole, cut) {
					t.Fatalf("%s differs from one append of %d tokens", p.Name(), n)
				}
			})
		})
	}
}
