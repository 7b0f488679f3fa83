package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/tensor"
)

// layout says how a matrix is packed; see kernels/weight.cuh, which numbers the layouts alike.
type layout int32

const (
	w4  layout = iota // 4-bit codes, a scale per 32 inputs
	w4m               // and a minimum
	w5
	w5m
	w6 // a scale per 16 inputs
	w8
	w16 // fp16
)

// layouts describe their units of 32 rows and 32 inputs, in bytes.
var layouts = [...]struct {
	bits           int
	minima, halved bool
	planes, unit   int
}{
	w4: {bits: 4, unit: 576}, w4m: {bits: 4, minima: true, unit: 640},
	w5: {bits: 5, planes: 1, unit: 704}, w5m: {bits: 5, minima: true, planes: 1, unit: 768},
	w6: {bits: 6, halved: true, planes: 2, unit: 896}, w8: {bits: 8, unit: 1088}, w16: {bits: 16, unit: 2048},
}

// A unit is the packed weights of unitRows rows and unitCols inputs, what a warp takes in one turn.
const unitRows, unitCols = 32, 32

// weight is a matrix on the device, packed for the tensor cores. It implements device.Weight.
type weight struct {
	name       string
	rows, cols int
	layout     layout
	factor     float32 // a power of two: what is packed times this is the weights
	data       driver.Ptr
}

// Shape is the number of outputs and inputs.
func (w *weight) Shape() (rows, cols int) { return w.rows, w.cols }

// tiles is the number of rows of units.
func (w *weight) tiles() int { return ceil(w.rows, unitRows) }

// source says which layout takes a block format as it is, and where in a block the codes are. All formats' values are affine in the code, in runs of 16 or 32: with all
// codes at their lowest and at their highest the decoder of package tensor tells the scales.
type source struct {
	layout   layout
	from, to int  // bytes of a block that are codes
	low      byte // their bytes with all codes at the lowest value; the highest is the complement
}

var sources = map[tensor.Type]source{
	tensor.Q4_0: {w4, 2, 18, 0}, tensor.Q4_1: {w4m, 4, 20, 0}, tensor.Q5_0: {w5, 2, 22, 0}, tensor.Q5_1: {w5m, 4, 24, 0}, tensor.Q8_0: {w8, 2, 34, 0x80},
	tensor.Q4_K: {w4m, 16, 144, 0}, tensor.Q5_K: {w5m, 16, 176, 0}, tensor.Q6_K: {w6, 0, 192, 0},
}

// packWeight packs a matrix for the device. Formats that no layout of codes takes become fp16. An error names the matrix and what in it the device cannot compute with.
func packWeight(m device.Matrix) (image []byte, w *weight, err error) {
	w = &weight{name: m.Name, rows: m.Rows, cols: m.Cols, layout: w16, factor: 1}
	fail := func(err error) ([]byte, *weight, error) {
		return nil, nil, fmt.Errorf("cuda: packing %s (%s, %d × %d): %w", m.Name, m.Type, m.Rows, m.Cols, err)
	}
	if m.Rows < 1 || m.Cols < unitCols || m.Cols%unitCols != 0 {
		return fail(fmt.Errorf("expected at least one row and a multiple of %d columns", unitCols))
	}
	rowBytes, err := tensor.RowBytes(m.Type, m.Cols)
	if err != nil {
		return fail(err)
	}
	if len(m.Data)/rowBytes != m.Rows || len(m.Data)%rowBytes != 0 {
		return fail(fmt.Errorf("found %d bytes, expected rows of %d", len(m.Data), rowBytes))
	}
	src, coded := sources[m.Type]
	p := packer{source: src, m: m, rowBytes: rowBytes, factor: 1}
	if p.layout = w16; coded {
		p.layout = src.layout
		if p.factor, err = p.guess(); err != nil {
			return fail(err)
		}
	}
	w.layout = p.layout
	for image, err = p.tiles(w, coded); errors.Is(err, errSteep); image, err = p.tiles(w, coded) {
		p.factor *= 16
	}
	if err != nil {
		return fail(err)
	}
	w.factor = p.factor
	return image, w, nil
}

