package linear

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/twilight-go/twilight/internal/tensor"
)

// TestMulReference holds every format at every level against float64 sums over tensor.Decode's weights.
//
// In integers the only inexactness beyond float32 rounding is that of the activations, half a step of their last plane;
// it is taken out by summing over the quantised activations. What is left is a float32 sum over blocks: 3e-6 of Σ|w·x|.
// Types kept as float16 add their half unit in the last place, 2⁻¹¹.
func TestMulReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, typ := range append(append(append([]tensor.Type{}, quantTypes...), floatTypes...), decodedTypes...) {
		for _, s := range []struct{ rows, cols, n int }{{1, 256, 1}, {16, 512, 2}, {37, 768, 5}, {64, 256, 9}} {
			data := randomData(rng, typ, s.rows, s.cols)
			w := decode(t, typ, s.rows, s.cols, data)
			m := pack(t, typ, s.rows, s.cols, data)
			tolerance := 3e-6
			if m.float == floatF16 && typ != tensor.F16 {
				tolerance += 1.0 / (1 << 11)
			}
			given := randomFloats(rng, s.n*s.cols)
			for planes := 1; planes <= 2; planes++ {
				var x Activations
				Quantize(&x, given, s.n, s.cols, planes)
				used := widened(given)
				if m.quant != nil {
					used = dequantized(&x)
				}
				want, scale := exactProduct(w, used, s.rows, s.cols)
				for _, l := range levels() {
					atLevel(l, func() {
						for i, got := range product(t, m, &x) {
							if !(math.Abs(float64(got)-want[i]) <= tolerance*scale[i]) {
								t.Fatalf("%s at %s, %v, %d planes: element %d: %v, expected %v ± %v", typ, l, s, planes, i, got, want[i], tolerance*scale[i])
							}
						}
					})
				}
			}
		}
	}
}

// TestPlanes: a second plane takes away all but a 150th of what quantising the activations costs a product; in theory all but a
// 254th. (TestQuantize has the bound on an element, TestLevelsAgree makes every level what the best one is.)
func TestPlanes(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	const rows, cols, n = 64, 1024, 8
	for _, typ := range quantTypes {
		data := randomData(rng, typ, rows, cols)
		m := pack(t, typ, rows, cols, data)
		given := randomFloats(rng, n*cols)
		want, _ := exactProduct(decode(t, typ, rows, cols, data), widened(given), rows, cols)
		var off [3]float64 // by the number of planes
		for planes := 1; planes <= 2; planes++ {
			var x Activations
			Quantize(&x, given, n, cols, planes)
			if x.Planes() != planes {
				t.Fatalf("%d planes, expected %d", x.Planes(), planes)
			}
			for i, got := range product(t, m, &x) {
				off[planes] += (float64(got) - want[i]) * (float64(got) - want[i])
			}
		}
		if ratio := math.Sqrt(off[1] / off[2]); !(ratio >= 150) {
			t.Errorf("%s: the second plane makes errors %.0f times smaller, expected at least 150", typ, ratio)
		}
	}
}

func widened(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

// exactProduct is x·wᵀ, and the same of magnitudes.
func exactProduct(w []float32, x []float64, rows, cols int) (y, magnitude []float64) {
	for ; len(x) > 0; x = x[cols:] {
		for r := range rows {
			var sum, abs float64
			for c, v := range w[r*cols:][:cols] {
				p := float64(v) * x[c]
				sum += p
				abs += math.Abs(p)
			}
			y, magnitude = append(y, sum), append(magnitude, abs)
		}
	}
	return y, magnitude
}

// dequantized are the activations as the integer kernels see them.
func dequantized(x *Activations) []float64 {
	out := make([]float64, x.n*x.cols)
	for i := range x.n * x.planes {
		p := i / panelRows * panelRows
		for c := range x.cols {
			b := &x.blocks[p*(x.cols/blockCols)+c/blockCols*x.panelWidth(p)+i-p]
			out[i/x.planes*x.cols+c] += float64(b.scale) * float64(b.q[c%blockCols])
		}
	}
	return out
}

// TestLevelsAgree holds the assembly against the portable loops, bit for bit, over shapes that leave partial tiles and
// panels; and a row of a batch against the same row alone.
func TestLevelsAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	ns := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 33}
	for _, typ := range append(append([]tensor.Type{}, quantTypes...), floatTypes...) {
		t.Run(typ.String(), func(t *testing.T) {
			for _, rows := range []int{1, 8, 15, 16, 17, 50} {
				for _, cols := range []int{32, 96, 256, 768} {
					if cols%typ.BlockLen() != 0 {
						continue
					}
					m := pack(t, typ, rows, cols, randomData(rng, typ, rows, cols))
					guardMatrix(t, m)
					for _, n := range ns {
						checkLevels(t, m, randomFloats(rng, n*cols), n)
					}
				}
			}
		})
	}
}

// TestFloatTails: matrices of floats take any number of columns.
func TestFloatTails(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, typ := range floatTypes {
		for _, cols := range []int{1, 3, 4, 31, 33, 67} {
			m := pack(t, typ, 19, cols, randomData(rng, typ, 19, cols))
			guardMatrix(t, m)
			for n := range 9 {
				checkLevels(t, m, randomFloats(rng, n*cols), n)
			}
		}
	}
}

// guardMatrix moves a matrix to memory that ends at a page which faults; guardActivations does the same to activations.
func guardMatrix(t *testing.T, m *Matrix) {
	own := m.data
	b := guarded(t, (len(own)+3)&^3)
	m.data = b[len(b)-len(own):]
	copy(m.data, own)
	t.Cleanup(func() { m.data = own })
}

func guardActivations(t *testing.T, x *Activations) {
	if len(x.blocks) > 0 {
		b := guarded(t, len(x.blocks)*actBytes)
		own := x.blocks
		x.blocks = unsafe.Slice((*actBlock)(unsafe.Pointer(&b[0])), len(own))
		copy(x.blocks, own)
	}
}

// checkLevels compares all levels with the portable one, and each row of the batch with the row alone, in one plane and in two.
func checkLevels(t *testing.T, m *Matrix, x []float32, n int) {
	t.Helper()
	guardedX := guardedFloats(t, len(x))
	copy(guardedX, x)
	x = guardedX
	for planes := 1; planes <= 2; planes++ {
		var batch, single Activations
		Quantize(&batch, x, n, m.cols, planes)
		guardActivations(t, &batch)
		var want []float32
		for _, l := range levels() {
			atLevel(l, func() {
				name := fmt.Sprintf("%s at %s, %d × %d, n = %d in %d planes", m.Type(), l, m.rows, m.cols, n, planes)
				got := product(t, m, &batch)
				if want == nil {
					want = got
				}
				if d := firstDifference(got, want); d != "" {
					t.Fatalf("%s: differs from the portable loops in %s", name, d)
				}
				for i := range n {
					Quantize(&single, x[i*m.cols:], 1, m.cols, planes)
					if d := firstDifference(product(t, m, &single), want[i*m.rows:][:m.rows]); d != "" {
						t.Fatalf("%s: row %d alone differs in %s", name, i, d)
					}
				}
			})
		}
	}
}
