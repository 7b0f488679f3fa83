package attention

import "math"

// The units of the cache. A page is the granule of metadata and of selection; a block is the granule of allocation and sharing. Sixteen tokens fill one
// vector register (lane = token) and sixteen pages another (lane = page), so that neither codes nor metadata ever need a horizontal sum.
const (
	PageTokens  = 16
	BlockPages  = 16
	BlockTokens = PageTokens * BlockPages
)

// BlocksOf is how many blocks hold so many tokens.
func BlocksOf(tokens int) int { return (tokens + BlockTokens - 1) / BlockTokens }

// Head is one KV head of one layer of one sequence: its tokens in order, and the planes kept beside them. It is a view of memory that the cache owns:
// valid until the sequence next grows, forks or is released. Keys are post-RoPE.
type Head struct {
	Dim       int      // channels of a key and of a value
	N         int      // tokens
	Table     []int32  // block table: block b of the sequence is block Table[b] of every slab; at least ceil(N/BlockTokens) entries
	K, V      []uint16 // fp16 slabs: token t of block id at [(id*BlockTokens+t)*Dim:]
	Planes    [][]byte // slabs of derived data, block id of plane p at [id*PlaneSize[p]:]
	PlaneSize []int    // bytes a block
}

// Row is where token i stands in the slabs, in rows.
func (h *Head) Row(i int) int32 { return h.Table[i/BlockTokens]*BlockTokens + int32(i%BlockTokens) }

// Keys are the fp16 keys of block b of the sequence, [BlockTokens][Dim]; only the first N−b·BlockTokens rows are written.
func (h *Head) Keys(b int) []uint16 { return h.block(h.K, b) }

// Values are the fp16 values of block b, laid out as Keys.
func (h *Head) Values(b int) []uint16 { return h.block(h.V, b) }

func (h *Head) block(s []uint16, b int) []uint16 {
	n := BlockTokens * h.Dim
	o := int(h.Table[b]) * n
	return s[o : o+n : o+n]
}

// Plane is block b of plane p.
func (h *Head) Plane(p, b int) []byte {
	n := h.PlaneSize[p]
	o := int(h.Table[b]) * n
	return h.Planes[p][o : o+n : o+n]
}

// Blocks is the number of blocks that hold the head's tokens.
func (h *Head) Blocks() int { return BlocksOf(h.N) }

// Pages is the number of pages of PageTokens that hold the head's tokens.
func (h *Head) Pages() int { return (h.N + PageTokens - 1) / PageTokens }

var negInf = float32(math.Inf(-1))

// full is the mask of the lanes of a page that hold one of n tokens counted from the page's first.
func laneMask(n int) uint16 {
	if n >= PageTokens {
		return 0xffff
	}
	return uint16(1)<<max(n, 0) - 1
}
