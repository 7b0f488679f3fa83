package linear

import (
	"math"
	"unsafe"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
)

// panelRows is how many activation rows a kernel takes at once, at most.
const panelRows = 8

// actBlock is 32 activations as the integer kernels want them: x[c] ≈ scale·q[c], |q[c]| ≤ 127.
// The kernels know its layout; actBytes and the field offsets in the generator must agree with it.
type actBlock struct {
	q     [blockCols]int8
	scale float32
	sum   float32  // Σq, exact
	neg   int32    // -Σq
	neg16 [2]int32 // -Σq of columns 0 to 15 and of 16 to 31
}

const actBytes = int(unsafe.Sizeof(actBlock{}))

// Activations are rows of a product's right-hand side: float32 as given, and quantised to 8 bits in blocks of 32 with
// a float32 scale. One Activations serves every matrix of that width. The zero value is ready for Quantize; its memory
// grows to the largest batch seen and is then reused. Several goroutines may Mul by it at once.
type Activations struct {
	x       []float32
	n, cols int
	// Panels of 8 rows, then one of 1, 2, 4 or 8 for the rest, padded with rows that are never stored: panel by panel,
	// and within it block by block, the rows' blocks stand together.
	blocks []actBlock
}

// N is the number of rows, Cols the number of elements of each.
func (a *Activations) N() int    { return a.n }
func (a *Activations) Cols() int { return a.cols }

// panelWidth is the number of rows, padding included, of the panel that starts at row i.
func (a *Activations) panelWidth(i int) int {
	switch rest := a.n - i; {
	case rest <= 2:
		return rest
	case rest <= 4:
		return 4
	}
	return panelRows
}

// Quantize makes dst hold n rows of cols elements, row-major in x. dst refers to x: x must stay as it is until the
// products are done, because matrices of floats multiply x itself. Where cols is not a multiple of 32, only those can.
//
// The scale of a block is max|x|/127, codes are rounded to nearest even: an error of at most scale/2 an element. A block
// with a NaN or an infinity gets a NaN scale, so that the products show it; one whose every |x| < 1e-30 counts as zero.
func Quantize(dst *Activations, x []float32, n, cols int) {
	dst.Reset(x, n, cols)
	dst.QuantizeRows(0, n)
}

// Reset is the first half of Quantize: it makes room. QuantizeRows of every row must follow, on any goroutines.
func (a *Activations) Reset(x []float32, n, cols int) {
	a.x, a.n, a.cols = x[:n*cols], n, cols
	if cols%blockCols != 0 {
		return
	}
	rows := n / panelRows * panelRows
	if rows < n {
		rows += a.panelWidth(rows)
	}
	need := rows * (cols / blockCols)
	if cap(a.blocks) < need {
		a.blocks = make([]actBlock, need)
	}
	a.blocks = a.blocks[:need]
}

// QuantizeRows quantises rows i0 to i1.
func (a *Activations) QuantizeRows(i0, i1 int) {
	if a.cols%blockCols != 0 {
		return
	}
	quantize := quantizeKernel(isa.Best())
	blocks := a.cols / blockCols
	for i := i0; i < i1; i++ {
		p := i / panelRows * panelRows
		w := a.panelWidth(p)
		dst := a.blocks[p*blocks+i-p:]
		quantize(dst, a.x[i*a.cols:(i+1)*a.cols], w)
	}
}

const (
	tinyBits = 0x0da24260 // 1e-30: a block below it is zero, so that 127/max never overflows
	infBits  = 0x7f800000
)

// quantizeGeneric fills dst[0], dst[w], dst[2w], … from x, 32 elements each.
func quantizeGeneric(dst []actBlock, x []float32, w int) {
	for b := range len(x) / blockCols {
		quantizeBlock(&dst[b*w], (*[blockCols]float32)(x[b*blockCols:]))
	}
}

func quantizeBlock(d *actBlock, x *[blockCols]float32) {
	var top uint32 // the largest |x| as bits: they order like the magnitudes, infinity and NaN last
	for _, v := range x {
		top = max(top, math.Float32bits(v)&^(1<<31))
	}
	var inverse float32
	d.scale = 0
	switch {
	case top >= infBits:
		d.scale = float32(math.NaN())
	case top >= tinyBits:
		m := math.Float32frombits(top)
		d.scale, inverse = m/127, 127/m
	}
	if inverse == 0 {
		*d = actBlock{scale: d.scale}
		return
	}
	const round = 3 << 22 // added and taken off again, it rounds to an integer, ties to even
	var half [2]int32
	for c, v := range x {
		q := int8(float32(float32(v*inverse)+round) - round)
		d.q[c] = q
		half[c/16] -= int32(q)
	}
	d.neg16 = half
	d.neg = half[0] + half[1]
	d.sum = float32(-d.neg)
}
