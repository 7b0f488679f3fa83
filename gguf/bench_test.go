package gguf

import (
	"strconv"
	"testing"
)

// BenchmarkVocabulary checks a file whose vocabulary is as large as Gemma's, and copies the vocabulary out.
func BenchmarkVocabulary(b *testing.B) {
	tokens := make([]string, 256<<10)
	for i := range tokens {
		tokens[i] = "token" + strconv.Itoa(i)
	}
	data := encode(b, 3, []KV{{"tokens", tokens}}, nil)
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			mustParse(b, data)
		}
	})
	f := mustParse(b, data)
	b.Run("strings", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := f.Strings("tokens"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fingerprint", func(b *testing.B) {
		for b.Loop() {
			f.Fingerprint()
		}
	})
}
