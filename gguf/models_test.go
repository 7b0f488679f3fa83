package gguf

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// realModels are the model files at hand: in the folder that TWILIGHT_MODELS names, else in the user's cache.
func realModels(t *testing.T) []string {
	dir := os.Getenv("TWILIGHT_MODELS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Skip("no cache folder, and TWILIGHT_MODELS is not set: ", err)
		}
		dir = filepath.Join(cache, "twilight", "models")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skipf("no models in %s (set TWILIGHT_MODELS to a folder of .gguf files)", dir)
	}
	return files
}

// TestRealModels: complete files end with their last tensor, and every tensor's first rows decode to finite numbers.
func TestRealModels(t *testing.T) {
	for _, path := range realModels(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if tokens, err := f.Strings("tokenizer.ggml.tokens"); err != nil || len(tokens) < 10000 {
				t.Errorf("%d tokens, %v", len(tokens), err)
			}
			if end := dataEnd(f); int64(end) > f.Size() || int64(end) <= f.Size()-int64(f.alignment) {
				t.Errorf("the last tensor ends at %d of %d bytes", end, f.Size())
			}
			for _, tn := range f.Tensors() {
				row, err := tensor.RowBytes(tn.Type, tn.Cols())
				if err != nil {
					t.Fatal(err)
				}
				values := make([]float32, tn.Cols())
				if err := tensor.Decode(tn.Type, values, tn.Data[:row]); err != nil {
					t.Fatal(err)
				}
				for i, v := range values {
					if math.IsNaN(float64(v)) || math.Abs(float64(v)) > 1e4 {
						t.Fatalf("tensor %q: element %d is %g", tn.Name, i, v)
					}
				}
			}
		})
	}
}
