package checkpoint_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/checkpoint"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testenv"
)

// BenchmarkOpen opens folders with real vocabularies and next to no weights.
func BenchmarkOpen(b *testing.B) {
	for _, name := range []string{"smollm2-135m", "qwen2.5-coder-0.5b", "gemma3-270m"} {
		b.Run(name, func(b *testing.B) {
			f := must(gguf.Open(testenv.Model(b, name)))(b)
			defer f.Close()
			dir := b.TempDir()
			publish{typ: tensor.F32, pairs: true}.write(b, dir, onlyVocabulary(b, f))
			st := must(os.Stat(filepath.Join(dir, "tokenizer.json")))(b)
			b.SetBytes(st.Size())
			for b.Loop() {
				if err := must(checkpoint.Open(dir))(b).Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
