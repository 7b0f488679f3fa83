package tokenizer

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/gguf"
)

// file writes metadata as a GGUF file and opens it.
func file(t *testing.T, meta []gguf.KV) *gguf.File {
	t.Helper()
	var b bytes.Buffer
	if err := gguf.Write(&b, meta, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("test.gguf", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// metadata is the vocabulary of a small llama model.
func metadata() []gguf.KV {
	c := characters("llama")
	return []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "tokenizer.ggml.model", Value: "llama"},
		{Key: "tokenizer.ggml.tokens", Value: c.Tokens},
		{Key: "tokenizer.ggml.scores", Value: c.Scores},
		{Key: "tokenizer.ggml.token_type", Value: c.Types},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(2)},
		{Key: "tokenizer.ggml.padding_token_id", Value: ^uint32(0)},
		{Key: "tokenizer.ggml.suffix_token_id", Value: uint32(7)},
		{Key: "tokenizer.ggml.add_eos_token", Value: true},
		{Key: "tokenizer.ggml.add_space_prefix", Value: false},
	}
}

func TestFromGGUF(t *testing.T) {
	tok, err := FromGGUF(file(t, metadata()))
	if err != nil {
		t.Fatal(err)
	}
	if tok.PAD() != None || tok.Special(RoleFIMSuf) != 7 || !tok.AddBOS() || !tok.AddEOS() || tok.addSpacePrefix {
		t.Errorf("pad %d, fim_suf %d, add bos %v, add eos %v, prefix %v", tok.PAD(), tok.Special(RoleFIMSuf), tok.AddBOS(), tok.AddEOS(), tok.addSpacePrefix)
	}
	c := characters("llama")
	c.AddEOS, c.AddSpacePrefix = new(true), new(false)
	const text = "a bad cafe 中"
	if got, want := tok.Encode(text, EncodeOptions{AddSpecial: true}), mustNew(t, c).Encode(text, EncodeOptions{AddSpecial: true}); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestFromGGUFRefuses(t *testing.T) {
	for _, c := range []struct {
		key   string
		value any // nil: absent
		want  string
	}{
		{"tokenizer.ggml.model", nil, `"tokenizer.ggml.model": not found`},
		{"tokenizer.ggml.model", "rwkv", `test.gguf: tokenizer: unknown model "rwkv"`},
		{"tokenizer.ggml.tokens", nil, `"tokenizer.ggml.tokens": not found`},
		{"tokenizer.ggml.tokens", uint32(5), `"tokenizer.ggml.tokens": found`},
		{"tokenizer.ggml.scores", "none", `"tokenizer.ggml.scores": found`},
		{"tokenizer.ggml.bos_token_id", uint32(1 << 31), `bos_token_id is 2147483648`},
		{"tokenizer.ggml.bos_token_id", uint32(1 << 30), `the bos token's id is 1073741824`},
		{"tokenizer.ggml.bos_token_id", "one", `"tokenizer.ggml.bos_token_id": found`},
		{"tokenizer.ggml.add_eos_token", uint32(1), `"tokenizer.ggml.add_eos_token": found`},
	} {
		meta := slices.DeleteFunc(metadata(), func(kv gguf.KV) bool { return kv.Key == c.key })
		if c.value != nil {
			meta = append(meta, gguf.KV{Key: c.key, Value: c.value})
		}
		if _, err := FromGGUF(file(t, meta)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: error %v, want one with %q", c.key, c.value, err, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		Normal.String(): "normal", Byte.String(): "byte", Kind(99).String(): "kind 99", RoleBOS.String(): "bos", RoleFIMSep.String(): "fim_sep", Role(99).String(): "role 99",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
