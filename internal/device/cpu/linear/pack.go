package linear

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/twilight-go/twilight/internal/tensor"
)

// pack fills one tile from its rows; rows that the matrix lacks stay zero, scales and all.
func (f *format) pack(dst, rows []byte, rowBytes, cols int) {
	perBlock := 1
	if f.scales.head() > 0 {
		perBlock = superCols / blockCols
	}
	blockBytes := rowBytes / (cols / blockCols / perBlock)
	var s source
	for b := range cols / blockCols {
		head, record := f.recordAt(b)
		for r := range len(rows) / rowBytes {
			f.split(&s, rows[r*rowBytes+b/perBlock*blockBytes:][:blockBytes:blockBytes], b%perBlock)
			f.scales.write(dst[head:], dst[record:], r, &s)
			f.codes.put(dst[record+f.scales.record():], r, &s.codes)
		}
	}
}

// write stores the scales of row r in a head and a record.
func (k scaleKind) write(head, record []byte, r int, s *source) {
	half := func(b []byte, v uint16) { binary.LittleEndian.PutUint16(b[2*r:], v) }
	switch k {
	case scaleD, scaleDM:
		half(record, s.d)
		if k == scaleDM {
			half(record[f16Row:], s.m)
		}
	case scaleK:
		half(head, s.d)
		half(head[f16Row:], s.m)
		record[r], record[RowTile+r] = s.s[0], s.t[0]
	case scaleKS:
		half(head, s.d)
		record[r] = s.s[0]
	case scaleK16:
		half(head, s.d)
		record[r], record[RowTile+r] = s.s[0], s.s[1]
	case scaleK16M:
		half(head, s.d)
		half(head[f16Row:], s.m)
		for i := range 2 {
			record[i*RowTile+r] = s.s[i] | s.t[i]<<4
		}
	}
}

// chooseFloat says in which float form a matrix of t is kept. For a block format without a packed form of its own that
// takes a pass over data, whose decoding cannot fail afterwards.
func chooseFloat(t tensor.Type, cols int, data []byte) (*floatFormat, error) {
	switch t {
	case tensor.F16:
		return floatF16, nil
	case tensor.BF16:
		return floatBF16, nil
	}
	if t.BlockLen() == 1 {
		return floatF32, tensor.Decode(t, nil, nil)
	}
	top := float32(0)
	row := make([]float32, cols)
	for rowBytes := cols / t.BlockLen() * t.BlockBytes(); len(data) > 0; data = data[rowBytes:] {
		if err := tensor.Decode(t, row, data[:rowBytes]); err != nil {
			return nil, err
		}
		for _, v := range row {
			if v = float32(math.Abs(float64(v))); !(v <= top) {
				top = v
			}
		}
	}
	// From 2⁻⁸ on, the absolute step of small halves, 2⁻²⁵, is at most 2⁻¹⁷ of the largest weight.
	if top >= 1.0/256 && top <= 65504 {
		return floatF16, nil
	}
	return floatF32, nil
}

// pack fills one tile from its rows; rows that the matrix lacks stay zero. scratch holds a row.
func (f *floatFormat) pack(dst, rows []byte, rowBytes int, t tensor.Type, scratch []float32) {
	for r := range len(rows) / rowBytes {
		src, out := rows[r*rowBytes:][:rowBytes], dst[r*f.size:]
		switch t {
		case tensor.F16, tensor.BF16:
			for c := range len(src) / 2 {
				binary.LittleEndian.PutUint16(out[c*RowTile*2:], u16(src[c*2:]))
			}
			continue
		}
		if err := tensor.Decode(t, scratch, src); err != nil {
			panic(fmt.Sprintf("linear: %v, after it was checked", err))
		}
		for c, v := range scratch {
			if f == floatF16 {
				binary.LittleEndian.PutUint16(out[c*RowTile*2:], tensor.F32ToF16(v))
			} else {
				binary.LittleEndian.PutUint32(out[c*RowTile*4:], math.Float32bits(v))
			}
		}
	}
}