// errSteep says that a scale or a minimum is too large for the matrix's factor.
var errSteep = errors.New("the factor is too small")

// tiles packs all tiles.
func (p packer) tiles(w *weight, coded bool) (image []byte, err error) {
	tileBytes := p.m.Cols / unitCols * layouts[p.layout].unit
	image = make([]byte, w.tiles()*tileBytes)
	var next atomic.Int64
	var first sync.Once
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), w.tiles()) {
		all.Go(func() {
			p := p
			p.y, p.row, p.lo, p.hi = make([]float32, p.m.Cols), make([]byte, p.rowBytes), make([]float32, p.m.Cols), make([]float32, p.m.Cols)
			for {
				t := int(next.Add(1) - 1)
				if t >= w.tiles() {
					return
				}
				if e := p.tile(image[t*tileBytes:][:tileBytes:tileBytes], t*unitRows, coded); e != nil {
					first.Do(func() { err = e })
					next.Store(int64(w.tiles()))
					return
				}
			}
		})
	}
	all.Wait()
	return image, err
}

// guess is a factor that a few rows leave room with.
func (p packer) guess() (float32, error) {
	const rows = 16
	p.row, p.lo, p.hi = make([]byte, p.rowBytes), make([]float32, p.m.Cols), make([]float32, p.m.Cols)
	var most float32
	for i := range rows {
		if err := p.ends(p.m.Data[i*p.m.Rows/rows*p.rowBytes:][:p.rowBytes]); err != nil {
			return 0, err
		}
		for c, lo := range p.lo {
			if d := p.hi[c] - lo; d > most || -d > most {
				most = max(d, -d)
			}
		}
	}
	most /= float32(uint(1)<<layouts[p.layout].bits - 1)
	if !(most > 0) || math.IsInf(float64(most), 0) {
		return 1, nil
	}
	return float32(math.Ldexp(1, min(max(math.Ilogb(float64(most))+24-12, -16), 24))), nil
}

// packer packs tiles, with the memory that this takes.
type packer struct {
	layout
	source
	m         device.Matrix
	rowBytes  int
	factor    float32
	row       []byte
	y, lo, hi []float32 // values of a row, and with all its codes at the lowest, at the highest
	code      [unitCols]uint32
}

// tile packs rows from first on; those that the matrix lacks stay zero, scales and all.
func (p *packer) tile(dst []byte, first int, coded bool) error {
	for r := range min(unitRows, p.m.Rows-first) {
		row := p.m.Data[(first+r)*p.rowBytes:][:p.rowBytes]
		pack := p.floats
		if coded {
			pack = p.coded
		}
		if err := pack(dst, r, row); err != nil {
			return fmt.Errorf("row %d: %w", first+r, err)
		}
	}
	return nil
}

// floats packs a row as fp16.
func (p *packer) floats(dst []byte, r int, row []byte) error {
	if err := tensor.Decode(p.m.Type, p.y, row); err != nil {
		return err
	}
	for c, v := range p.y {
		h, err := toHalf(v)
		if err != nil {
			return fmt.Errorf("column %d: %w", c, err)
		}
		i := c % unitCols
		at := c/unitCols*layouts[w16].unit + r/8*512 + (r%8*4+i%8/2)*16 + (i/8*2+i%2)*2
		binary.LittleEndian.PutUint16(dst[at:], h)
	}
	return nil
}

// coded packs a row of blocks.
func (p *packer) coded(dst []byte, r int, row []byte) error {
	if err := tensor.Decode(p.m.Type, p.y, row); err != nil {
		return err
	}
	if err := p.ends(row); err != nil {
		return err
	}
	for c, unit := 0, layouts[p.layout].unit; c < len(p.y); c, dst = c+unitCols, dst[unit:] {
		if err := p.unit(dst[:unit], r, c); err != nil {
			return err
		}
	}
	return nil
}

