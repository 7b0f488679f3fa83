package cuda

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// BenchmarkPrefill reads prompts on a GPU with a few layers of the models' shapes and random weights: tokens a second, as if the models had these layers only, and
// microseconds that a layer takes for a thousand tokens.
func BenchmarkPrefill(b *testing.B) {
	if emulated {
		b.Skip("no GPU")
	}
	for _, shape := range []struct {
		name   string
		tokens int
		c      testmodel.Config
	}{
		{"qwen1.5b", 32768, testmodel.Config{Arch: "qwen2", Embed: 1536, FFN: 8960, Heads: 12, KVHeads: 2, HeadDim: 128, Type: tensor.Q4_1}},
		{"qwen0.5b", 32768, testmodel.Config{Arch: "qwen2", Embed: 896, FFN: 4864, Heads: 14, KVHeads: 2, HeadDim: 64, Type: tensor.Q5_0}},
		{"smollm2", 8192, testmodel.Config{Arch: "llama", Embed: 576, FFN: 1536, Heads: 9, KVHeads: 3, HeadDim: 64, Type: tensor.Q4_1}},
	} {
		shape.c.Layers, shape.c.Context, shape.c.Seed = 4, shape.tokens+8, 9
		path := filepath.Join(b.TempDir(), "model.gguf")
		if err := testmodel.Write(path, shape.c); err != nil {
			b.Fatal(err)
		}
		for _, rows := range []int{2048, 4096, 8192} {
			b.Run(fmt.Sprintf("%s/rows=%d", shape.name, rows), func(b *testing.B) {
				f, err := gguf.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				d, err := Open(Options{})
				if err != nil {
					b.Fatal(err)
				}
				m, err := model.Load(f, d, model.Options{MaxRows: rows})
				if err != nil {
					b.Fatal(err)
				}
				e, err := engine.New(m, engine.Config{Context: shape.tokens, Sequences: 2, Spare: 4, Pipelines: []*attention.Pipeline{densely}})
				if err != nil {
					b.Fatal(err)
				}
				ids := tokens(shape.tokens)
				read := func() {
					s := e.NewSession(densely)
					defer s.Close()
					if _, _, err := s.Prefill(context.Background(), ids, nil); err != nil {
						b.Fatal(err)
					}
				}
				read()
				b.ResetTimer()
				for range b.N {
					read()
				}
				b.StopTimer()
				seconds := b.Elapsed().Seconds() / float64(b.N)
				b.ReportMetric(float64(shape.tokens)/seconds, "tok/s")
				b.ReportMetric(seconds*1e9/float64(shape.tokens*shape.c.Layers), "µs/layer/Ktok")
				b.ReportMetric(0, "ns/op")
				for _, err := range []error{e.Close(), d.Close(), f.Close()} {
					if err != nil {
						b.Error(err)
					}
				}
			})
		}
	}
}
