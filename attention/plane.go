package attention

import (
	"fmt"
	"unsafe"
)

// Plane is derived data that the cache keeps beside the exact keys and values: page metadata, low-bit codes, sums. A selector or an estimator declares
// the planes that it reads; the cache stores each once, whoever asks, and tells it of new tokens. Planes are an extension point: one value serves every
// layer and head concurrently, so it holds no state of its own.
type Plane interface {
	// Name identifies the data and its layout, parameters included; two planes of one name are one plane.
	Name() string
	// BlockBytes is the size of one block of BlockTokens tokens with dim channels.
	BlockBytes(dim int) int
	// Append is called by the cache after tokens [r.From,r.To) of a block were written, in order and never across blocks. dst is the plane's bytes for
	// that block, zero when the block is new.
	Append(dst []byte, r Rows)
}

// Rows is a block of one KV head's keys and values, and which of them are new.
type Rows struct {
	Layer, KVHead int
	K, V          []uint16 // fp16 [BlockTokens][Dim], written up to To
	Dim           int
	From, To      int     // the new tokens, counted from the block's first
	Enc           Encoder // nil: Portable
}

// as reinterprets plane bytes; the cache aligns blocks to 64 bytes.
func as[T uint16 | int32 | float32](b []byte) []T {
	var t T
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(b)/int(unsafe.Sizeof(t)))
}

// Bounds is Quest's page metadata (arXiv 2406.10774): the smallest and the largest key of each channel over each page. Layout of a block, fp16: [dim][2][pages],
// minimum first; lane = page, so that scoring is a plain matrix product. Exact, since keys are fp16 themselves.
type Bounds struct {
	Page int // tokens a page: 8, 16, 32 or 64
}

// Name implements Plane.
func (p Bounds) Name() string { return fmt.Sprintf("bounds:%d", p.Page) }

// BlockBytes implements Plane: 4 bytes a channel and page.
func (p Bounds) BlockBytes(dim int) int { return dim * 2 * (BlockTokens / p.Page) * 2 }

// Append implements Plane: widens the bounds of the pages that the new tokens fall into.
func (p Bounds) Append(dst []byte, r Rows) {
	r.encoder().EncodeBounds(as[uint16](dst), p.Page, r)
}

// The byte layout of packed codes, shared by Int4 and PageRange. Within a page, lane = token: a run of 64 bytes holds channels 4j..4j+3 of 16 tokens, byte 4t+b being
// channel 4j+b of token t; a b-bit plane folds 8/b such runs into one, run r in bits r·b. So one 64-byte load feeds 8/b integer dot products of four channels.
func codePlaneBytes(dim, bits int) int { return (dim*PageTokens*bits/8 + 63) / 64 * 64 }

func putCode(codes []byte, bits, token, channel int, u byte) {
	per := 8 / bits
	run := channel / 4
	codes[run/per*64+token*4+channel%4] |= u << (uint(run%per) * uint(bits))
}

func getCode(codes []byte, bits, token, channel int) byte {
	per := 8 / bits
	run := channel / 4
	return codes[run/per*64+token*4+channel%4] >> (uint(run%per) * uint(bits)) & (1<<bits - 1)
}

// Int4 holds per-token INT4 keys, the paper's estimator (section 1 of the definitions): scale = max(max−min, 1e-9)/15 over the token's channels,
// u = clamp(round((k−min)/scale), 0, 15). Layout of a page: packed 4-bit codes, then fp16 scale[16] and fp16 minimum[16].
type Int4 struct{}

// Name implements Plane.
func (Int4) Name() string { return "int4" }

// PageBytes is the size of one page.
func (Int4) PageBytes(dim int) int { return tokenPageBytes(dim, 4) }

// BlockBytes implements Plane.
func (p Int4) BlockBytes(dim int) int { return p.PageBytes(dim) * BlockPages }

// Append implements Plane.
func (Int4) Append(dst []byte, r Rows) {
	r.encoder().EncodeInt4(dst, r)
}

// PageRange holds keys quantised per channel between the page's own bounds: k ≈ min_c + (max_c − min_c)·u/(2^bits − 1). It needs no scales of its own, since a Bounds
// plane of PageTokens pages stores them. Codes are written when a page is full; the page being filled has none and is always read exactly.
// Layout of a page: packed codes of 1, 2, 4 or 8 bits; 3 bits are a 2-bit plane (the high bits) followed by a 1-bit plane.
type PageRange struct {
	Bits int // 1, 2, 3, 4 or 8
}

// Name implements Plane.
func (p PageRange) Name() string { return fmt.Sprintf("page-range:%d", p.Bits) }

// PageBytes is the size of one page.
func (p PageRange) PageBytes(dim int) int {
	if p.Bits == 3 {
		return codePlaneBytes(dim, 2) + codePlaneBytes(dim, 1)
	}
	return codePlaneBytes(dim, p.Bits)
}

// BlockBytes implements Plane.
func (p PageRange) BlockBytes(dim int) int { return p.PageBytes(dim) * BlockPages }

// Append implements Plane.
func (p PageRange) Append(dst []byte, r Rows) {
	r.encoder().EncodePageRange(dst, p.Bits, r)
}

func (p PageRange) put(page []byte, dim, token, channel int, u byte) {
	if p.Bits == 3 {
		putCode(page, 2, token, channel, u>>1)
		putCode(page[codePlaneBytes(dim, 2):], 1, token, channel, u&1)
		return
	}
	putCode(page, p.Bits, token, channel, u)
}

func (p PageRange) get(page []byte, dim, token, channel int) byte {
	if p.Bits == 3 {
		return getCode(page, 2, token, channel)<<1 | getCode(page[codePlaneBytes(dim, 2):], 1, token, channel)
	}
	return getCode(page, p.Bits, token, channel)
}

// ValueSum holds the sum of each block's values, from which tail compensation takes the mean value. Layout of a block: float32 [dim].
type ValueSum struct{}

// Name implements Plane.
func (ValueSum) Name() string { return "value-sum" }

// BlockBytes implements Plane.
func (ValueSum) BlockBytes(dim int) int { return 4 * dim }

// Append implements Plane.
func (ValueSum) Append(dst []byte, r Rows) {
	r.encoder().SumValues(as[float32](dst), r)
}
