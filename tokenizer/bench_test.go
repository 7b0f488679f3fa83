package tokenizer_test

import (
	"os"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/testenv"
	"github.com/twilight-go/twilight/tokenizer"
)

var benchModels = []string{"smollm2-135m", "qwen2.5-coder-0.5b", "gemma3-270m"}

// BenchmarkEncodeBook encodes a novel, with the bytes that natural text repeats.
func BenchmarkEncodeBook(b *testing.B) {
	book, err := os.ReadFile(testenv.Shared(b, "books", "war-and-peace.txt"))
	if err != nil {
		b.Fatal(err)
	}
	benchmarkEncode(b, string(book))
}

// BenchmarkEncodeWord encodes one huge word without a boundary in it.
func BenchmarkEncodeWord(b *testing.B) {
	benchmarkEncode(b, strings.Repeat("loremipsumdolorsitamet", 1<<16))
}

func benchmarkEncode(b *testing.B, text string) {
	for _, model := range benchModels {
		b.Run(model, func(b *testing.B) {
			tok := load(b, testenv.Model(b, model))
			var ids []int32
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				ids = tok.AppendEncode(ids[:0], text, tokenizer.EncodeOptions{})
			}
		})
	}
}

// BenchmarkLoad reads a vocabulary from an open model file.
func BenchmarkLoad(b *testing.B) {
	for _, model := range benchModels {
		b.Run(model, func(b *testing.B) {
			f, err := gguf.Open(testenv.Model(b, model))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tokenizer.FromGGUF(f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
