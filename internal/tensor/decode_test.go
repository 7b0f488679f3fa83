package tensor

import (
	"bytes"
	"maps"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDecodeVectors holds every decoder, bit for bit, against vectors of an independent implementation (testdata/README.md).
func TestDecodeVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bin")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d vector files, %v", len(files), err)
	}
	byName := map[string]Type{}
	for typ := range infos {
		byName[typ.String()] = typ
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bin")
		t.Run(name, func(t *testing.T) {
			typ, ok := byName[name]
			if !ok {
				t.Fatal("no such type")
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			const n = 512
			src, floats := data[:len(data)-4*n], data[len(data)-4*n:]
			want, got := make([]float32, n), make([]float32, n)
			if err := Decode(F32, want, floats); err != nil {
				t.Fatal(err)
			}
			if err := Decode(typ, got, src); err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) && got[i] != want[i] {
					t.Fatalf("element %d is %g, want %g", i, got[i], want[i])
				}
			}
		})
	}
}

// TestDecodePlain covers the formats that are no blocks.
func TestDecodePlain(t *testing.T) {
	for _, c := range []struct {
		t    Type
		src  []byte
		want float32
	}{
		{F32, []byte{0, 0, 0xc0, 0xbf}, -1.5}, {F16, []byte{0, 0xbe}, -1.5}, {BF16, []byte{0xc0, 0xbf}, -1.5},
		{F64, []byte{0, 0, 0, 0, 0, 0, 0xf8, 0xbf}, -1.5}, {I8, []byte{0xfe}, -2}, {I16, []byte{0xfe, 0xff}, -2},
		{I32, []byte{0xfe, 0xff, 0xff, 0xff}, -2}, {I64, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, -2},
		{Q8_1, append([]byte{0, 0x38, 0, 0}, bytes.Repeat([]byte{0xfe}, 32)...), -1},
	} {
		got := make([]float32, c.t.BlockLen())
		if err := Decode(c.t, got, c.src); err != nil {
			t.Error(err)
		}
		if got[0] != c.want || got[len(got)-1] != c.want {
			t.Errorf("%s % x decodes to %g, want %g", c.t, c.src, got[0], c.want)
		}
	}
}

// TestEveryTypeDecodes: a type that has a size has a decoder.
func TestEveryTypeDecodes(t *testing.T) {
	for typ := range infos {
		if err := Decode(typ, make([]float32, typ.BlockLen()), make([]byte, typ.BlockBytes())); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	types := slices.Sorted(maps.Keys(infos))
	for _, typ := range types {
		b.Run(typ.String(), func(b *testing.B) {
			dst := make([]float32, 4096)
			size, err := RowBytes(typ, len(dst))
			if err != nil {
				b.Fatal(err)
			}
			src := make([]byte, size)
			rand.New(rand.NewSource(1)).Read(src)
			for b.Loop() {
				if err := Decode(typ, dst, src); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(len(dst))/b.Elapsed().Seconds()/1e9, "Gelem/s")
		})
	}
}

// TestDecodeAnyBytes: every pattern of bits is some block, and decoding it allocates nothing.
func TestDecodeAnyBytes(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for typ := range infos {
		dst, src := make([]float32, 4*typ.BlockLen()), make([]byte, 4*typ.BlockBytes())
		for range 50 {
			r.Read(src)
			for i := range src[:typ.BlockBytes()] {
				src[i] = 255
			}
			if err := Decode(typ, dst, src); err != nil {
				t.Fatal(err)
			}
		}
		if n := testing.AllocsPerRun(10, func() { _ = Decode(typ, dst, src) }); n != 0 {
			t.Errorf("decoding %s allocates %g times", typ, n)
		}
	}
}
