package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/tensor"
)

// linearTypes are the formats that tests pack: those with a layout of their own and some without.
var linearTypes = []tensor.Type{tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q8_0, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K, tensor.F16, tensor.BF16, tensor.F32, tensor.Q3_K}

// matrix makes weights of a type, as a file has them and as floats.
func matrix(rng *rand.Rand, typ tensor.Type, rows, cols int) (device.Matrix, []float32) {
	values := make([]float32, rows*cols)
	for i := range values {
		values[i] = float32(rng.NormFloat64()*0.05 + 0.01)
	}
	rowBytes, err := tensor.RowBytes(typ, cols)
	if err != nil {
		panic(stop{err})
	}
	m := device.Matrix{Name: fmt.Sprintf("%s_%dx%d", typ, rows, cols), Type: typ, Rows: rows, Cols: cols, Data: make([]byte, rows*rowBytes)}
	if err := errors.Join(tensor.Encode(typ, m.Data, values), tensor.Decode(typ, values, m.Data)); err != nil {
		panic(stop{err})
	}
	return m, values
}

// bank is device memory that a test frees at its end, and the kernels.
type bank struct {
	t     *testing.T
	c     *driver.Context
	l     *library
	owned []driver.Ptr
}

// withLibrary runs f with the kernels inside Do.
func withLibrary(t *testing.T, f func(*bank) error) {
	t.Helper()
	dev := gpu(t)
	err := dev.Do(func(c *driver.Context) error {
		l, err := load(c, dev)
		if err != nil {
			return err
		}
		b := &bank{t: t, c: c, l: l}
		err = errors.Join(l.findLinear(c), b.guard(f))
		for _, p := range b.owned {
			err = errors.Join(err, c.Free(p))
		}
		return errors.Join(err, l.free(c))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// guard lets f end the test once its memory is given back.
func (b *bank) guard(f func(*bank) error) (err error) {
	defer func() {
		if x := recover(); x != nil {
			s, ok := x.(stop)
			if !ok {
				panic(x)
			}
			err = s.error
		}
	}()
	return f(b)
}

// put takes device memory for data.
func put[T int32 | uint16 | float32](b *bank, data []T) driver.Ptr { return b.upload(bytesOf(data)) }

// upload ends the test if the device does not take the data.
func (b *bank) upload(data []byte) driver.Ptr {
	p, err := b.c.Alloc(len(data))
	if err == nil {
		b.owned = append(b.owned, p)
		err = b.c.Upload(p, data)
	}
	if err != nil {
		panic(stop{err})
	}
	return p
}

func (b *bank) weight(m device.Matrix) *weight {
	image, w, err := packWeight(m)
	if err != nil {
		panic(stop{err})
	}
	w.data = b.upload(image)
	return w
}

// activations makes rows of fp16 with scales, and what they stand for. Rows of padding are rubbish.
func (b *bank) activations(rng *rand.Rand, rows, cols int) (halves, []float64) {
	padded := (rows + 63) / 64 * 64
	h, scale, x := make([]uint16, padded*cols), make([]float32, rows), make([]float64, rows*cols)
	for i := range h {
		h[i] = 0x7e00 // a NaN
	}
	for r := range rows {
		scale[r] = float32(math.Ldexp(1, rng.IntN(9)-4))
		for c := range cols {
			h[r*cols+c] = tensor.F32ToF16(float32(rng.NormFloat64()))
			x[r*cols+c] = float64(tensor.F16ToF32(h[r*cols+c])) * float64(scale[r])
		}
	}
	return halves{values: put(b, h), scale: put(b, scale), rows: padded, cols: cols}, x
}

// hold compares a row of results with the product in float64. Rounding of scales and weights to fp16 is what may differ.
func hold(t *testing.T, what string, got []float32, w []float32, x []float64, bias []float32) {
	t.Helper()
	var wrong, size float64
	for i, g := range got {
		want := 0.0
		for c, v := range x {
			want += v * float64(w[i*len(x)+c])
		}
		if bias != nil {
			want += float64(bias[i])
		}
		wrong += (float64(g) - want) * (float64(g) - want)
		size += want * want
	}
	if e := math.Sqrt(wrong / size); !(e <= 2e-3) { // weights are rounded to fp16, 2^-11 each; a row of few inputs may cancel
		t.Errorf("%s: relative error %g", what, e)
	}
}

// products runs several products of one x in a launch and holds them against float64.
func (b *bank) products(rng *rand.Rand, rows, cols int, outputs []int, types []tensor.Type) error {
	return b.run(rng, rows, cols, outputs, types, func(x halves, out []product) error { return b.l.linear(b.c, 0, x, rows, out) })
}

// run does so by a launch of the caller's.
func (b *bank) run(rng *rand.Rand, rows, cols int, outputs []int, types []tensor.Type, linear func(halves, []product) error) error {
	const guard = 0x7fc0dead
	x, want := b.activations(rng, rows, cols)
	var out []product
	var values, biases [][]float32
	for i, n := range outputs {
		m, v := matrix(rng, types[i%len(types)], n, cols)
		o := product{w: b.weight(m)}
		var bias []float32
		if i%2 == 1 {
			for range n {
				bias = append(bias, float32(rng.NormFloat64()*4))
			}
			o.bias = put(b, bias)
		}
		dst := make([]float32, (rows+1)*n)
		for j := range dst {
			dst[j] = math.Float32frombits(guard)
		}
		o.dst = put(b, dst)
		out, values, biases = append(out, o), append(values, v), append(biases, bias)
	}
	if err := errors.Join(linear(x, out), b.c.Synchronize()); err != nil {
		return err
	}
	for i, o := range out {
		n := outputs[i]
		got := make([]float32, (rows+1)*n)
		if err := b.c.Download(bytesOf(got), o.dst); err != nil {
			return err
		}
		for r := 0; r < rows; r += 1 + rows*n*cols/1e8 { // as many as do not take long
			hold(b.t, fmt.Sprintf("%s, row %d of %d", o.w.name, r, rows), got[r*n:][:n], values[i], want[r*cols:][:cols], biases[i])
		}
		for _, v := range got[rows*n:] {
			if math.Float32bits(v) != guard {
				return fmt.Errorf("%s: wrote beyond row %d", o.w.name, rows)
			}
		}
	}
	return nil
}

func TestLinearTypes(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		rng := rand.New(rand.NewPCG(1, 2))
		rowCounts := []int{3, 40}
		if !quick {
			rowCounts = []int{1, 3, 8, 17, 33, 64, 65, 130, 300}
		}
		for _, typ := range linearTypes {
			for _, rows := range rowCounts {
				if err := b.products(rng, rows, 256, []int{56}, []tensor.Type{typ}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func TestLinearRows(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, rows := range []int{1, 8, 17, 64, 65, 130} {
			if err := b.products(rng, rows, 96, []int{33, 160, 7}, []tensor.Type{tensor.Q5_0, tensor.Q8_0, tensor.F16}); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestLinearDeep has more inputs than a warp holds at once, which clusters share.
func TestLinearDeep(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		rng := rand.New(rand.NewPCG(5, 6))
		for _, rows := range []int{2, 30, 70} {
			for _, typ := range []tensor.Type{tensor.Q6_K, tensor.Q4_K, tensor.F16} {
				if err := b.products(rng, rows, 3072, []int{40}, []tensor.Type{typ}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// TestLinearPlans runs all kernels with all sizes of clusters and thread blocks, whatever would be chosen; with ranks that have no units, too.
func TestLinearPlans(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		rng := rand.New(rand.NewPCG(17, 18))
		for ranks := 1; ranks <= maxCluster; ranks *= 2 {
			if !b.l.hopper && ranks > 1 {
				break
			}
			k := work{rows: 20, units: 13, unitBytes: layouts[w8].unit}
			even := work{rows: 75, units: 14, unitBytes: layouts[w8].unit}
			plans := map[plan]work{gemmPlan(k.rows, 8, ranks): k, gemmPlan(k.rows, 16, ranks): k}
			for _, threads := range []int{96, 256} {
				plans[linearPlan(k, 4, threads)] = k
			}
			if b.l.hopper {
				for i, tiles := range []int{1, 2, 4, 8, 16} {
					plans[panelPlan(even, tiles, 1+i%3, 1+i%2, ranks, 96<<10)] = even
				}
				plans[panelPlan(even, 8, 2, 1, ranks, 200<<10)] = even
			}
			if b.l.hopper && ranks == 1 {
				plans[widePlan(k.rows, 3)], plans[widePlan(k.rows, 4)] = k, k
			}
			for n, k := range plans {
				b.t.Logf("%v", n)
				err := b.run(rng, k.rows, k.units*unitCols, []int{33, 130}, []tensor.Type{tensor.Q8_0, tensor.Q4_0}, func(x halves, out []product) error {
					return b.l.runLinear(b.c, 0, n, x, k.rows, out)
				})
				if err != nil {
					return fmt.Errorf("%+v: %w", n, err)
				}
			}
		}
		return nil
	})
}

// TestLinearWide runs the kernels for hundreds of rows: columns of several panels, rows of weights in tiles of several products and formats, more tiles than thread blocks.
func TestLinearWide(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		if !b.l.hopper {
			return nil
		}
		defer func(n int) { b.l.dev.Multiprocessor = n }(b.l.dev.Multiprocessor)
		b.l.dev.Multiprocessor = 3
		rng := rand.New(rand.NewPCG(19, 20))
		for _, tiles := range []int{3, 4} {
			const rows, cols = 300, 352
			err := b.run(rng, rows, cols, []int{33, 160, 7}, []tensor.Type{tensor.Q5_0, tensor.Q8_0, tensor.F16}, func(x halves, out []product) error {
				for i := range out {
					if out[i].add = tiles == 3; out[i].add {
						if err := b.c.Fill(out[i].dst, 0, rows*out[i].w.rows*4, 0); err != nil {
							return err
						}
					}
				}
				return b.l.runLinear(b.c, 0, widePlan(rows, tiles), x, rows, out)
			})
			if err != nil {
				return err
			}
			if quick {
				continue
			}
			for _, typ := range linearTypes {
				err := b.run(rng, 2*rows, 1536, []int{200, 500}, []tensor.Type{typ}, func(x halves, out []product) error {
					return b.l.runLinear(b.c, 0, widePlan(2*rows, tiles), x, 2*rows, out)
				})
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// TestLinearShapes has the shapes of real models, on a GPU only.
func TestLinearShapes(t *testing.T) {
	if quick {
		t.Skip("too large for the emulator")
	}
	for _, shape := range [][]int{{576, 576, 192, 192}, {640, 2048, 2048}, {896, 896, 128, 128}, {896, 4864, 4864}, {4864 - 4864%256, 896}, {1536, 8960, 8960}, {8960, 1536}, {1024, 50000}} {
		t.Run(fmt.Sprint(shape), func(t *testing.T) {
			withLibrary(t, func(b *bank) error {
				rng := rand.New(rand.NewPCG(7, 8))
				for _, rows := range []int{1, 7, 16, 32, 64, 128, 257} {
					if err := b.products(rng, rows, shape[0], shape[1:], []tensor.Type{tensor.Q5_0, tensor.Q8_0, tensor.Q4_1}); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// TestLinearAlone shows that a row's results do not depend on how many others there are, as long as the panel has the same size.
func TestLinearAlone(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		const cols, n = 1024, 64
		rng := rand.New(rand.NewPCG(9, 10))
		m, _ := matrix(rng, tensor.Q4_K, n, cols)
		w := b.weight(m)
		x, _ := b.activations(rng, panelRows, cols)
		for _, counts := range [][]int{{1, 3, 8}, {9, 16}, {17, 32}, {33, 64}, {65, panelRows}} {
			var first []float32
			for _, rows := range counts {
				got := make([]float32, rows*n)
				dst := put(b, got)
				if err := errors.Join(b.l.linear(b.c, 0, x, rows, []product{{w: w, dst: dst}}), b.c.Synchronize(), b.c.Download(bytesOf(got), dst)); err != nil {
					return err
				}
				if first == nil {
					first = got
				}
				for i, v := range first {
					if got[i] != v {
						return fmt.Errorf("%d rows: output %d is %g, of %d rows %g", rows, i, got[i], counts[0], v)
					}
				}
			}
		}
		return nil
	})
}

func TestEmbed(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		const rows, cols, scale = 70, 512, 1.5
		rng := rand.New(rand.NewPCG(11, 12))
		ids := []int32{0, 69, 8, 17, 31, 32, 57, 8}
		for _, typ := range linearTypes {
			m, values := matrix(rng, typ, rows, cols)
			got := make([]float32, len(ids)*cols)
			dst := put(b, got)
			if err := errors.Join(b.l.embed(b.c, 0, dst, b.weight(m), put(b, ids), len(ids), scale), b.c.Synchronize(), b.c.Download(bytesOf(got), dst)); err != nil {
				return err
			}
			for i, id := range ids {
				for c, g := range got[i*cols:][:cols] {
					if want := scale * float64(values[int(id)*cols+c]); math.Abs(float64(g)-want) > 4e-4 {
						return fmt.Errorf("%s: row %d, column %d: %g, expected %g", typ, id, c, g, want)
					}
				}
			}
		}
		return nil
	})
}

func TestArgmax(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		rng := rand.New(rand.NewPCG(13, 14))
		for _, cols := range []int{1, 1000, 8192, 20011} {
			const rows = 5
			src := make([]float32, rows*cols)
			want := make([]int32, rows)
			for i := range src {
				src[i] = float32(rng.NormFloat64() - 9)
			}
			for r := 1; r < rows; r++ { // two or three places are as large; row 0 has none that stands out
				at := []int{rng.IntN(cols), rng.IntN(cols), rng.IntN(cols)}
				for _, i := range at {
					src[r*cols+i] = float32(r) - 2
				}
			}
			for r := range rows {
				for i, v := range src[r*cols:][:cols] {
					if v > src[r*cols+int(want[r])] {
						want[r] = int32(i)
					}
				}
			}
			got := make([]int32, rows)
			dst := put(b, got)
			if err := errors.Join(b.l.argmax(b.c, 0, dst, put(b, src), rows, cols), b.c.Synchronize(), b.c.Download(bytesOf(got), dst)); err != nil {
				return err
			}
			for r := range rows {
				if got[r] != want[r] {
					t.Errorf("%d columns, row %d: %d, expected %d", cols, r, got[r], want[r])
				}
			}
		}
		return nil
	})
}

// TestPackFactor: rows that nobody looked at when the factor was chosen may have larger minima than it leaves room for.
func TestPackFactor(t *testing.T) {
	const rows = 64
	var data []byte
	for r := range rows {
		least := float32(0)
		if r == 1 {
			least = -300
		}
		data = binary.LittleEndian.AppendUint16(data, tensor.F32ToF16(1e-6))
		data = binary.LittleEndian.AppendUint16(data, tensor.F32ToF16(least))
		data = append(data, make([]byte, 16)...)
	}
	_, w, err := packWeight(device.Matrix{Name: "steep", Type: tensor.Q4_1, Rows: rows, Cols: 32, Data: data})
	if err != nil || w.factor*65504 < 300 {
		t.Fatalf("%v, %+v", err, w)
	}
}

func TestPackErrors(t *testing.T) {
	good, _ := matrix(rand.New(rand.NewPCG(15, 16)), tensor.F32, 2, 32)
	for _, c := range []struct {
		name, want string
		change     func(*device.Matrix)
	}{
		{"odd columns", "multiple of 32", func(m *device.Matrix) { m.Rows, m.Cols = 4, 16 }},
		{"no rows", "at least one row", func(m *device.Matrix) { m.Rows = 0 }},
		{"too short", "expected rows of 128", func(m *device.Matrix) { m.Data = m.Data[:200] }},
		{"too large", "row 1: column 3: 70000 does not fit", func(m *device.Matrix) {
			m.Data = append([]byte(nil), m.Data...)
			tensor.Encode(tensor.F32, m.Data[128+12:][:4], []float32{70000}) //nolint:errcheck // sizes agree
		}},
		{"no such type", "unknown type 77", func(m *device.Matrix) { m.Type = 77 }},
		{"scale is no number", "NaN does not fit", func(m *device.Matrix) {
			m.Type, m.Rows, m.Data = tensor.Q8_0, 1, append([]byte{0, 0x7e}, make([]byte, 32)...)
		}},
	} {
		m := good
		c.change(&m)
		_, _, err := packWeight(m)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "F32_2x32") {
			t.Errorf("%s: %v, expected %q", c.name, err, c.want)
		}
	}
}
