package linear

import (
	"encoding/binary"

	"github.com/twilight-go/twilight/internal/tensor"
)

// RowTile is how many rows are stored interleaved, one row a vector lane. Row ranges given to Mul start at its multiples.
const RowTile = 16

const (
	blockCols = 32 // columns that share one activation scale: the unit of every integer dot product
	superCols = 256
	f16Row    = 2 * RowTile // bytes of one float16 for each row of a tile
)

// A packed matrix is a sequence of tiles of RowTile rows. A tile is a sequence of records, each holding 32 columns of
// all its rows: scales, then codes. The K formats put a head before every eighth record, with the scales of 256 columns.
// The kernels therefore read one stream from front to back.
//
// A code is a small unsigned number; group g of a record is its columns 4g to 4g+3, and the four codes of one row and
// one group are the four bytes of a 32-bit word. Sixteen words, row after row, make the 64 bytes that one vector dot
// product consumes. Codes of less than 8 bits share these words as codeKind says.
type codeKind int

const (
	codes2   codeKind = iota // word p of 2: groups 4p to 4p+3 in bits 0, 2, 4 and 6 of each byte
	codes3                   // codes2, then one word of the third bits: group g in bit g of each byte
	codes4                   // word p of 4: group p in the low, group p+4 in the high nibbles
	codes5                   // codes4, then one word of the fifth bits as in codes3
	codes6                   // codes4, then two words of the upper two bits as in codes2
	codes8                   // word g of 8: group g
	codes4NL                 // codes4 that index the table nonlinear
)

// words is the number of 32-bit words a row and record.
func (k codeKind) words() int { return [...]int{2, 3, 4, 5, 6, 8, 4}[k] }

// nonlinear are the 16 values of IQ4_NL and IQ4_XS, plus 128.
var nonlinear = [16]uint8{1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241}

// rowCodes are 32 codes of one row, in columns' order: byte k of word g is column 4g+k.
type rowCodes [8]uint32

const (
	lane1 = 0x01010101 // one bit in each byte of a word, and so on
	lane2 = lane1 * 0x03
	lane3 = lane1 * 0x07
	lane4 = lane1 * 0x0f
	lane5 = lane1 * 0x1f
	lane6 = lane1 * 0x3f
)

// put stores the codes of row r into the codes of a record.
func (k codeKind) put(b []byte, r int, c *rowCodes) {
	word := func(i int, v uint32) { binary.LittleEndian.PutUint32(b[i*64+r*4:], v) }
	switch k {
	case codes2, codes3:
		var w [3]uint32
		for g, x := range c {
			w[g/4] |= x & lane2 << (g % 4 * 2)
			w[2] |= x >> 2 & lane1 << g
		}
		for i := range k.words() {
			word(i, w[i])
		}
	case codes8:
		for g, x := range c {
			word(g, x)
		}
	case codes5: // most groups come out by one operation, where separate fifth bits would take three each
		word(0, c[0]|c[5]&lane3<<5)
		word(1, c[1]|c[5]>>3&lane2<<5|c[7]>>3&lane1<<7)
		word(2, c[2]|c[6]&lane3<<5)
		word(3, c[3]|c[6]>>3&lane2<<5|c[7]>>4&lane1<<7)
		word(4, c[4]|c[7]&lane3<<5)
	case codes6:
		for i := range 3 {
			word(i, c[i]|c[6]>>(2*i)&lane2<<6)
			word(i+3, c[i+3]|c[7]>>(2*i)&lane2<<6)
		}
	default:
		for j := range 4 {
			word(j, c[j]|c[j+4]<<4)
		}
	}
}

