package attention

import "github.com/twilight-go/twilight/internal/tensor"

// Encoder is the arithmetic that fills a cache and its planes, as Kernels is that of the stages: Portable defines every method and a device may replace it by machine code
// that leaves the same bytes (which NaN a NaN is aside). Planes call it from several goroutines at once. Like Kernels it is for decoupling, not an
// extension point: a plane of one's own may compute in plain Go.
//
// Methods that take Rows bring a block of the plane of the same name up to date with tokens [r.From,r.To).
type Encoder interface {
	// Halves rounds keys or values to fp16, ties to even. What is beyond its range saturates: an infinite key would poison every later softmax.
	Halves(dst []uint16, x []float32)
	// EncodeBounds widens the bounds of the pages, of the given number of tokens, that the new keys fall into. Halves are ordered as numbers, −0 below +0,
	// and NaN beyond the infinity of its sign.
	EncodeBounds(bounds []uint16, page int, r Rows)
	// EncodeInt4 writes the new keys' codes, scales and minima.
	EncodeInt4(codes []byte, r Rows)
	// EncodePageRange writes the codes, of the given bits, of the pages that the new keys complete. A channel of infinite range has zeros.
	EncodePageRange(codes []byte, bits int, r Rows)
	// ChannelBounds sets lo and hi to each channel's bounds over the rows of fp16 keys, at least one; len(lo) is the number of channels.
	ChannelBounds(lo, hi, rows []uint16)
	// EncodeChannels writes the codes, of 1, 2, 4 or 8 bits, of whole pages of fp16 keys: (k − zero[c])·inv[c], rounded, in range, NaN as 0. The pages' codes lie one after
	// another as in PageRange, zero before.
	EncodeChannels(codes []byte, bits int, zero, inv []float32, rows []uint16)
	// SumValues adds the new values to the sums, in order.
	SumValues(sum []float32, r Rows)
}

// kernels is r.Enc where it is Kernels too, as those of devices are, or Portable.
func (r *Rows) kernels() Kernels {
	if k, ok := r.Enc.(Kernels); ok {
		return k
	}
	return Portable{}
}

// encoder is r.Enc, or Portable where there is none.
func (r *Rows) encoder() Encoder {
	if r.Enc == nil {
		return Portable{}
	}
	return r.Enc
}

// halfLess compares fp16 bit patterns: sign and magnitude to two's complement.
func halfLess(a, b uint16) bool { return halfOrder(a) < halfOrder(b) }

func halfOrder(x uint16) int16 { return int16(x) ^ int16(x)>>15&0x7fff }

// quantise rounds x·inv to the nearest code (halves up) within [0, top]; NaN to 0.
func quantise(x, inv float32, top int) byte {
	y := float32(x*inv) + 0.5 // two roundings, as the vector units make them
	switch {
	case !(y > 0):
		return 0
	case y >= float32(top):
		return byte(top)
	}
	return byte(y)
}

// Halves implements Encoder.
func (Portable) Halves(dst []uint16, x []float32) {
	const top = 65504
	for i, f := range x {
		dst[i] = tensor.F32ToF16(min(max(f, -top), top))
	}
}

// EncodeBounds implements Encoder.
func (Portable) EncodeBounds(b []uint16, page int, r Rows) {
	pages := BlockTokens / page
	for t := r.From; t < r.To; t++ {
		p, first := t/page, t%page == 0
		for c, x := range r.K[t*r.Dim : t*r.Dim+r.Dim] {
			lo, hi := &b[2*c*pages+p], &b[(2*c+1)*pages+p]
			if first || halfLess(x, *lo) {
				*lo = x
			}
			if first || halfLess(*hi, x) {
				*hi = x
			}
		}
	}
}

// EncodeInt4 implements Encoder.
func (Portable) EncodeInt4(dst []byte, r Rows) {
	for t := r.From; t < r.To; t++ {
		encodeToken(dst, 4, t, r.K[t*r.Dim:t*r.Dim+r.Dim])
	}
}

// EncodePageRange implements Encoder.
func (Portable) EncodePageRange(dst []byte, bits int, r Rows) {
	p, dim, top := PageRange{bits}, r.Dim, 1<<bits-1
	n := p.PageBytes(dim)
	for t := r.From/PageTokens*PageTokens + PageTokens; t <= r.To; t += PageTokens {
		rows, page := r.K[(t-PageTokens)*dim:t*dim], dst[(t/PageTokens-1)*n:][:n]
		clear(page)
		for c := range dim {
			lo, hi := columnBounds(rows, c, dim)
			low, high, inv := tensor.F16ToF32(lo), tensor.F16ToF32(hi), float32(0)
			if high > low {
				inv = float32(top) / (high - low)
			}
			for i := range PageTokens {
				p.put(page, dim, i, c, quantise(tensor.F16ToF32(rows[i*dim+c])-low, inv, top))
			}
		}
	}
}

// columnBounds is the smallest and the largest half of channel c.
func columnBounds(rows []uint16, c, dim int) (lo, hi uint16) {
	lo, hi = rows[c], rows[c]
	for i := c; i < len(rows); i += dim {
		if halfLess(rows[i], lo) {
			lo = rows[i]
		}
		if halfLess(hi, rows[i]) {
			hi = rows[i]
		}
	}
	return lo, hi
}

// ChannelBounds implements Encoder.
func (Portable) ChannelBounds(lo, hi, rows []uint16) {
	for c := range lo {
		lo[c], hi[c] = columnBounds(rows, c, len(lo))
	}
}

// EncodeChannels implements Encoder.
func (Portable) EncodeChannels(codes []byte, bits int, zero, inv []float32, rows []uint16) {
	dim, size, top := len(zero), codePlaneBytes(len(zero), bits), 1<<bits-1
	for i := 0; i < len(rows); i += dim {
		page, lane := codes[i/dim/PageTokens*size:], i/dim%PageTokens
		for c, x := range rows[i : i+dim] {
			putCode(page, bits, lane, c, quantise(tensor.F16ToF32(x)-zero[c], inv[c], top))
		}
	}
}

// SumValues implements Encoder.
func (Portable) SumValues(sum []float32, r Rows) {
	for t := r.From; t < r.To; t++ {
		for c, x := range r.V[t*r.Dim : t*r.Dim+r.Dim] {
			sum[c] += tensor.F16ToF32(x)
		}
	}
}
