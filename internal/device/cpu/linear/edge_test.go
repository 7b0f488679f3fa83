package linear

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/twilight-go/twilight/internal/tensor"
)

// TestTypesCovered: the tests' list of formats is the package's.
func TestTypesCovered(t *testing.T) {
	for typ := range formats {
		if !slices.Contains(quantTypes, typ) {
			t.Errorf("%s is not tested", typ)
		}
	}
	if len(formats) != len(quantTypes) {
		t.Errorf("%d formats, %d tested", len(formats), len(quantTypes))
	}
}

// TestExtremeCodes drives integer sums to their bounds: every byte of codes and integer scales alike, activations of one magnitude.
func TestExtremeCodes(t *testing.T) {
	const rows, cols, n = 17, 512, 8
	signs := []func(c int) float32{
		func(int) float32 { return 1 },
		func(int) float32 { return -1 },
		func(c int) float32 { return float32(1 - c%2*2) },
	}
	for _, typ := range quantTypes {
		for _, fill := range []byte{0x00, 0xff, 0x80, 0x7f, 0x88, 0x77} {
			data := bytes.Repeat([]byte{fill}, rows*cols/typ.BlockLen()*typ.BlockBytes())
			for b := 0; b < len(data); b += typ.BlockBytes() {
				setScales(typ, data[b:], func() float32 { return 1 })
			}
			m := pack(t, typ, rows, cols, data)
			w := decode(t, typ, rows, cols, data)
			for _, sign := range signs {
				x := make([]float32, n*cols)
				var want, scale float64
				for i := range x {
					x[i] = sign(i)
				}
				for c := range cols {
					want += float64(w[c]) * float64(x[c])
					scale += math.Abs(float64(w[c]))
				}
				checkLevels(t, m, x, n)
				var a Activations
				Quantize(&a, x, n, cols, 1)
				for _, v := range product(t, m, &a) {
					if math.Abs(float64(v)-want) > 1e-6*scale {
						t.Fatalf("%s of bytes %#x: %v, expected %v", typ, fill, v, want)
					}
				}
			}
		}
	}
}

// TestNonFinite: a NaN or infinite scale or activation shows in the rows it belongs to, and in no other.
func TestNonFinite(t *testing.T) {
	const rows, cols, n, bad = 20, 512, 5, 18
	rng := rand.New(rand.NewPCG(7, 8))
	for _, special := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, typ := range append(append([]tensor.Type{}, quantTypes...), floatTypes...) {
			data := randomData(rng, typ, rows, cols)
			rowBytes := len(data) / rows
			block := data[bad*rowBytes:][:typ.BlockBytes()]
			if typ.BlockLen() > 1 {
				setScales(typ, block, func() float32 { return float32(special) })
			} else if err := tensor.Encode(typ, block, []float32{float32(special)}); err != nil {
				t.Fatal(err)
			}
			m := pack(t, typ, rows, cols, data)
			x := randomFloats(rng, n*cols)
			checkLevels(t, m, x, n)
			x[3*cols+100] = float32(special)
			checkLevels(t, m, x, n)
			for planes := 1; planes <= 2; planes++ {
				var a Activations
				Quantize(&a, x, n, cols, planes)
				for i, v := range product(t, m, &a) {
					tainted := i/rows == 3 || i%rows == bad
					if finite := !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0); finite == tainted {
						t.Fatalf("%s with %v in %d planes: row %d, activation row %d: %v", typ, special, planes, i%rows, i/rows, v)
					}
				}
			}
		}
	}
}