// ends finds a row's values with all codes at the lowest, and at the highest.
func (p *packer) ends(row []byte) error {
	copy(p.row, row)
	for _, end := range []struct {
		y    []float32
		fill byte
	}{{p.lo, p.low}, {p.hi, ^p.low}} {
		for block, size := p.row, p.m.Type.BlockBytes(); len(block) > 0; block = block[size:] {
			codes := block[p.from:p.to]
			for i := range codes {
				codes[i] = end.fill
			}
		}
		if err := tensor.Decode(p.m.Type, end.y, p.row); err != nil {
			return err
		}
	}
	return nil
}

// unit packs the row's values from y[from] on into a unit.
func (p *packer) unit(dst []byte, r, from int) error {
	l := layouts[p.layout]
	g, j := r%8, r/8
	run := unitCols
	if l.halved {
		run = unitCols / 2
	}
	codes := 512
	if l.bits == 8 {
		codes = 1024
	}
	scales := dst[codes+128*l.planes:]
	for i := 0; i < unitCols; i += run {
		lo, hi := p.lo[from+i], p.hi[from+i]
		top := float32(uint(1)<<l.bits - 1)
		step := (hi - lo) / top
		if _, err := toHalf(step); err != nil {
			return fmt.Errorf("scale of the columns from %d on: %w", from+i, err)
		}
		scale, err := toHalf(step * (1 << 24) / p.factor)
		if err != nil {
			return errSteep
		}
		switch {
		case l.minima:
			if _, err := toHalf(lo); err != nil {
				return fmt.Errorf("minimum of the columns from %d on: %w", from+i, err)
			}
			minimum, err := toHalf(lo / p.factor)
			if err != nil {
				return errSteep
			}
			binary.LittleEndian.PutUint16(scales[g*16+j*4:], scale)
			binary.LittleEndian.PutUint16(scales[g*16+j*4+2:], minimum)
		case l.halved:
			binary.LittleEndian.PutUint16(scales[g*16+j/2*8+i/run*4+j%2*2:], scale)
		default:
			binary.LittleEndian.PutUint16(scales[g*8+j*2:], scale)
		}
		inverse := 1 / step
		for c, y := range p.y[from+i:][:run] {
			p.code[i+c] = 0
			if v := (y-lo)*inverse + 0.5; v > 0 { // neither is a NaN, which 0·∞ gives where the scale is zero
				p.code[i+c] = uint32(min(v, top))
			}
		}
	}
	for t := range 4 {
		var own [8]uint32
		for i := range own {
			own[i] = p.code[i/2*8+t*2+i%2]
		}
		p.lane(dst, l.bits, codes, g*4+t, j, own[:])
	}
	return nil
}

// lane stores the eight codes of a lane's row j.
func (p *packer) lane(dst []byte, bits, planes, lane, j int, code []uint32) {
	if bits == 8 {
		at := dst[j/2*512+lane*16+j%2*8:][:8]
		for i, q := range code {
			at[i] = byte(q)
		}
		return
	}
	var low, high uint32
	index, turn := j*2, 4 // of the plane's shifts, see plane() in weight.cuh
	if bits == 6 {
		index, turn = j%2*2, 2
	}
	for pair := range 4 {
		q := code[2*pair] | code[2*pair+1]<<16
		low |= q & 0x000f000f << (4 * pair)
		shift := (bits - 4) * (index + pair/2)
		if index+pair/2 < turn {
			shift -= 4
		}
		high |= q >> 4 & 0x000f000f << (4 + pair%2*4 + shift)
	}
	binary.LittleEndian.PutUint32(dst[lane*16+j*4:], low)
	if bits > 4 {
		words := dst[planes+lane*4*(bits-4):]
		at := words[j/(4/(bits-4))*4:]
		binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)|high)
	}
}

// toHalf rounds to fp16, which must be able to hold the value.
func toHalf(v float32) (uint16, error) {
	h := tensor.F32ToF16(v)
	if h&0x7c00 == 0x7c00 {
		return 0, fmt.Errorf("%g does not fit fp16, expected at most %g in size", v, float32(math.MaxUint16-31))
	}
	return h, nil
}
