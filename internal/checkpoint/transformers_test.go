package checkpoint_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/device/reference"
	"github.com/twilight-go/twilight/tokenizer"
)

// What transformers saves is opened, and computes what transformers computes: logits and tokens. testdata/make.py made the goldens.
func TestTransformers(t *testing.T) {
	for _, name := range []string{"llama", "llama-linear", "mistral", "qwen2", "qwen3", "gemma3", "gemma3-vision"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			var golden struct {
				IDs    []int32
				Logits []float32
				Texts  []struct {
					Text string
					IDs  []int32
				}
			}
			raw := must(os.ReadFile(filepath.Join(dir, "golden.json")))(t)
			if err := json.Unmarshal(raw, &golden); err != nil {
				t.Fatal(err)
			}
			c := openCheckpoint(t, dir)
			got := logits(t, c, reference.NewUnrounded(), golden.IDs, len(golden.IDs)-1)
			if len(got) != len(golden.Logits) {
				t.Fatalf("%d logits, want %d", len(got), len(golden.Logits))
			}
			worst, size := 0.0, 0.0
			for i, x := range golden.Logits {
				worst = max(worst, math.Abs(float64(x-got[i])))
				size = max(size, math.Abs(float64(x)))
			}
			t.Logf("largest difference of %d logits up to %.3g: %.2g", len(got), size, worst)
			if worst > 2e-6*size {
				t.Errorf("logits up to %v are off by %v", size, worst)
			}
			tok := must(tokenizer.FromGGUF(c.File))(t)
			for _, p := range golden.Texts {
				if got := tok.Encode(p.Text, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true}); !slices.Equal(got, p.IDs) {
					t.Errorf("tokens of %q are %d, want %d", p.Text, got, p.IDs)
				}
			}
			for text, ends := range map[string]bool{"</s>": true, "<|end|>": true, "a": false} {
				if id, ok := tok.ID(text); !ok || tok.IsEOG(id) != ends {
					t.Errorf("token %q (%d, %v) ends a generation: %v", text, id, ok, !ends)
				}
			}
			if template := must(c.String("tokenizer.chat_template"))(t); !strings.Contains(template, "<|end|>") {
				t.Errorf("chat template %q", template)
			}
		})
	}
}