// TestZero: matrices and activations of zeros give zeros, of whatever sign, and no NaN from a division.
func TestZero(t *testing.T) {
	for _, typ := range quantTypes {
		m := pack(t, typ, 16, 256, make([]byte, 16*typ.BlockBytes()*256/typ.BlockLen()))
		for _, v := range []float32{0, 1, math.SmallestNonzeroFloat32, math.MaxFloat32} {
			x := make([]float32, 2*256)
			for i := range x {
				x[i] = v
			}
			checkLevels(t, m, x, 2)
			for planes := 1; planes <= 2; planes++ {
				var a Activations
				Quantize(&a, x, 2, 256, planes)
				for _, y := range product(t, m, &a) {
					if y != 0 {
						t.Fatalf("%s: 0 × %v in %d planes = %v", typ, v, planes, y)
					}
				}
			}
		}
	}
}

// TestDivision: however the rows are divided, and whoever multiplies them, the product is the same.
func TestDivision(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		typ := rapid.SampledFrom(append(append([]tensor.Type{}, quantTypes...), floatTypes...)).Draw(r, "type")
		rows := rapid.IntRange(1, 100).Draw(r, "rows")
		cols := 256 * rapid.IntRange(1, 3).Draw(r, "cols/256")
		n := rapid.IntRange(1, 20).Draw(r, "n")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 0))
		// A row's work is its tile's: any runner must give the same matrix.
		spread := func(n int, f func(lo, hi int)) {
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() { f(i, i+1) })
			}
			wg.Wait()
		}
		data := randomData(rng, typ, rows, cols)
		m, err := Pack(typ, rows, cols, data, spread)
		if err != nil {
			r.Fatal(err)
		}
		defer m.Close()
		serial := pack(t, typ, rows, cols, data)
		if !bytes.Equal(m.data, serial.data) {
			r.Fatal("packing depends on the runner")
		}
		var x Activations
		x.Reset(randomFloats(rng, n*cols), n, cols, rapid.IntRange(1, 2).Draw(r, "planes"))
		spread(n, x.QuantizeRows)
		want := make([]float32, n*rows)
		serial.Mul(want, rows, &x, 0, rows)
		got := make([]float32, n*rows)
		var wg sync.WaitGroup
		for lo := 0; lo < rows; {
			hi := min(rows, lo+RowTile*rapid.IntRange(1, 3).Draw(r, "tiles"))
			from := lo
			wg.Go(func() { m.Mul(got, rows, &x, from, hi) })
			lo = hi
		}
		wg.Wait()
		if d := firstDifference(got, want); d != "" {
			r.Fatal(d)
		}
	})
}

// TestRow: a look-up gives what tensor.Decode gives.
func TestRow(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	const rows, cols = 35, 512
	for _, typ := range append(append(append([]tensor.Type{}, quantTypes...), floatTypes...), decodedTypes...) {
		data := randomData(rng, typ, rows, cols)
		want := decode(t, typ, rows, cols, data)
		m := pack(t, typ, rows, cols, data)
		if m.Rows() != rows || m.Cols() != cols || m.Type() != typ || m.Bytes() < len(data)/8 {
			t.Fatalf("%s: matrix says %d × %d of %s in %d bytes", typ, m.Rows(), m.Cols(), m.Type(), m.Bytes())
		}
		got := make([]float32, cols)
		for i := range rows {
			m.Row(i, got)
			for c, v := range got {
				w := want[i*cols+c]
				if m.float == floatF16 && typ != tensor.F16 {
					w = tensor.F16ToF32(tensor.F32ToF16(w))
				}
				if v != w {
					t.Fatalf("%s: row %d, column %d: %v, expected %v", typ, i, c, v, w)
				}
			}
		}
	}
}

// TestDecodedForm: block formats without a packed form become float16 only where that holds their range.
func TestDecodedForm(t *testing.T) {
	for _, c := range []struct {
		scale float32
		want  *floatFormat
	}{{1, floatF16}, {1e-9, floatF32}, {1e9, floatF32}, {float32(math.NaN()), floatF32}} {
		data := make([]byte, 292)
		for i := range data {
			data[i] = 3
		}
		setScales(tensor.Q8_K, data, func() float32 { return c.scale })
		if m := pack(t, tensor.Q8_K, 1, 256, data); m.float != c.want {
			t.Errorf("scale %v: elements of %d bytes, expected %d", c.scale, m.float.size, c.want.size)
		}
	}
}

