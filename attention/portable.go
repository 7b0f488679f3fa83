package attention

import (
	"math"
	"math/bits"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Portable is Kernels in plain Go float32: the definition that every other implementation is held against, and what runs where there is no machine code.
type Portable struct{}

// FetchRows implements Kernels.
func (Portable) FetchRows([]uint16, int, []int32) {}

// Dot implements Kernels.
func (Portable) Dot(dst []float32, ld int, q []float32, group, dim int, rows []uint16, at []int32, _ []uint16) {
	for i, r := range at {
		row := rows[int(r)*dim:][:dim]
		for g := range group {
			qg, s := q[g*dim:][:dim], float32(0)
			for c, x := range row {
				s += qg[c] * tensor.F16ToF32(x)
			}
			dst[g*ld+i] = s
		}
	}
}

// Accumulate implements Kernels.
func (Portable) Accumulate(acc, w []float32, ld, group, dim int, rows []uint16, at []int32, _ []uint16) {
	for i, r := range at {
		row := rows[int(r)*dim:][:dim]
		for g := range group {
			wi, a := w[g*ld+i], acc[g*dim:][:dim]
			if wi == 0 {
				continue
			}
			for c, x := range row {
				a[c] += wi * tensor.F16ToF32(x)
			}
		}
	}
}

// Max implements Kernels.
func (Portable) Max(x []float32) float32 {
	m := negInf
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

// Exp implements Kernels.
func (Portable) Exp(x []float32, top float32) (sum float32) {
	for i, v := range x {
		e := float32(0)
		if v != negInf {
			e = float32(math.Exp(float64(v - top)))
		}
		x[i] = e
		sum += e
	}
	return sum
}

// Weigh implements Kernels.
func (Portable) Weigh(x []float32, ref float32) (sum float32) {
	for i, v := range x {
		e := float32(0)
		if v > negInf { // not NaN
			e = float32(math.Exp(float64(v) - float64(ref)))
		}
		x[i] = e
		sum += e
	}
	return sum
}

// Scale implements Kernels.
func (Portable) Scale(x []float32, s float32) {
	for i := range x {
		x[i] *= s
	}
}

// AddScaled implements Kernels.
func (Portable) AddScaled(dst, x []float32, f float32) {
	for i, v := range x {
		dst[i] += f * v
	}
}

// AddRows implements Kernels.
func (Portable) AddRows(dst, slab []float32, at []int32) {
	for _, r := range at {
		for i, x := range slab[int(r)*len(dst):][:len(dst)] {
			dst[i] += x
		}
	}
}

// Above implements Kernels.
func (Portable) Above(w []float32, t float32) (sum float32, n int) {
	for _, x := range w {
		if x >= t {
			sum += x
			n++
		}
	}
	return sum, n
}

// Lanes implements Kernels.
func (Portable) Lanes(mask []uint16, w []float32, t float32) {
	for j := range len(w) / PageTokens {
		m := uint16(0)
		for i, x := range w[j*PageTokens:][:PageTokens] {
			if x >= t {
				m |= 1 << i
			}
		}
		mask[j] = m
	}
}

// SplitLanes implements Kernels.
func (p Portable) SplitLanes(keep, heavy []uint16, w []float32, pages []int32, least, much float32) (kept int) {
	clear(keep[:len(w)/PageTokens])
	clear(heavy[:len(w)/PageTokens])
	for _, j := range pages {
		page := w[int(j)*PageTokens:][:PageTokens]
		p.Lanes(keep[j:j+1], page, least)
		p.Lanes(heavy[j:j+1], page, much)
		kept += bits.OnesCount16(keep[j])
	}
	return kept
}

// PackPages implements Kernels.
func (Portable) PackPages(dst, w []float32, pages []int32, masks []uint16) (n int) {
	for _, j := range pages {
		for m := masks[j]; m != 0; m &= m - 1 {
			dst[n] = w[int(j)*PageTokens+bits.TrailingZeros16(m)]
			n++
		}
	}
	return n
}

// ListPages implements Kernels.
func (Portable) ListPages(dst []int32, masks []uint16) (n int) {
	for j, m := range masks {
		dst[n] = int32(j)
		n += int((uint32(m) + math.MaxUint16) >> 16) // one if any: which masks have lanes is no pattern that a branch could follow
	}
	return n
}

// ListLanes implements Kernels.
func (Portable) ListLanes(dst, base []int32, masks []uint16) (n int) {
	for j, m := range masks {
		for ; m != 0; m &= m - 1 {
			dst[n] = base[j] + int32(bits.TrailingZeros16(m))
			n++
		}
	}
	return n
}

// Pack implements Kernels.
func (Portable) Pack(dst, w []float32, t float32) (n int) {
	for _, x := range w {
		if x >= t {
			dst[n] = x
			n++
		}
	}
	return n
}

// PackLanes implements Kernels.
func (Portable) PackLanes(dst []float32, ld int, w []float32, wld int, pages []int32, masks, own []uint16, ownLD int, scale []float32, rows []int32, lanes []float32) {
	clear(lanes)
	for g := range len(lanes) / PageTokens {
		n := 0
		for j, m := range masks {
			for ; m != 0; m &= m - 1 {
				i := bits.TrailingZeros16(m)
				dst[g*ld+n] = 0
				if own[g*ownLD+j]>>i&1 != 0 {
					x := w[g*wld+int(pages[j])*PageTokens+i]
					lanes[g*PageTokens+i] += x
					dst[g*ld+n] = x * scale[int(rows[j])+i]
				}
				n++
			}
		}
	}
}

// AccumulateCodes implements Kernels.
func (Portable) AccumulateCodes(acc, w []float32, ld, group, dim int, codes []byte, at []int32, n int, _ []byte) {
	for i, r := range at[:n] {
		row := codes[int(r)*dim:][:dim]
		for g := range group {
			wi, a := w[g*ld+i], acc[g*dim:][:dim]
			for c, x := range row {
				a[c] += wi * float32(int8(x))
			}
		}
	}
}

// PageBounds implements Kernels.
func (Portable) PageBounds(dst []float32, ld int, q []float32, group, dim, pages int, bounds []uint16) {
	for g := range group {
		out := dst[g*ld:][:pages]
		clear(out)
		for c := range dim {
			x := q[g*dim+c]
			side := 0 // q_c·k_c is largest at the minimum for a negative q_c
			if x > 0 {
				side = 1
			}
			for p := range out {
				out[p] += x * tensor.F16ToF32(bounds[(2*c+side)*pages+p])
			}
		}
	}
}

// Int4Dot implements Kernels.
func (Portable) Int4Dot(dst []float32, ld int, q []float32, group, dim int, codes []byte, pages uint16, _ []byte) {
	tokenDot(dst, ld, q, group, dim, 4, codes, pages)
}

// PageRangeDot implements Kernels.
func (Portable) PageRangeDot(dst []float32, ld int, q []float32, group, dim, nbits int, bounds []uint16, codes []byte, pages uint16, _ []byte) {
	p := PageRange{nbits}
	n, step := p.PageBytes(dim), 1/float32(int(1)<<nbits-1)
	for j := 0; pages != 0; j++ {
		at := bits.TrailingZeros16(pages)
		page := codes[at*n:][:n]
		pages &= pages - 1
		for g := range group {
			var base float32
			out := dst[g*ld+j*PageTokens:][:PageTokens]
			clear(out)
			for c, x := range q[g*dim:][:dim] {
				lo := tensor.F16ToF32(bounds[2*c*BlockPages+at])
				hi := tensor.F16ToF32(bounds[(2*c+1)*BlockPages+at])
				base += x * lo
				qs := x * (hi - lo) * step
				for t := range out {
					out[t] += qs * float32(p.get(page, dim, t, c))
				}
			}
			for t := range out {
				out[t] += base
			}
		}
	}
}

// BlockRangeDot implements Kernels.
func (p Portable) BlockRangeDot(dst []float32, ld int, q []float32, group, dim, nbits int, plane []byte, pages []int32, n int, shrink float32, _ []byte, _ []int32, weigh *Weighing, _ []byte) {
	shape := BlockRange{nbits}
	size, page := shape.BlockBytes(dim), shape.PageBytes(dim)
	for j, at := range pages[:n] {
		block := plane[int(at)/BlockPages*size:][:size]
		rangeDot(dst[j*PageTokens:], ld, q, group, dim, nbits, as[uint16](block[:4*dim]), block[shape.HeadBytes(dim)+int(at)%BlockPages*page:][:page], shrink)
	}
	if weigh != nil {
		weigh.Apply(p, dst, ld, n*PageTokens)
	}
}

// rangeDot is BlockRangeDot of one page of codes; head is its block's low[dim] and step[dim].
func rangeDot(dst []float32, ld int, q []float32, group, dim, nbits int, head []uint16, codes []byte, shrink float32) {
	low, step := head[:dim], head[dim:]
	for g := range group {
		var base, noise float32
		for c, x := range q[g*dim:][:dim] {
			s := x * tensor.F16ToF32(step[c])
			base += x * tensor.F16ToF32(low[c])
			noise += s * s
		}
		base -= shrink * noise
		out := dst[g*ld:][:PageTokens]
		for t := range out {
			var sum float32
			for c, x := range q[g*dim:][:dim] {
				sum += x * tensor.F16ToF32(step[c]) * float32(getCode(codes, nbits, t, c))
			}
			out[t] = base + sum
		}
	}
}
