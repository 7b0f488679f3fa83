// Package linear owns the CPU's products of quantised weights with activations: matrix times vector when a sequence
// decodes, matrix times matrix for prompts and batches.
//
// A Matrix is a weight tensor repacked once for vector units, an Activations is the other operand, quantised once for
// all the matrices it meets. Row i of a batch comes out bit for bit as it would alone, however the rows are divided among
// workers, and at every instruction-set level: integer sums are exact, and float sums run over blocks of 32 columns in
// one order everywhere.
package linear

import (
	"fmt"
	"math"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/tensor"
)

// Runner runs f on disjoint ranges that together cover 0 to n, perhaps at once on several goroutines, and returns when
// all are done. A nil Runner stands for one call on the caller's goroutine.
type Runner func(n int, f func(lo, hi int))

func (r Runner) run(n int, f func(lo, hi int)) {
	if r == nil {
		f(0, n)
		return
	}
	r(n, f)
}

// Matrix is a weight matrix, rows × cols, prepared for this machine in memory of its own; what it was packed from is not
// needed any more. It is read-only: any number of goroutines may use it, until Close.
type Matrix struct {
	typ        tensor.Type
	rows, cols int
	data       []byte
	slab       *slab
	tile       int // bytes of RowTile rows

	quant *format      // how products are taken: in integers,
	float *floatFormat // or in float32
	asm   [isa.AVX512 + 1]kernels
}

// Pack prepares a matrix of rows × cols elements of t, row-major in data as GGUF stores it. It spreads the work with run.
//
// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL and IQ4_XS keep their codes and scales, at 1.00 to 1.03 times the
// file's size, and are multiplied in integers. F16, BF16 and F32 keep their elements and are multiplied in float32. Every
// other type that tensor.Decode knows is decoded: block formats to F16 where the matrix's range fits it (an error of
// 2⁻¹¹ of a weight), else to F32. It fails on sizes that do not fit data, on types with no decoder, and without memory.
func Pack(t tensor.Type, rows, cols int, data []byte, run Runner) (*Matrix, error) {
	rowBytes, err := tensor.RowBytes(t, cols)
	if err != nil {
		return nil, fmt.Errorf("linear: packing a matrix: %w", err)
	}
	if rows < 1 || cols < 1 || len(data)/rowBytes != rows || len(data)%rowBytes != 0 {
		return nil, fmt.Errorf("linear: packing a %d × %d matrix of %s: found %d bytes, expected rows of %d bytes", rows, cols, t, len(data), rowBytes)
	}
	m := &Matrix{typ: t, rows: rows, cols: cols, quant: formats[t]}
	if m.quant != nil {
		m.tile = m.quant.tileBytes(cols)
	} else {
		if m.float, err = chooseFloat(t, cols, data); err != nil {
			return nil, fmt.Errorf("linear: packing a matrix: %w", err)
		}
		m.tile = cols * RowTile * m.float.size
	}
	tiles := (rows + RowTile - 1) / RowTile
	if m.tile > math.MaxInt/tiles {
		return nil, fmt.Errorf("linear: packing a %d × %d matrix of %s: its size overflows an address", rows, cols, t)
	}
	if m.data, m.slab, err = allocate(tiles * m.tile); err != nil {
		return nil, fmt.Errorf("linear: packing a %d × %d matrix of %s: %w", rows, cols, t, err)
	}
	run.run(tiles, func(lo, hi int) {
		scratch := make([]float32, cols)
		for i := lo; i < hi; i++ {
			dst := m.data[i*m.tile:][:m.tile]
			src := data[i*RowTile*rowBytes:][:min(RowTile, rows-i*RowTile)*rowBytes]
			if m.quant != nil {
				m.quant.pack(dst, src, rowBytes, cols)
			} else {
				m.float.pack(dst, src, rowBytes, t, scratch)
			}
		}
	})
	for l := range m.asm {
		m.asm[l] = kernelsFor(m, isa.Level(l))
	}
	return m, nil
}

// Rows and Cols are the matrix's shape, Type the format it was packed from, Bytes the memory that a product reads.
func (m *Matrix) Rows() int         { return m.rows }
func (m *Matrix) Cols() int         { return m.cols }
func (m *Matrix) Type() tensor.Type { return m.typ }
func (m *Matrix) Bytes() int        { return len(m.data) }

// Row dequantises row i into dst, Cols long: an embedding look-up. The values are tensor.Decode's, bit for bit, except in
// types that Pack stores as F16.
func (m *Matrix) Row(i int, dst []float32) {
	t := m.data[i/RowTile*m.tile:][:m.tile]
	dst = dst[:m.cols]
	if m.quant != nil {
		m.quant.row(t, i%RowTile, dst)
		return
	}
	for c := range dst {
		dst[c] = m.float.load(t[(c*RowTile+i%RowTile)*m.float.size:])
	}
}

// Close frees the matrix's memory. Nothing may use the matrix during or after it, except another Close, which does nothing.
func (m *Matrix) Close() error {
	data := m.data
	m.data = nil
	if data == nil {
		return nil
	}
	return release(data, m.slab)
}
