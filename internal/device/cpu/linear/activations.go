package linear

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
)

// panelRows is how many planes of activation rows a kernel takes at once, at most.
const panelRows = 8

// planeSteps is how many steps of a plane are one step of the plane before: what is left of an element after rounding is at
// most half a step, which is 127 steps of the next plane, so codes stay within 8 bits.
const planeSteps = 254

// actBlock is one plane of 32 activations as the integer kernels want them: x[c] ≈ scale·q[c], |q[c]| ≤ 127. A second
// plane's scale is 1/254 of the first's, and x[c] ≈ scale₀·q₀[c] + scale₁·q₁[c].
// The kernels know its layout; actBytes and the field offsets in the generator must agree with it.
type actBlock struct {
	q     [blockCols]int8
	scale float32
	sum   float32  // Σq, exact
	neg   int32    // -Σq
	neg16 [2]int32 // -Σq of columns 0 to 15 and of 16 to 31
}

const actBytes = int(unsafe.Sizeof(actBlock{}))

// Activations are rows of a product's right-hand side: float32 as given, and quantised to one plane or two of 8 bits, in blocks
// of 32 with a float32 scale. One Activations serves every matrix of that width. The zero value is ready for Quantize; its
// memory grows to the largest batch seen and is then reused. Several goroutines may Mul by it at once.
type Activations struct {
	x               []float32
	n, cols, planes int
	// A row's planes count as rows that follow each other, so n·planes in all. Panels of 8 of them, then one of 1, 2, 4 or 8
	// for the rest, padded with rows that are never stored: panel by panel, and within it block by block, the rows' blocks
	// stand together.
	blocks []actBlock
}

// N is the number of rows, Cols the number of elements of each, Planes how many bytes stand for one.
func (a *Activations) N() int      { return a.n }
func (a *Activations) Cols() int   { return a.cols }
func (a *Activations) Planes() int { return a.planes }

// panelWidth is the number of planes of rows, padding included, of the panel that starts at plane i.
func (a *Activations) panelWidth(i int) int {
	switch rest := a.n*a.planes - i; {
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
// The scale of a block is max|x|/127, codes are rounded to nearest even: an error of at most scale/2 an element. Two planes
// quantise what the rounding left once more, at 1/254 of the scale: an error of at most scale/508, beside which float32's own of
// the arithmetic, max|x|·2⁻²², is small. Products take twice the arithmetic and read the weights as often. A block
// with a NaN or an infinity gets a NaN scale, so that the products show it; one whose every |x| < 1e-30 counts as zero.
func Quantize(dst *Activations, x []float32, n, cols, planes int) {
	dst.Reset(x, n, cols, planes)
	dst.QuantizeRows(0, n)
}

// Reset is the first half of Quantize: it makes room. QuantizeRows of every row must follow, on any goroutines. Other than one
// or two planes are a programming error, and panic.
func (a *Activations) Reset(x []float32, n, cols, planes int) {
	if planes != 1 && planes != 2 {
		panic(fmt.Sprintf("linear: activations in %d planes, expected 1 or 2", planes))
	}
	a.x, a.n, a.cols, a.planes = x[:n*cols], n, cols, planes
	if cols%blockCols != 0 {
		return
	}
	rows := n * planes / panelRows * panelRows
	if rows < n*planes {
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
		plane := i * a.planes
		p := plane / panelRows * panelRows
		dst := a.blocks[p*blocks+plane-p:]
		quantize(dst, a.x[i*a.cols:(i+1)*a.cols], a.panelWidth(p), a.planes)
	}
}

const (
	tinyBits = 0x0da24260 // 1e-30: a block below it is zero, so that 127/max never overflows
	infBits  = 0x7f800000
)

// quantizeGeneric fills dst[0:planes], dst[w:w+planes], dst[2w:2w+planes], … from x, 32 elements each.
func quantizeGeneric(dst []actBlock, x []float32, w, planes int) {
	for b := range len(x) / blockCols {
		quantizeBlock(dst[b*w:][:planes], (*[blockCols]float32)(x[b*blockCols:]))
	}
}

// quantizeBlock fills one block of each plane.
func quantizeBlock(planes []actBlock, x *[blockCols]float32) {
	var top uint32 // the largest |x| as bits: they order like the magnitudes, infinity and NaN last
	for _, v := range x {
		top = max(top, math.Float32bits(v)&^(1<<31))
	}
	if top < tinyBits || top >= infBits {
		var scale float32
		if top >= infBits {
			scale = float32(math.NaN())
		}
		for i := range planes {
			planes[i] = actBlock{scale: scale}
		}
		return
	}
	m := math.Float32frombits(top)
	scale, inverse := m/127, 127/m
	var steps [blockCols]float32 // x in steps of the plane at hand
	for c, v := range x {
		steps[c] = v * inverse
	}
	for i := range planes {
		const round = 3 << 22 // added and taken off again, it rounds to an integer, ties to even
		d := &planes[i]
		var half [2]int32
		for c, v := range steps {
			q := float32(v+round) - round
			d.q[c] = int8(q)
			half[c/16] -= int32(q)
			steps[c] = (v - q) * planeSteps
		}
		d.scale = scale
		d.neg16 = half
		d.neg = half[0] + half[1]
		d.sum = float32(-d.neg)
		scale *= 1.0 / planeSteps
	}
}
