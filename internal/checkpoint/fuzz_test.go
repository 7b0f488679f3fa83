package checkpoint

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/tokenizer"
)

// seeds adds the files that transformers wrote.
func seeds(f *testing.F, name string) {
	f.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "*", name))
	if err != nil || len(paths) == 0 {
		f.Fatalf("%d files called %s, error %v", len(paths), name, err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
}

// FuzzConfig: any bytes give an error, or numbers within their bounds that GGUF can hold.
func FuzzConfig(f *testing.F) {
	seeds(f, "config.json")
	f.Add([]byte(`{"architectures":["Qwen3ForCausalLM"],"num_hidden_layers":1,"hidden_size":1e3,"rope_parameters":{"full_attention":null}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := parseConfig(raw)
		if err != nil {
			return
		}
		for _, v := range []int64{n.layers, n.embed, n.ffn, n.heads, n.kvHeads, n.headDim} {
			if v < 1 || v > 1<<20 {
				t.Fatalf("%+v", n)
			}
		}
		if n.context < 1 || n.ropeFactors != nil && len(n.ropeFactors) != int(n.headDim/2) || !(n.rope.base > 1) {
			t.Fatalf("%+v", n)
		}
		for _, x := range n.ropeFactors {
			if !(x > 0) {
				t.Fatalf("rotary factors %v", n.ropeFactors)
			}
		}
		checkKeys(t, n.metadata(0, 1))
		_, _, _ = n.place("model.layers.0.self_attn.q_proj.weight")
	})
}

// FuzzTokenizer: any bytes give an error, or a vocabulary of at most so many tokens that encodes or is refused.
func FuzzTokenizer(f *testing.F) {
	seeds(f, "tokenizer.json")
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"▁":3},"merges":["a b",["a","b"]],"byte_fallback":true},"pre_tokenizer":{"type":"Metaspace"}}`))
	f.Add([]byte(`{"added_tokens":[{"id":1,"content":"\ud800","special":true}],"model":{"vocab":{"\u0120":0},"merges":[]},"pre_tokenizer":{"type":"ByteLevel"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		const rows = 400
		c, around, err := parseTokenizer(raw, rows)
		if err != nil {
			return
		}
		if len(c.Tokens) == 0 || len(c.Tokens) > rows || len(c.Types) != len(c.Tokens) || len(c.Scores) > 0 && len(c.Scores) != len(c.Tokens) {
			t.Fatalf("%d tokens, %d types, %d scores", len(c.Tokens), len(c.Types), len(c.Scores))
		}
		var s settings
		if s.around(&c, around) != nil || s.roles(&c, nil, ids{0, int64(len(c.Tokens) - 1)}) != nil {
			return
		}
		encodes(t, checkKeys(t, vocabularyKeys(&c)))
	})
}

// FuzzSettings: any bytes give an error, or settings that fit a vocabulary.
func FuzzSettings(f *testing.F) {
	seeds(f, "tokenizer_config.json")
	seeds(f, "generation_config.json")
	f.Add([]byte(`{"bos_token":{"content":"a"},"eos_token":"b","add_bos_token":true,"chat_template":[{"name":"default","template":"x"}],"added_tokens_decoder":{"3":{"content":"d"}},"eos_token_id":[1,2,0]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s settings
		var generation struct {
			EOS ids `json:"eos_token_id"`
			BOS *int64
		}
		if decode(raw, &s) != nil || decode(raw, &generation) != nil {
			return
		}
		c := tokenizer.Config{Model: "llama", Tokens: []string{"a", "b", "c", "d"}, Types: []int32{1, 1, 1, 1}, Special: map[tokenizer.Role]int32{}}
		if s.around(&c, frame{}) != nil || s.roles(&c, generation.BOS, generation.EOS) != nil {
			return
		}
		encodes(t, checkKeys(t, vocabularyKeys(&c)))
	})
}

// FuzzPieces: any bytes give an error, or a vocabulary of at most so many tokens.
func FuzzPieces(f *testing.F) {
	f.Add([]byte("\x0a\x0b\x0a\x05<unk>\x18\x02\x0a\x0a\x0a\x03\xe2\x96\x81\x15\x00\x00\x80\x3f\x12\x02\x18\x02\x1a\x02\x20\x00"))
	f.Add([]byte("\x0a\x01\x0d\x09\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		const rows = 100
		c, err := parsePieces(raw, []addedToken{{ID: 1, Content: "▁▁"}, {ID: 3, Content: "x", Special: true}}, rows)
		if err != nil {
			return
		}
		if len(c.Tokens) == 0 || len(c.Tokens) > rows || len(c.Types) != len(c.Tokens) || len(c.Scores) != len(c.Tokens) {
			t.Fatalf("%d tokens, %d types, %d scores", len(c.Tokens), len(c.Types), len(c.Scores))
		}
		encodes(t, checkKeys(t, vocabularyKeys(&c)))
	})
}

// checkKeys writes metadata and reads it again.
func checkKeys(t *testing.T, kv []gguf.KV) *gguf.File {
	t.Helper()
	f, err := inMemory("fuzz", kv)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// encodes makes a tokenizer, if the vocabulary allows, and uses it.
func encodes(t *testing.T, f *gguf.File) {
	t.Helper()
	tok, err := tokenizer.FromGGUF(f)
	if err != nil {
		return
	}
	for _, id := range tok.Encode("a bc\n<s>é", tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true}) {
		if id < 0 || int(id) >= tok.VocabSize() {
			t.Fatalf("token %d of %d", id, tok.VocabSize())
		}
	}
}
