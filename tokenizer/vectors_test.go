package tokenizer_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/testenv"
	"github.com/twilight-go/twilight/tokenizer"
)

// load builds the tokenizer of a model file.
func load(t testing.TB, path string) *tokenizer.Tokenizer {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tok, err := tokenizer.FromGGUF(f)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// vocabularyOf returns the tokenizer of one of the shared vectors.
func vocabularyOf(t testing.TB, name string) *tokenizer.Tokenizer {
	switch name {
	case "qwen2":
		return load(t, testenv.Model(t, "qwen2.5-coder-0.5b"))
	case "llama-bpe":
		return llamaBPE(t)
	}
	return load(t, testenv.Shared(t, "tokenizers", "ggml-vocab-"+name+".gguf"))
}

// llamaBPE rebuilds Llama 3's vocabulary from its merges and its table of tokens.
func llamaBPE(t testing.TB) *tokenizer.Tokenizer {
	t.Helper()
	data, err := os.ReadFile(testenv.Shared(t, "tokenizers", "llama3.2-encoder.json"))
	if err != nil {
		t.Fatal(err)
	}
	var ids map[string]int32
	if err := json.Unmarshal(data, &ids); err != nil {
		t.Fatal(err)
	}
	const specials = 256
	c := tokenizer.Config{Model: "gpt2", Pre: "llama-bpe", Tokens: make([]string, len(ids)+specials), Types: make([]int32, len(ids)+specials)}
	for text, id := range ids {
		c.Tokens[id], c.Types[id] = text, int32(tokenizer.Normal)
	}
	for k := range specials {
		id := len(ids) + k
		c.Tokens[id], c.Types[id] = fmt.Sprintf("<|reserved_special_token_%d|>", k), int32(tokenizer.Control)
	}
	c.Tokens[128000], c.Tokens[128009] = "<|begin_of_text|>", "<|eot_id|>"
	c.Special = map[tokenizer.Role]int32{tokenizer.RoleBOS: 128000, tokenizer.RoleEOS: 128009}
	merges, err := os.ReadFile(testenv.Shared(t, "tokenizers", "llama3.2-vocab.bpe"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(merges)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && !strings.HasPrefix(line, "#version") {
			c.Merges = append(c.Merges, line)
		}
	}
	tok, err := tokenizer.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestVectors holds every shared vector whose vocabulary is at hand: texts between separators, and a line of ids for each.
func TestVectors(t *testing.T) {
	inputs, err := filepath.Glob(filepath.Join(testenv.Shared(t, "tokenizers"), "ggml-vocab-*.gguf.inp"))
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, in := range inputs {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(in), "ggml-vocab-"), ".gguf.inp")
		if _, err := os.Stat(strings.TrimSuffix(in, ".inp")); err != nil && name != "qwen2" && name != "llama-bpe" {
			continue // its vocabulary is not at hand: TestScannersMatchExpressions holds its pre-tokenizer
		}
		t.Run(name, func(t *testing.T) {
			tok := vocabularyOf(t, name)
			input, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			output, err := os.ReadFile(strings.TrimSuffix(in, ".inp") + ".out")
			if err != nil {
				t.Fatal(err)
			}
			texts := strings.Split(string(input), "\n__ggml_vocab_test__\n")
			lines := strings.Split(strings.TrimSuffix(string(output), "\n"), "\n")
			if len(lines) == len(texts)-1 { // the file ends with a separator
				texts = texts[:len(lines)]
			}
			if len(lines) != len(texts) {
				t.Fatalf("%d texts, %d lines of ids", len(texts), len(lines))
			}
			for i, text := range texts {
				var want []int32
				for field := range strings.FieldsSeq(lines[i]) {
					id, err := strconv.ParseInt(field, 10, 32)
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, int32(id))
				}
				if got := tok.Encode(text, tokenizer.EncodeOptions{}); !slices.Equal(got, want) {
					t.Errorf("%q:\n%s", text, cmp.Diff(want, got))
				}
			}
		})
	}
}

// TestGolden holds the ids of real prompts on real models, as llama.cpp gives them.
func TestGolden(t *testing.T) {
	for _, model := range []string{"smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"} {
		t.Run(model, func(t *testing.T) {
			data, err := os.ReadFile(testenv.Shared(t, "golden", model+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var golden struct {
				Prompts []struct {
					Prompt string
					IDs    []int32
				}
				Perplexity struct {
					Text  string
					Bytes int     `json:"bytes_from_start"`
					Count int     `json:"tokens"`
					First []int32 `json:"ids_first_32"`
				}
			}
			if err := json.Unmarshal(data, &golden); err != nil {
				t.Fatal(err)
			}
			tok := load(t, testenv.Model(t, model))
			opts := tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true}
			for _, p := range golden.Prompts {
				got := tok.Encode(p.Prompt, opts)
				if diff := cmp.Diff(p.IDs, got); diff != "" {
					t.Errorf("%q:\n%s", p.Prompt, diff)
				}
				if text := tok.Decode(got, tokenizer.DecodeOptions{TrimPrefix: true}); text != p.Prompt {
					t.Errorf("%q decodes to %q", p.Prompt, text)
				}
			}
			book, err := os.ReadFile(testenv.Shared(t, golden.Perplexity.Text))
			if err != nil {
				t.Fatal(err)
			}
			ids := tok.Encode(string(book[:golden.Perplexity.Bytes]), opts)
			if len(ids) < golden.Perplexity.Count {
				t.Fatalf("%d tokens, want at least %d", len(ids), golden.Perplexity.Count)
			}
			if diff := cmp.Diff(golden.Perplexity.First, ids[:len(golden.Perplexity.First)]); diff != "" {
				t.Error(diff)
			}
		})
	}
}