func TestPackErrors(t *testing.T) {
	for _, c := range []struct {
		typ        tensor.Type
		rows, cols int
		bytes      int
		want       string
	}{
		{tensor.Q4_0, 2, 33, 36, "whole number"},
		{tensor.Q4_0, 2, 32, 35, "found 35 bytes"},
		{tensor.Q4_0, 3, 32, 36, "found 36 bytes"},
		{tensor.Q4_0, -1, 32, 36, "found 36 bytes"},
		{tensor.Q4_0, 0, 32, 0, "found 0 bytes"},
		{tensor.Q4_0, 1 << 60, 1 << 60, 36, "expected rows of"},
		{tensor.Q4_K, 1, 0, 0, "found 0 bytes"},
		{tensor.F32, 1, math.MaxInt, 8, "overflows"},
		{tensor.Type(99), 1, 32, 32, "unknown type 99"},
	} {
		m, err := Pack(c.typ, c.rows, c.cols, make([]byte, c.bytes), nil)
		if err == nil || m != nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "linear: packing a") {
			t.Errorf("%s %d × %d in %d bytes: %v, expected an error with %q", c.typ, c.rows, c.cols, c.bytes, err, c.want)
		}
	}
}

// TestMulMisuse: operands that do not fit panic before anything is written.
func TestMulMisuse(t *testing.T) {
	m := pack(t, tensor.Q4_0, 40, 32, make([]byte, 40*18))
	var x, wide Activations
	Quantize(&x, make([]float32, 3*32), 3, 32, 1)
	Quantize(&wide, make([]float32, 64), 1, 64, 1)
	for name, f := range map[string]func(){
		"columns":     func() { m.Mul(make([]float32, 40), 40, &wide, 0, 40) },
		"start":       func() { m.Mul(make([]float32, 120), 40, &x, 8, 40) },
		"end":         func() { m.Mul(make([]float32, 120), 40, &x, 0, 39) },
		"past rows":   func() { m.Mul(make([]float32, 144), 48, &x, 0, 48) },
		"stride":      func() { m.Mul(make([]float32, 120), 39, &x, 0, 40) },
		"destination": func() { m.Mul(make([]float32, 119), 40, &x, 0, 40) },
		"no planes":   func() { x.Reset(make([]float32, 32), 1, 32, 0) },
		"planes":      func() { x.Reset(make([]float32, 32), 1, 32, 3) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// TestAllocations: after warm-up nothing is allocated, in batches of changing size too.
func TestAllocations(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for _, typ := range []tensor.Type{tensor.Q4_1, tensor.Q6_K, tensor.F16} {
		m := pack(t, typ, 48, 512, randomData(rng, typ, 48, 512))
		given, dst := randomFloats(rng, 33*512), make([]float32, 33*48)
		var x Activations
		Quantize(&x, given, 33, 512, 2)
		for _, l := range levels() {
			atLevel(l, func() {
				if n := testing.AllocsPerRun(5, func() {
					for _, n := range []int{1, 5, 33} {
						for planes := 1; planes <= 2; planes++ {
							Quantize(&x, given, n, 512, planes)
							m.Mul(dst, 48, &x, 0, 48)
						}
					}
					m.Row(7, dst[:512])
				}); n > 0 {
					t.Errorf("%s at %s: %v allocations", typ, l, n)
				}
			})
		}
	}
}

// TestSlabs: small matrices share memory, each with its own part, and closing them in any order frees it.
func TestSlabs(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	var all []*Matrix
	var first [][]byte
	for i := range 70 { // 70 × 557,056 bytes: more than one slab
		m, err := Pack(tensor.Q8_0, 1024, 512, randomData(rng, tensor.Q8_0, 1024, 512), nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
		first = append(first, slices.Clone(m.data[:4096+i]))
	}
	for i, m := range all {
		if !bytes.Equal(m.data[:4096+i], first[i]) {
			t.Fatalf("matrix %d was overwritten", i)
		}
	}
	if all[0].slab == nil || all[0].slab != all[1].slab || all[0].slab == all[69].slab {
		t.Fatal("the matrices are not spread over slabs as expected")
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	held := []*slab{all[0].slab, all[69].slab}
	for _, m := range all {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatalf("second Close: %v", err)
		}
	}
	for _, s := range held {
		if s.refs > 1 {
			t.Errorf("%d matrices still hold a slab", s.refs)
		}
	}
}

// TestQuantize states what quantisation promises, and that its kernel computes the portable loop bit for bit.
func TestQuantize(t *testing.T) {
	if math.Float32bits(1e-30) != tinyBits {
		t.Fatalf("tinyBits is %#x, not 1e-30", tinyBits)
	}
	rng := rand.New(rand.NewPCG(15, 16))
	const n, cols = 13, 160
	x := randomFloats(rng, n*cols)
	for i := range x {
		x[i] *= float32(math.Exp2(float64(rng.IntN(60) - 30))) // scales differ widely within a block
	}
	copy(x[32:], make([]float32, 32))
	x[64] = float32(math.NaN())
	x[101] = float32(math.Inf(-1))
	for i := 128; i < 160; i++ {
		x[i] = 1e-31
	}
	for i := 160; i < 192; i++ {
		x[i] = float32(i-176) + 0.5 // ties, with a scale of 1
	}
	x[191] = 127
	x[192], x[224] = 1e-30, 1e38
	given := guardedFloats(t, len(x))
	copy(given, x)
	for planes := 1; planes <= 2; planes++ {
		var want []actBlock
		for _, l := range levels() {
			atLevel(l, func() {
				var a Activations
				a.Reset(given, n, cols, planes)
				guardActivations(t, &a)
				for i := range a.blocks {
					a.blocks[i] = actBlock{scale: 7, sum: 7, neg: 7}
				}
				a.QuantizeRows(0, n)
				if want == nil {
					want = slices.Clone(a.blocks)
				}
				for i, b := range a.blocks {
					nan := b.scale != b.scale && want[i].scale != want[i].scale
					if nan {
						b.scale = want[i].scale
					}
					if b != want[i] && !nan || nan && (b.q != want[i].q || b.sum != 0 || b.neg != 0) {
						t.Fatalf("%s, %d planes: block %d: %+v, expected %+v", l, planes, i, b, want[i])
					}
				}
				checkQuantized(t, &a)
			})
		}
	}
}

// checkQuantized holds a's blocks against the floats they came from.
func checkQuantized(t *testing.T, a *Activations) {
	t.Helper()
	got := dequantized(a)
	bound := 1.0/254 + 4e-8 // half a step, and the rounding of the scale
	if a.planes == 2 {
		bound = 1.0/(254*254) + 2.4e-7
	}
	for i := range a.n {
		for b := 0; b < a.cols; b += blockCols {
			x, y := a.x[i*a.cols+b:][:blockCols], got[i*a.cols+b:][:blockCols]
			var top float64
			for _, v := range x {
				top = math.Max(top, math.Abs(float64(v))) // NaN if any is
			}
			for c := range x {
				switch bad := math.IsNaN(top) || math.IsInf(top, 0); {
				case bad && y[c] == y[c]:
					t.Fatalf("row %d, column %d: %v in a block with %v", i, b+c, y[c], top)
				case !bad && top < 1e-30 && y[c] != 0:
					t.Fatalf("row %d, column %d: %v in a block of nothing", i, b+c, y[c])
				case !bad && !(math.Abs(y[c]-float64(x[c])) <= top*bound+1e-30):
					t.Fatalf("row %d, column %d in %d planes: %v, expected %v within %v", i, b+c, a.planes, y[c], x[c], top*bound)
				}
			}
		}
	}
}
