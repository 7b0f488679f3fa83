package testmodel_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testmodel"
	"github.com/twilight-go/twilight/tokenizer"
)

// Every model is a file that the readers take, whose tokenizer gives a text back, and whose bytes follow from its configuration.
func TestWrite(t *testing.T) {
	for _, arch := range []string{"llama", "qwen2", "qwen3", "gemma3"} {
		path := filepath.Join(t.TempDir(), "model.gguf")
		var files [][]byte
		for range 2 {
			if err := testmodel.Write(path, testmodel.Config{Arch: arch, Seed: 1, Type: tensor.Q8_0}); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, b)
		}
		if !bytes.Equal(files[0], files[1]) {
			t.Errorf("%s: two files of one configuration differ", arch)
		}
		f, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := tokenizer.FromGGUF(f)
		if err != nil {
			t.Fatal(err)
		}
		const text = "The theatre's 12 ätherisch notes — 東京!\n"
		ids := tok.Encode(text, tokenizer.EncodeOptions{})
		if got := tok.Decode(ids, tokenizer.DecodeOptions{}); got != text || len(ids) >= len(text) {
			t.Errorf("%s: %d tokens decode to %q, want %q", arch, len(ids), got, text)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		config testmodel.Config
		want   string
	}{
		{testmodel.Config{Vocab: 259}, "testmodel: a vocabulary of 259 tokens: expected 260 to 935"},
		{testmodel.Config{Vocab: 2000}, "testmodel: a vocabulary of 2000 tokens: expected 260 to 935"},
		{testmodel.Config{Type: tensor.Q4_K}, "testmodel: tensor token_embd.weight: tensor: a row of 64 elements is not a whole number of Q4_K blocks (256 elements each)"},
	} {
		if err := testmodel.Write(filepath.Join(t.TempDir(), "m"), c.config); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
