package attention

import (
	"math/bits"

	"github.com/twilight-go/twilight/internal/tensor"
)

func init() {
	RegisterEstimator("int8", Info{Doc: "8-bit keys per token with their own scale and minimum", Paper: "2502.02770", New: func(*Args) (any, error) { return int8Keys{}, nil }})
}

// Int8 is Int4 with 255 steps instead of 15: the paper's ablation, which finds that more than 4 bits gain nothing where a token's channels are of one size. Layout of a
// page: codes of 8 bits, then fp16 scale[16] and fp16 minimum[16].
type Int8 struct{}

// Name implements Plane.
func (Int8) Name() string { return "int8" }

// PageBytes is the size of one page.
func (Int8) PageBytes(dim int) int { return tokenPageBytes(dim, 8) }

// BlockBytes implements Plane.
func (p Int8) BlockBytes(dim int) int { return p.PageBytes(dim) * BlockPages }

// Append implements Plane.
func (p Int8) Append(dst []byte, r Rows) {
	for t := r.From; t < r.To; t++ {
		encodeToken(dst, 8, t, r.K[t*r.Dim:t*r.Dim+r.Dim])
	}
}

// int8Keys estimates in plain Go: the vector kernel is of 4 bits.
type int8Keys struct{}

var int8Planes = []Plane{Int8{}}

// Planes implements Estimator.
func (int8Keys) Planes() []Plane { return int8Planes }

// Coded implements Estimator.
func (int8Keys) Coded(n int) int { return n }

// PageBytes implements Estimator.
func (int8Keys) PageBytes(dim int) int { return Int8{}.PageBytes(dim) }

// Estimate implements Estimator.
func (int8Keys) Estimate(w *Work, lo, hi int) {
	w.eachBlock(lo, hi, func(b, first int, pages uint16, _ []byte) {
		tokenDot(w.AllLogits()[first*PageTokens:], w.LogitStride(), w.Q, w.Group, w.Head.Dim, 8, w.EstimatorPlane(0, b), pages)
	})
}

// tokenPageBytes is the size of a page of codes that have a scale and a minimum per token.
func tokenPageBytes(dim, bits int) int { return codePlaneBytes(dim, bits) + 4*PageTokens }

// encodeToken writes token t of a block of codes with a scale and a minimum per token: scale = max(max−min, 1e-9)/(2^bits−1), u = round((k−min)/scale).
func encodeToken(block []byte, bits, t int, row []uint16) {
	n, top := tokenPageBytes(len(row), bits), 1<<bits-1
	page, lane := block[t/PageTokens*n:][:n], t%PageTokens
	codes, par := page[:n-4*PageTokens], as[uint16](page[n-4*PageTokens:])
	lo, hi := row[0], row[0]
	for _, x := range row {
		if halfLess(x, lo) {
			lo = x
		}
		if halfLess(hi, x) {
			hi = x
		}
	}
	low := tensor.F16ToF32(lo)
	width := tensor.F16ToF32(hi) - low
	if width < 1e-9 { // not max: NaN stays
		width = 1e-9
	}
	scale := width / float32(top)
	par[lane], par[PageTokens+lane] = tensor.F32ToF16(scale), lo
	inv := 1 / scale
	for c, x := range row {
		putCode(codes, bits, lane, c, quantise(tensor.F16ToF32(x)-low, inv, top))
	}
}

// tokenDot estimates q·k from the codes of encodeToken, for the pages of a block whose bit is set, as Kernels.Int4Dot defines for 4 bits.
func tokenDot(dst []float32, ld int, q []float32, group, dim, nbits int, codes []byte, pages uint16) {
	n, mask := tokenPageBytes(dim, nbits), byte(1<<nbits-1)
	for j := 0; pages != 0; j++ {
		page := codes[bits.TrailingZeros16(pages)*n:][:n]
		pages &= pages - 1
		par := as[uint16](page[n-4*PageTokens:])
		for first := 0; first < group; first += tokenDotHeads {
			heads := min(tokenDotHeads, group-first)
			var sum [tokenDotHeads][PageTokens]float32 // Σ q_c·u_c
			var all [tokenDotHeads]float32
			for c := range dim {
				run, shift := codeRun(page, nbits, c)
				var u [PageTokens]float32
				for t := range u {
					u[t] = float32(run[t*4] >> (shift & 7) & mask)
				}
				for g := range heads {
					x, s := q[(first+g)*dim+c], &sum[g]
					for t, y := range u {
						s[t] += x * y
					}
					all[g] += x
				}
			}
			for g := range heads {
				out := dst[(first+g)*ld+j*PageTokens:][:PageTokens]
				for t, s := range sum[g] {
					out[t] = tensor.F16ToF32(par[t])*s + tensor.F16ToF32(par[PageTokens+t])*all[g]
				}
			}
		}
	}
}

// tokenDotHeads is how many query heads share the unpacking of a page's codes.
const tokenDotHeads = 4

// codeRun is where the codes of a channel stand in packed codes: token t's in byte 4t, from bit shift on.
func codeRun(codes []byte, nbits, channel int) (run *[4*PageTokens - 3]byte, shift uint) {
	per, at := 8/nbits, channel/4
	return (*[4*PageTokens - 3]byte)(codes[at/per*64+channel%4:]), uint(at%per) * uint(nbits)
}
