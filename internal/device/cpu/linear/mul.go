package linear

import (
	"fmt"
	"math/bits"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
)

// kernels are a matrix's assembly at one instruction-set level, by the base-2 logarithm of how many activation rows each
// takes. Where there are none, the portable loops run.
type kernels struct {
	quant [4]quantKernel
	float [4]floatKernel
	width int // the most activation rows that one takes, 0 where there are none
}

// A quantKernel is format.mulGeneric with a fixed width: it stores the first n of its rows, of planes planes each. step is the
// distance in bytes between an activation row's blocks, stride that between the rows of dst in elements. Weights that far ahead, in bytes, are asked for.
type quantKernel func(w *byte, rows, blocks int, x *int8, step int, dst *float32, stride, n, planes, ahead int)

// A floatKernel is floatFormat.mulGeneric for as many rows as it is made for, cols elements apart in x.
type floatKernel func(w *byte, rows, cols int, x *float32, dst *float32, stride int)

// chunkBytes is how much of the activations a pass over the weights uses: about half of a core's second-level cache, so
// that the tile of weights, the activations and what streams past have room together.
const chunkBytes = 512 << 10

// streamAhead is how far ahead a stream of weights is asked for.
const streamAhead = 4 << 10

// Mul computes dst[i*stride+r] = Σ_c W[r,c]·x[i,c] for all rows i of x and r0 ≤ r < r1, and touches nothing else of dst.
// r0 is a multiple of RowTile, and r1 too unless it is Rows. Goroutines may call it at once on disjoint ranges, which may be
// single tiles: longer ones are faster only for hundreds of rows in two planes of several thousand columns, by a quarter. It
// allocates nothing. Operands that do not fit are a programming error, and panic.
func (m *Matrix) Mul(dst []float32, stride int, x *Activations, r0, r1 int) {
	if x.cols != m.cols || r0 < 0 || r1 > m.rows || r0 > r1 || r0%RowTile != 0 || r1%RowTile != 0 && r1 != m.rows || x.n > 1 && stride < r1 {
		panic(fmt.Sprintf("linear: product of rows %d to %d of %d × %d by %d × %d at stride %d", r0, r1, m.rows, m.cols, x.n, x.cols, stride))
	}
	if x.n == 0 || r0 == r1 {
		return
	}
	_ = dst[(x.n-1)*stride+r1-1]
	k := &m.asm[isa.Best()]
	rowBytes := m.cols * 4
	if m.quant != nil {
		rowBytes = m.cols / blockCols * actBytes * x.planes
	}
	chunk := max(chunkBytes/rowBytes/panelRows, 1) * panelRows
	for i := 0; i < x.n; i += chunk {
		n := min(chunk, x.n-i)
		step := RowTile
		if n*x.planes <= k.width || k.width == 0 {
			step = r1 - r0 // the weights pass by once: in one call
		}
		for r := r0; r < r1; r += step {
			if rows := min(step, r1-r); m.quant != nil {
				m.mulQuant(k, dst, stride, x, i, n, r, rows)
			} else {
				m.mulFloat(k, dst, stride, x, i, n, r, rows)
			}
		}
	}
}

// mulQuant takes the n activation rows from i on, panel by panel.
func (m *Matrix) mulQuant(k *kernels, dst []float32, stride int, x *Activations, i, n, r, rows int) {
	w := m.data[r/RowTile*m.tile:]
	blocks := m.cols / blockCols
	ahead := streamAhead
	if n*x.planes > panelRows {
		ahead = m.tile // which comes again for every panel: while it does, memory brings the next
	}
	for p, end := i*x.planes, (i+n)*x.planes; p < end; p += panelRows {
		width := x.panelWidth(p)
		panel := x.blocks[p*blocks:][:width*blocks]
		valid := min(width, end-p)
		out := dst[p/x.planes*stride+r:]
		if k.width == 0 {
			m.quant.mulGeneric(w, rows, blocks, panel, width, out, stride, valid/x.planes, x.planes)
			continue
		}
		for j := 0; j < valid; j += k.width {
			k.quant[bits.TrailingZeros(uint(min(width, k.width)))](&w[0], rows, blocks, &panel[j].q[0], width*actBytes, &out[j/x.planes*stride], stride, (valid-j)/x.planes, x.planes, ahead)
		}
	}
}

// mulFloat takes the n activation rows from i on, in the largest groups that there is a kernel for.
func (m *Matrix) mulFloat(k *kernels, dst []float32, stride int, x *Activations, i, n, r, rows int) {
	w := m.data[r/RowTile*m.tile:]
	if k.width == 0 {
		m.float.mulGeneric(w, rows, m.cols, x.x[i*m.cols:], dst[i*stride+r:], stride, n)
		return
	}
	for end := i + n; i < end; {
		width := k.width
		for width > end-i {
			width /= 2
		}
		k.float[bits.TrailingZeros(uint(width))](&w[0], rows, m.cols, &x.x[i*m.cols], &dst[i*stride+r], stride)
		i += width
	}
}