// get is the inverse of put; it also looks codes4NL up in their table.
func (k codeKind) get(b []byte, r int, c *rowCodes) {
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(b[i*64+r*4:]) }
	switch k {
	case codes2, codes3:
		lo, hi := word(0), word(1)
		for j := range 4 {
			c[j], c[j+4] = lo>>(2*j)&lane2, hi>>(2*j)&lane2
		}
		if k == codes3 {
			h := word(2)
			for g := range c {
				c[g] |= h >> g & lane1 << 2
			}
		}
	case codes8:
		for g := range c {
			c[g] = word(g)
		}
	case codes5:
		var w [5]uint32
		for i := range w {
			w[i] = word(i)
			c[i] = w[i] & lane5
		}
		c[5] = w[0]>>5&lane3 | w[1]>>5&lane2<<3
		c[6] = w[2]>>5&lane3 | w[3]>>5&lane2<<3
		c[7] = w[4]>>5&lane3 | w[1]>>7&lane1<<3 | w[3]>>7&lane1<<4
	case codes6:
		c[6], c[7] = 0, 0
		for i := range 3 {
			lo, hi := word(i), word(i+3)
			c[i], c[i+3] = lo&lane6, hi&lane6
			c[6] |= lo >> 6 & lane2 << (2 * i)
			c[7] |= hi >> 6 & lane2 << (2 * i)
		}
	default:
		for j := range 4 {
			v := word(j)
			c[j], c[j+4] = v&lane4, v>>4&lane4
		}
		if k == codes4NL {
			for g, v := range c {
				c[g] = uint32(nonlinear[v&15]) | uint32(nonlinear[v>>8&15])<<8 |
					uint32(nonlinear[v>>16&15])<<16 | uint32(nonlinear[v>>24&15])<<24
			}
		}
	}
}

// scaleKind says what a code q weighs; d, m are float16 of the file, s and t small integers.
type scaleKind int

const (
	scaleD    scaleKind = iota // record: d.                      weight d·(q-offset)
	scaleDM                    // record: d, m.                   weight d·q + m
	scaleK                     // head: d, m; record: s, t bytes. weight d·s·q - m·t
	scaleKS                    // head: d;    record: s int8.     weight d·s·(q-offset)
	scaleK16                   // head: d;    record: s int8 of columns 0-15, then of 16-31. weight d·s·(q-offset)
	scaleK16M                  // head: d, m; record: s + 16·t of columns 0-15, then of 16-31. weight d·s·q - m·t
)

// head and record are the bytes of scales before eight records and within each.
func (k scaleKind) head() int { return [...]int{0, 0, 2 * f16Row, f16Row, f16Row, 2 * f16Row}[k] }
func (k scaleKind) record() int {
	return [...]int{f16Row, 2 * f16Row, f16Row, RowTile, f16Row, f16Row}[k]
}

// format is the packed form of one tensor type whose products are taken in integers.
type format struct {
	codes  codeKind
	scales scaleKind
	offset int32 // a power of two, subtracted from every code; 0 where a minimum or m does that
	split  func(dst *source, block []byte, b int)
}

// recordBytes are the bytes of 16 rows and 32 columns, without the head.
func (f *format) recordBytes() int { return f.scales.record() + f.codes.words()*64 }

// tileBytes are the bytes of 16 rows of cols columns.
func (f *format) tileBytes(cols int) int {
	return cols/blockCols*f.recordBytes() + cols/superCols*f.scales.head()
}

// recordAt is the offset within a tile of record b, and that of the head it belongs to.
func (f *format) recordAt(b int) (head, record int) {
	h := f.scales.head()
	if h == 0 {
		return 0, b * f.recordBytes()
	}
	const n = superCols / blockCols
	head = b / n * (h + n*f.recordBytes())
	return head, head + h + b%n*f.recordBytes()
}

var formats = map[tensor.Type]*format{
	tensor.Q4_0:   {codes4, scaleD, 8, splitQ4x},
	tensor.Q4_1:   {codes4, scaleDM, 0, splitQ4x},
	tensor.Q5_0:   {codes5, scaleD, 16, splitQ5_0},
	tensor.Q5_1:   {codes5, scaleDM, 0, splitQ5_1},
	tensor.Q8_0:   {codes8, scaleD, 128, splitQ8_0},
	tensor.IQ4_NL: {codes4NL, scaleD, 128, splitQ4x},
	tensor.Q2_K:   {codes2, scaleK16M, 0, splitQ2_K},
	tensor.Q3_K:   {codes3, scaleK16, 4, splitQ3_K},
	tensor.Q4_K:   {codes4, scaleK, 0, splitQ4_K},
	tensor.Q5_K:   {codes5, scaleK, 0, splitQ5_K},
	tensor.Q6_K:   {codes6, scaleK16, 32, splitQ6_K},
	tensor.IQ4_XS: {codes4NL, scaleKS, 128, splitIQ4_XS},
}
