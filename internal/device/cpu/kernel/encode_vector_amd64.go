//go:build !noasm

package kernel

import (
	"unsafe"

	"github.com/twilight-go/twilight/attention"
)

const (
	encodeDim  = 256 // the largest head, for what stands on the stack
	pageTokens = attention.PageTokens
)

func encodable(dim int) bool { return vectorDim(dim) && dim <= encodeDim }

// Halves implements attention.Encoder.
func (v vector) Halves(dst []uint16, x []float32) {
	whole := len(x) &^ 15
	if whole > 0 {
		v.saturate(ptr(dst[:whole]), ptr(x), whole)
	}
	v.portable.Halves(dst[whole:len(x)], x[whole:])
}

// EncodeBounds implements attention.Encoder.
func (v vector) EncodeBounds(b []uint16, page int, r attention.Rows) {
	if !encodable(r.Dim) {
		v.portable.EncodeBounds(b, page, r)
		return
	}
	var lower, upper [encodeDim]uint16
	lo, hi, pages := lower[:r.Dim], upper[:r.Dim], attention.BlockTokens/page
	for t := r.From; t < r.To; {
		p := t / page
		n := min(r.To, (p+1)*page) - t
		rows := r.K[t*r.Dim : (t+n)*r.Dim]
		if t%page == 0 {
			copy(lo, rows)
			copy(hi, rows)
		} else {
			for c := range lo {
				lo[c], hi[c] = b[2*c*pages+p], b[(2*c+1)*pages+p]
			}
		}
		v.widenBounds(ptr(lo), ptr(hi), ptr(rows), r.Dim, n)
		for c := range lo {
			b[2*c*pages+p], b[(2*c+1)*pages+p] = lo[c], hi[c]
		}
		t += n
	}
}

// EncodeInt4 implements attention.Encoder.
func (v vector) EncodeInt4(dst []byte, r attention.Rows) {
	if !encodable(r.Dim) {
		v.portable.EncodeInt4(dst, r)
		return
	}
	var runs, folded [pageTokens * encodeDim]byte
	var zero, inv [pageTokens]float32
	var scale, low [pageTokens]uint16
	size, runCount := attention.Int4{}.PageBytes(r.Dim), r.Dim/4
	for t := r.From / pageTokens * pageTokens; t < r.To; t += pageTokens {
		first, n := max(r.From&^3-t, 0), min(r.To-t, pageTokens) // of the page's tokens; those of the first four that are not new are coded again
		page, rows := dst[t/pageTokens*size:][:size], r.K[(t+first)*r.Dim:(t+n)*r.Dim]
		codes, to := page[:size-4*pageTokens], folded[:]
		if first == 0 && n == pageTokens {
			to = codes
		}
		v.tokenRanges(&zero[0], &inv[0], &scale[0], &low[0], ptr(rows), r.Dim, n-first)
		v.tokenCodes(&runs[4*first], ptr(rows), r.Dim, &zero[0], &inv[0], n-first, 15)
		v.fold(4, ptr(to), &runs[0], runCount)
		if first > 0 || n < pageTokens {
			for i := 0; i < len(codes); i += 64 {
				copy(codes[i+4*first:i+4*n], to[i+4*first:])
			}
		}
		par := unsafe.Slice((*uint16)(unsafe.Pointer(&page[len(codes)])), 2*pageTokens)
		copy(par[first:n], scale[:])
		copy(par[pageTokens:][first:n], low[:])
	}
}

// EncodePageRange implements attention.Encoder.
func (v vector) EncodePageRange(dst []byte, bits int, r attention.Rows) {
	if !encodable(r.Dim) {
		v.portable.EncodePageRange(dst, bits, r)
		return
	}
	var runs [pageTokens * encodeDim]byte
	var zero, inv [encodeDim]float32
	size, runCount, top := attention.PageRange{Bits: bits}.PageBytes(r.Dim), r.Dim/4, float32(int(1)<<bits-1)
	for t := r.From/pageTokens*pageTokens + pageTokens; t <= r.To; t += pageTokens {
		page, rows := dst[(t/pageTokens-1)*size:][:size], r.K[(t-pageTokens)*r.Dim:t*r.Dim]
		to := &runs[0]
		if bits == 8 {
			to = ptr(page)
		}
		v.pageRanges(&zero[0], &inv[0], ptr(rows), r.Dim, top)
		v.pageCodes(to, ptr(rows), r.Dim, &zero[0], &inv[0], pageTokens, top)
		switch bits {
		case 8:
		case 3:
			v.foldHigh(ptr(page), to, runCount)
			v.fold(1, ptr(page[runCount/4*64:]), to, runCount)
		default:
			v.fold(bits, ptr(page), to, runCount)
		}
	}
}

// ChannelBounds implements attention.Encoder.
func (v vector) ChannelBounds(lo, hi, rows []uint16) {
	dim := len(lo)
	if !vectorDim(dim) {
		v.portable.ChannelBounds(lo, hi, rows)
		return
	}
	copy(lo, rows[:dim])
	copy(hi[:dim], rows)
	v.widenBounds(ptr(lo), ptr(hi), ptr(rows), dim, len(rows)/dim)
}

// EncodeChannels implements attention.Encoder.
func (v vector) EncodeChannels(codes []byte, bits int, zero, inv []float32, rows []uint16) {
	dim := len(zero)
	if !encodable(dim) {
		v.portable.EncodeChannels(codes, bits, zero, inv, rows)
		return
	}
	var runs [pageTokens * encodeDim]byte
	size := attention.PageRange{Bits: bits}.PageBytes(dim)
	for ; len(rows) >= pageTokens*dim; rows, codes = rows[pageTokens*dim:], codes[size:] {
		to := &runs[0]
		if bits == 8 {
			to = ptr(codes[:size])
		}
		v.pageCodes(to, ptr(rows), dim, ptr(zero), ptr(inv[:dim]), pageTokens, float32(int(1)<<bits-1))
		if bits < 8 {
			v.fold(bits, ptr(codes[:size]), to, dim/4)
		}
	}
}

// SumValues implements attention.Encoder.
func (v vector) SumValues(sum []float32, r attention.Rows) {
	if !vectorDim(r.Dim) {
		v.portable.SumValues(sum, r)
		return
	}
	if r.From < r.To {
		v.sumRows(ptr(sum[:r.Dim]), ptr(r.V[r.From*r.Dim:r.To*r.Dim]), r.Dim, r.To-r.From)
	}
}
