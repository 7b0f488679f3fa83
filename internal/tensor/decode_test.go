package tensor

import (
	"math"
	"os"
	"path/filepath"
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
