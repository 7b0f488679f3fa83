package linear

import (
	"math"

	"github.com/twilight-go/twilight/internal/tensor"
)

// The loops here are what every assembly kernel computes, and the oracle that each is held against, bit for bit: integer
// sums are exact, and float operations are rounded one by one in the order written (no fused multiply-add, which the
// explicit conversions rule out on machines where Go would fuse).

// tileScales are the float scales of one record and row: weight = d·(q-offset) + m, for each half of the columns.
type tileScales struct{ d, m [2]float32 }

func (k scaleKind) read(head, record []byte, r int) (s tileScales) {
	half := func(b []byte) float32 { return tensor.F16ToF32(u16(b[2*r:])) }
	switch k {
	case scaleD, scaleDM:
		s.d[0] = half(record)
		if k == scaleDM {
			s.m[0] = half(record[f16Row:])
		}
		s.d[1], s.m[1] = s.d[0], s.m[0]
	case scaleK:
		s.d[0] = half(head) * float32(record[r])
		s.m[0] = -half(head[f16Row:]) * float32(record[RowTile+r])
		s.d[1], s.m[1] = s.d[0], s.m[0]
	case scaleKS:
		s.d[0] = half(head) * float32(int8(record[r]))
		s.d[1] = s.d[0]
	case scaleK16:
		for i := range 2 {
			s.d[i] = half(head) * float32(int8(record[i*RowTile+r]))
		}
	case scaleK16M:
		for i := range 2 {
			v := record[i*RowTile+r]
			s.d[i] = half(head) * float32(v&15)
			s.m[i] = -half(head[f16Row:]) * float32(v>>4)
		}
	}
	return s
}

// mulGeneric multiplies rows rows, whole tiles from w on (the last may be partial), by the first n rows of one panel, width
// planes wide: dst[i*stride+r] = Σ_planes Σ_b scale_b·(d·(Σ_c q·x - offset·Σ_c x) + m·Σ_c x).
func (f *format) mulGeneric(w []byte, rows, blocks int, x []actBlock, width int, dst []float32, stride, n, planes int) {
	tile := f.tileBytes(blocks * blockCols)
	var codes rowCodes
	var acc [panelRows]float32
	for r := range rows {
		t, lane := w[r/RowTile*tile:][:tile], r%RowTile
		clear(acc[:n*planes])
		for b := range blocks {
			head, record := f.recordAt(b)
			s := f.scales.read(t[head:], t[record:], lane)
			f.codes.get(t[record+f.scales.record():], lane, &codes)
			for i := range n * planes {
				a := &x[b*width+i]
				v := f.blockProduct(&s, &codes, a)
				acc[i] += float32(v * a.scale)
			}
		}
		for i := range n {
			v := acc[i*planes]
			if planes == 2 {
				v += acc[i*planes+1]
			}
			dst[i*stride+r] = v
		}
	}
}

// blockProduct is the product of 32 weights with 32 activation codes.
func (f *format) blockProduct(s *tileScales, codes *rowCodes, a *actBlock) float32 {
	var dot [2]int32
	for g, c := range codes {
		q := a.q[4*g : 4*g+4 : 4*g+4]
		dot[g/4] += int32(uint8(c))*int32(q[0]) + int32(uint8(c>>8))*int32(q[1]) +
			int32(uint8(c>>16))*int32(q[2]) + int32(c>>24)*int32(q[3])
	}
	switch f.scales {
	case scaleK16, scaleK16M:
		lo, hi := float32(dot[0]+f.offset*a.neg16[0]), float32(dot[1]+f.offset*a.neg16[1])
		v := float32(s.d[0]*lo) + float32(s.d[1]*hi)
		if f.scales == scaleK16M {
			v += float32(s.m[0]*float32(-a.neg16[0])) + float32(s.m[1]*float32(-a.neg16[1]))
		}
		return v
	}
	v := float32(s.d[0] * float32(dot[0]+dot[1]+f.offset*a.neg))
	if f.scales == scaleDM || f.scales == scaleK {
		v += float32(s.m[0] * a.sum)
	}
	return v
}

// row dequantises row lane of a tile, to the same bits as tensor.Decode.
func (f *format) row(t []byte, lane int, dst []float32) {
	var codes rowCodes
	for b := range len(dst) / blockCols {
		head, record := f.recordAt(b)
		s := f.scales.read(t[head:], t[record:], lane)
		f.codes.get(t[record+f.scales.record():], lane, &codes)
		for c := range blockCols {
			q := int32(uint8(codes[c/4]>>(c%4*8))) - f.offset
			v := float32(s.d[c/16] * float32(q))
			if m := s.m[c/16]; f.offset == 0 {
				v += m
			}
			dst[b*blockCols+c] = v
		}
	}
}

// floatFormat is the packed form of a matrix whose products are taken in float32: column after column, the 16 rows of
// a tile side by side.
type floatFormat struct {
	size int // bytes an element
	load func(b []byte) float32
}

var (
	floatF16  = &floatFormat{2, func(b []byte) float32 { return tensor.F16ToF32(u16(b)) }}
	floatBF16 = &floatFormat{2, func(b []byte) float32 { return tensor.BF16ToF32(u16(b)) }}
	floatF32  = &floatFormat{4, func(b []byte) float32 { return math.Float32frombits(u32(b)) }}
)

// mulGeneric is the product with n rows of x, cols elements each:
// dst[i*stride+r] = Σ_b Σ_{c in b} w[r,c]·x[i,c], b being 32 columns, or fewer at the end, summed before they are added.
func (f *floatFormat) mulGeneric(w []byte, rows, cols int, x []float32, dst []float32, stride, n int) {
	for r := range rows {
		t, lane := w[r/RowTile*cols*RowTile*f.size:], r%RowTile
		for i := range n {
			xi := x[i*cols : (i+1)*cols]
			var acc float32
			for b := 0; b < cols; b += blockCols {
				var part float32
				for c := b; c < min(b+blockCols, cols); c++ {
					part += float32(f.load(t[(c*RowTile+lane)*f.size:]) * xi[c])
				}
				acc += part
			}
			dst[i*stride+r] = acc
		}
	}
}
