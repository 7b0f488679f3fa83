package tensor

import (
	"bytes"
	"math"
	"math/rand"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// quantised are the block formats with an encoder, and the relative mean square error that each may have on normal numbers: a
// few percent above what the fits reach, so that a worse fit is noticed.
var quantised = []struct {
	t     Type
	error float64
}{
	{Q4_0, 7.5e-3}, {Q4_1, 6.3e-3}, {Q5_0, 1.9e-3}, {Q5_1, 1.5e-3}, {Q8_0, 3e-5},
	{Q2_K, 8.4e-2}, {Q3_K, 2.3e-2}, {Q4_K, 5.5e-3}, {Q5_K, 1.36e-3}, {Q6_K, 3.2e-4}, {Q8_K, 5e-5},
	{IQ4_NL, 6.2e-3}, {IQ4_XS, 6.2e-3},
}

// roundTrip encodes and decodes.
func roundTrip(t interface{ Fatal(...any) }, typ Type, x []float32) []float32 {
	size, err := RowBytes(typ, len(x))
	if err != nil {
		t.Fatal(err)
	}
	b, y := bytes.Repeat([]byte{0xa5}, size), make([]float32, len(x)) // encoders must not rely on cleared memory
	if err := Encode(typ, b, x); err != nil {
		t.Fatal(err)
	}
	if err := Decode(typ, y, b); err != nil {
		t.Fatal(err)
	}
	return y
}

func TestEncodeError(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	x := make([]float32, 256*64)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	for _, q := range quantised {
		var e, s float64
		for i, y := range roundTrip(t, q.t, x) {
			d := float64(x[i]) - float64(y)
			e += d * d
			s += float64(x[i]) * float64(x[i])
		}
		if e/s > q.error {
			t.Errorf("%s: relative mean square error %.3g, expected at most %.3g", q.t, e/s, q.error)
		}
	}
}

// TestEncodeVectors holds the encoders that follow a reference against vectors of an independent implementation.
func TestEncodeVectors(t *testing.T) {
	for _, typ := range []Type{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0} {
		data, err := os.ReadFile("testdata/" + typ.String() + ".encoded")
		if err != nil {
			t.Fatal(err)
		}
		const n = 512
		x, want := make([]float32, n), data[4*n:]
		if err := Decode(F32, x, data[:4*n]); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if err := Encode(typ, got, x); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%s: byte %d of block %d is %#x, want %#x", typ, i%typ.BlockBytes(), i/typ.BlockBytes(), got[i], want[i])
			}
		}
	}
}

// TestEncodeBounded: whatever the finite input, no element ends up further off than the widest element of its block allows.
func TestEncodeBounded(t *testing.T) {
	// Of the widest element: half a step of the coarsest codes, plus what the scale's own quantisation loses.
	share := map[Type]float64{Q8_0: 0.01, Q8_K: 0.01, Q6_K: 0.05, Q2_K: 0.6, Q3_K: 0.35}
	value := rapid.OneOf(
		rapid.Float32Range(-1, 1), rapid.Float32Range(-maxHalf, maxHalf),
		rapid.SampledFrom([]float32{0, 1, -1, maxHalf, -maxHalf, 1e-7, math.SmallestNonzeroFloat32, -1e-30}))
	rapid.Check(t, func(t *rapid.T) {
		q := rapid.SampledFrom(quantised).Draw(t, "type").t
		x := rapid.SliceOfN(value, 256, 256).Draw(t, "x")
		top := 1e-5 // below it the scales are subnormal halves or vanish
		for _, v := range x {
			top = max(top, math.Abs(float64(v)))
		}
		bound := top * 0.25
		if s, ok := share[q]; ok {
			bound = top * s
		}
		for i, y := range roundTrip(t, q, x) {
			if d := math.Abs(float64(y) - float64(x[i])); !(d <= bound) {
				t.Fatalf("%s: element %d is %g, decoded %g: off by more than %g", q, i, x[i], y, bound)
			}
		}
	})
}

// TestEncodeExact: what plain formats and codes of a lone value can hold, they hold exactly.
func TestEncodeExact(t *testing.T) {
	zero, lone := make([]float32, 256), make([]float32, 256)
	lone[77] = -1.5
	for _, q := range quantised {
		for i, y := range roundTrip(t, q.t, zero) {
			if y != 0 {
				t.Fatalf("%s: element %d of zeros decodes to %g", q.t, i, y)
			}
		}
		for i, y := range roundTrip(t, q.t, lone) {
			if math.Abs(float64(y-lone[i])) > 0.02 {
				t.Fatalf("%s: element %d is %g, decodes to %g", q.t, i, lone[i], y)
			}
		}
	}
	for i, y := range roundTrip(t, F32, lone) {
		if y != lone[i] {
			t.Fatalf("F32: element %d is %g, decodes to %g", i, lone[i], y)
		}
	}
}

func TestErrors(t *testing.T) {
	x := make([]float32, 32)
	for _, c := range []struct {
		err  error
		want string
	}{
		{Encode(IQ2_XXS, make([]byte, 66), make([]float32, 256)), "encoding as IQ2_XXS is not supported"},
		{Encode(Q8_0, make([]byte, 33), x), "encoding 32 elements as Q8_0: found room for 33 bytes, expected 34"},
		{Encode(Q8_0, make([]byte, 34), x[:31]), "31 elements is not a whole number of Q8_0 blocks (32 elements each)"},
		{Decode(Q4_K, x, nil), "32 elements is not a whole number of Q4_K blocks"},
		{Decode(Q8_0, x, make([]byte, 35)), "found 35 bytes, expected 34"},
		{Decode(Type(4), x, nil), "unknown type 4"},
		{Encode(Q4_0, make([]byte, 18), append(x[:31:31], float32(math.NaN()))), "element 31 is NaN, expected at most ±65504"},
		{Encode(Q4_0, make([]byte, 18), append(x[:31:31], float32(math.Inf(-1)))), "element 31 is -Inf"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("error %q, want %q in it", c.err, c.want)
		}
	}
	if _, err := RowBytes(Q8_0, -32); err == nil {
		t.Error("a negative row has a size")
	}
	if _, err := RowBytes(F64, math.MaxInt); err == nil {
		t.Error("a row beyond all addresses has a size")
	}
}
