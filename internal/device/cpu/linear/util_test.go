package linear

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/tensor"
)

// quantTypes are the formats multiplied in integers, floatTypes those multiplied in float32, decodedTypes some of those
// that are decoded first. The tables of the package must not hold a format that is missing here.
var (
	quantTypes = []tensor.Type{tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q8_0, tensor.IQ4_NL,
		tensor.Q2_K, tensor.Q3_K, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K, tensor.IQ4_XS}
	floatTypes   = []tensor.Type{tensor.F16, tensor.BF16, tensor.F32}
	decodedTypes = []tensor.Type{tensor.F64, tensor.IQ2_S, tensor.IQ3_XXS, tensor.IQ1_M, tensor.TQ2_0, tensor.Q8_K}
)

// halves are the offsets of a block's float16 scales.
var halves = map[tensor.Type][]int{
	tensor.Q4_0: {0}, tensor.Q4_1: {0, 2}, tensor.Q5_0: {0}, tensor.Q5_1: {0, 2}, tensor.Q8_0: {0}, tensor.IQ4_NL: {0},
	tensor.Q2_K: {80, 82}, tensor.Q3_K: {108}, tensor.Q4_K: {0, 2}, tensor.Q5_K: {0, 2}, tensor.Q6_K: {208}, tensor.IQ4_XS: {0},
	tensor.IQ2_S: {0}, tensor.IQ3_XXS: {0}, tensor.TQ2_0: {64},
}

// randomData is rows × cols elements of t: every code and integer scale equally likely, float scales near 1/16.
func randomData(rng *rand.Rand, t tensor.Type, rows, cols int) []byte {
	data := make([]byte, rows*cols/t.BlockLen()*t.BlockBytes())
	switch t {
	case tensor.F32:
		for i := range rows * cols {
			binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(float32(rng.NormFloat64())))
		}
	case tensor.F64:
		for i := range rows * cols {
			binary.LittleEndian.PutUint64(data[8*i:], math.Float64bits(float64(float32(rng.NormFloat64()))))
		}
	case tensor.F16, tensor.BF16:
		for i := range rows * cols {
			v := tensor.F32ToF16(float32(rng.NormFloat64()))
			if t == tensor.BF16 {
				v = tensor.F32ToBF16(float32(rng.NormFloat64()))
			}
			binary.LittleEndian.PutUint16(data[2*i:], v)
		}
	default:
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		for b := 0; b < len(data); b += t.BlockBytes() {
			setScales(t, data[b:], func() float32 { return float32(rng.NormFloat64()) / 16 })
		}
	}
	return data
}

// setScales overwrites the float scales of a block.
func setScales(t tensor.Type, block []byte, v func() float32) {
	for _, o := range halves[t] {
		binary.LittleEndian.PutUint16(block[o:], tensor.F32ToF16(v()))
	}
	switch t {
	case tensor.Q8_K:
		binary.LittleEndian.PutUint32(block, math.Float32bits(v()))
	case tensor.IQ1_M: // its float16 scale lies in the top nibbles of four words
		h := tensor.F32ToF16(v())
		for i := range 4 {
			block[48+2*i+1] = block[48+2*i+1]&15 | byte(h>>(4*i)&15)<<4
		}
	}
}

func randomFloats(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

func decode(t testing.TB, typ tensor.Type, rows, cols int, data []byte) []float32 {
	t.Helper()
	w := make([]float32, rows*cols)
	if err := tensor.Decode(typ, w, data); err != nil {
		t.Fatal(err)
	}
	return w
}

func pack(t testing.TB, typ tensor.Type, rows, cols int, data []byte) *Matrix {
	t.Helper()
	m, err := Pack(typ, rows, cols, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// levels are the instruction-set levels of this machine.
func levels() (all []isa.Level) {
	for l := isa.Portable; l <= isa.Best(); l++ {
		all = append(all, l)
	}
	return all
}

// atLevel runs f with the level in force limited to l.
func atLevel(l isa.Level, f func()) {
	defer isa.Limit(l)()
	f()
}

// product multiplies into memory that ends at a guard page and whose other surroundings are poisoned, and returns n rows
// of the matrix's Rows.
func product(t testing.TB, m *Matrix, x *Activations) []float32 {
	t.Helper()
	const pad = 5 // stride beyond the rows, which must stay untouched
	stride := m.Rows() + pad
	buf := guardedFloats(t, 64+x.N()*stride)
	poison(buf)
	dst := buf[64:]
	m.Mul(dst, stride, x, 0, m.Rows())
	out := make([]float32, 0, x.N()*m.Rows())
	for i := range x.N() {
		out = append(out, dst[i*stride:][:m.Rows()]...)
		checkPoison(t, dst[i*stride+m.Rows():][:pad])
	}
	checkPoison(t, buf[:64])
	return out
}

const poisonBits = 0x7fedcba9

func poison(b []float32) {
	for i := range b {
		b[i] = math.Float32frombits(poisonBits)
	}
}

func checkPoison(t testing.TB, b []float32) {
	t.Helper()
	for i, v := range b {
		if math.Float32bits(v) != poisonBits {
			t.Fatalf("wrote %v outside of the destination, at %d of %d", v, i, len(b))
		}
	}
}

// firstDifference names the first element in which a and b differ; all NaN are alike.
func firstDifference(a, b []float32) string {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) && (a[i] == a[i] || b[i] == b[i]) {
			return fmt.Sprintf("element %d of %d: %v and %v", i, len(a), a[i], b[i])
		}
	}
	return ""
}
