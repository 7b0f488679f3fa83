package checkpoint_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/checkpoint"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/safetensors"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/tokenizer"
	"pgregory.net/rapid"
)

// object is a JSON object.
type object = map[string]any

// copyOf copies a checkpoint of testdata, with one JSON file edited.
func copyOf(t testing.TB, from, file string, edit func(object)) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", from))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, file)
	v := object{}
	if raw, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
	}
	edit(v)
	writeJSON(t, path, v)
	return dir
}

func set(key string, value any) func(object) { return func(o object) { o[key] = value } }

// in edits an object within an object.
func in(key string, edit func(object)) func(object) {
	return func(o object) { edit(o[key].(object)) }
}

// Everything that would be computed wrong is an error that says what was found and what is supported.
func TestUnsupported(t *testing.T) {
	pre := func(steps ...any) func(object) {
		return set("pre_tokenizer", object{"type": "Sequence", "pretokenizers": steps})
	}
	for _, c := range []struct {
		from, file string
		edit       func(object)
		want       string
	}{
		{"llama", "config.json", set("architectures", []string{"GPTBigCodeForCausalLM"}), `config.json: architectures ["GPTBigCodeForCausalLM"] with model_type "llama" are not supported; supported: Gemma3ForCausalLM, Gemma3ForConditionalGeneration, LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM`},
		{"llama", "config.json", func(o object) { delete(o, "architectures"); o["model_type"] = "t5" }, `architectures [] with model_type "t5" are not supported`},
		{"llama", "config.json", func(o object) { o["architectures"], o["num_local_experts"] = []string{"MixtralForCausalLM"}, 8 }, `"MixtralForCausalLM" has num_local_experts = 8: mixtures of experts are not supported`},
		{"llama", "config.json", set("quantization_config", object{"quant_method": "gptq", "bits": 4}), `quantization_config of method "gptq": quantised checkpoints are not supported`},
		{"llama", "config.json", set("hidden_act", "relu"), `activation "relu" is not supported in a LlamaForCausalLM; supported: silu`},
		{"llama", "config.json", set("hidden_size", nil), `hidden_size: not found`},
		{"llama", "config.json", set("hidden_size", 1<<30), `hidden_size = 1073741824: expected 1 to 1048576`},
		{"llama", "config.json", set("num_attention_heads", -4), `num_attention_heads = -4: expected 1`},
		{"llama", "config.json", set("num_key_value_heads", 3), `tensor "model.layers.0.self_attn.k_proj.weight" has 16 rows; expected a multiple of 2 for each of 3 heads`},
		{"llama", "config.json", set("head_dim", 7), `head_dim = 7: expected an even number`},
		{"llama", "config.json", set("rms_norm_eps", -1), `rms_norm_eps = -1: expected 0 to 1`},
		{"llama", "config.json", set("num_hidden_layers", 1), `tensor "model.layers.1.input_layernorm.weight" has no place in a LlamaForCausalLM of 1 layers`},
		{"llama", "config.json", set("partial_rotary_factor", 0.5), `partial_rotary_factor = 0.5 is not supported`},
		{"llama", "config.json", set("max_position_embeddings", "many"), `config.json: json: cannot unmarshal string into Go struct field`},
		{"llama", "config.json", in("rope_parameters", set("rope_type", "longrope")), `rope scaling of type "longrope" is not supported; supported: default, linear, yarn, llama3`},
		{"llama", "config.json", in("rope_parameters", set("factor", nil)), `rope scaling of type llama3: factor: not found`},
		{"llama", "config.json", in("rope_parameters", set("low_freq_factor", 4)), `expected the latter to be greater`},
		{"llama", "config.json", in("rope_parameters", set("rope_theta", 0)), `rope_theta = 0: expected a finite number above 1`},
		{"llama-linear", "config.json", in("rope_parameters", set("factor", -2)), `factor = -2: expected a positive number`},
		{"qwen2", "config.json", in("rope_parameters", set("truncate", false)), `truncate = false is not supported`},
		{"qwen2", "config.json", in("rope_parameters", set("factor", 0.5)), `factor = 0.5 over 64 tokens: expected at least 1`},
		{"llama-linear", "config.json", set("architectures", []string{"Qwen3ForCausalLM"}), `tensor blk.0.attn_q_norm.weight: not found; every layer of a Qwen3ForCausalLM has one`},
		{"llama", "config.json", set("tie_word_embeddings", nil), ``},
		{"llama-linear", "config.json", set("tie_word_embeddings", false), `tensor lm_head.weight: not found, though tie_word_embeddings is false`},
		{"gemma3", "config.json", set("final_logit_softcapping", 30.0), `softcapping are not supported`},
		{"gemma3", "config.json", set("query_pre_attn_scalar", 20), `query_pre_attn_scalar = 20 is not supported in a Gemma3ForCausalLM of 7 layers; supported: 16`},
		{"gemma3", "config.json", func(o object) { o["_sliding_window_pattern"] = 3; delete(o, "layer_types") }, `layer 2 has a sliding window: false; supported is a window in all but every sixth layer`},
		{"gemma3", "config.json", set("layer_types", []string{"full_attention"}), `layer_types has 1 entries; expected one a layer, 7`},
		{"gemma3", "config.json", set("sliding_window", 0), `sliding_window = 0: expected 1 to`},
		{"gemma3", "config.json", set("use_bidirectional_attention", true), `use_bidirectional_attention is not supported`},
		{"gemma3", "config.json", in("rope_parameters", in("sliding_attention", set("rope_theta", 5000))), `rope of the sliding layers: type "default" with base 5000 is not supported`},
		{"gemma3-vision", "config.json", set("text_config", nil), `text_config: not found`},

		{"llama", "tokenizer.json", in("model", set("type", "Unigram")), `tokenizer.json: model of type "Unigram" is not supported; supported: BPE`},
		{"llama", "tokenizer.json", in("model", set("end_of_word_suffix", "</w>")), `end_of_word_suffix are not supported`},
		{"llama", "tokenizer.json", in("model", set("vocab", object{"a": 5000})), `token "a" has id 5000; expected 0 to 303, for which the network has embeddings`},
		{"llama", "tokenizer.json", in("model", in("vocab", set("twin", 9))), `id 9 is that of two tokens`},
		{"llama", "tokenizer.json", in("model", set("vocab", []string{"a"})), `vocab: found "[\"a\"]", expected an object`},
		{"llama", "tokenizer.json", in("model", set("merges", []string{"ab"})), `merge 0: found "ab", expected two texts separated by a blank`},
		{"llama", "tokenizer.json", in("model", set("merges", []any{[]string{"a", "b", "c"}})), `merge 0: expected two texts`},
		{"llama", "tokenizer.json", in("model", set("merges", []any{[]string{"a b", "c"}})), `merge 0 is of "a b" and "c"; expected texts without a blank`},
		{"llama", "tokenizer.json", in("model", set("ignore_merges", false)), ``},
		{"qwen2", "tokenizer.json", in("model", set("ignore_merges", true)), `with ignore_merges true is not known; known are those of dbrx, deepseek-coder, deepseek-v3, gpt-2, gpt-4o, llama-bpe, qwen2, qwen35, smollm, tekken`},
		{"llama", "tokenizer.json", set("normalizer", object{"type": "Lowercase"}), `normalizer: Lowercase is not supported; supported in a vocabulary over bytes: NFC`},
		{"llama", "tokenizer.json", pre(object{"type": "Split", "pattern": object{"Regex": `\w+`}, "behavior": "Isolated"}, object{"type": "ByteLevel", "use_regex": false}), `a cut by ["\\w+"] with ignore_merges true is not known`},
		{"llama", "tokenizer.json", pre(object{"type": "Punctuation"}, object{"type": "ByteLevel"}), `Punctuation is not supported; supported are Split, Digits and ByteLevel`},
		{"llama", "tokenizer.json", pre(object{"type": "ByteLevel", "add_prefix_space": true}), `ByteLevel with add_prefix_space is not supported`},
		{"llama", "tokenizer.json", set("pre_tokenizer", nil), `neither works on bytes (pre_tokenizer ByteLevel) nor spells blanks as ▁`},
		{"llama", "tokenizer.json", set("pre_tokenizer", object{"type": "BertPreTokenizer"}), `pre_tokenizer: BertPreTokenizer is not supported`},
		{"mistral", "tokenizer.json", set("normalizer", object{"type": "NFKC"}), `normalizer: NFKC is not supported; supported in a vocabulary of pieces: Prepend and Replace`},
		{"mistral", "tokenizer.json", in("model", func(o object) { o["merges"] = o["merges"].([]any)[1:] }), `only merges that come from a sentencepiece model are supported here`},
		{"mistral", "tokenizer.json", in("model", set("merges", []string{"q q"})), `merge 0 makes "qq", which is no token`},
		{"mistral", "tokenizer.json", in("post_processor", set("single", []any{object{"SpecialToken": object{"id": "</s>"}}, object{"Sequence": object{"id": "A"}}})), `post_processor: puts ["</s>"] at an end of a text; supported are bos_token before it`},
		{"mistral", "tokenizer_config.json", set("bos_token", 5), `tokenizer_config.json: json: cannot unmarshal number`},
		{"mistral", "generation_config.json", set("eos_token_id", []int{2, 99999}), `special token 99999; expected 0 to`},
		{"mistral", "generation_config.json", set("eos_token_id", []int{300, 301, 302, 303}), `more than two tokens of unknown spelling end a generation`},
		{"mistral", "generation_config.json", set("eos_token_id", []int{2, 300, 301, 300}), ``},
	} {
		got, err := checkpoint.Open(copyOf(t, c.from, c.file, c.edit))
		if err == nil {
			if err := got.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "checkpoint: ")) {
			t.Errorf("%s/%s: error %v\nwant %q", c.from, c.file, err, c.want)
		}
	}
}

// Tensors that have no place, or not the type or the shape of a weight.
func TestTensorErrors(t *testing.T) {
	one := func(name string, d safetensors.DType, shape []uint64, bytes int) safetensors.Tensor {
		return safetensors.Tensor{Name: name, DType: d, Shape: shape, Data: make([]byte, bytes)}
	}
	for want, tensor := range map[string]safetensors.Tensor{
		`has no place in a LlamaForCausalLM of 2 layers`:                                                    one("model.layers.0.mlp.experts.1.w1", "F32", []uint64{1}, 4),
		`"model.layers.0.self_attn.q_norm.weight" has no place`:                                             one("model.layers.0.self_attn.q_norm.weight", "F32", []uint64{1}, 4),
		`"model.layers.00.mlp.up_proj.weight" has no place`:                                                 one("model.layers.00.mlp.up_proj.weight", "F32", []uint64{1}, 4),
		`"model.layers.0.input_layernorm.bias" has no place`:                                                one("model.layers.0.input_layernorm.bias", "F32", []uint64{1}, 4),
		`"transformer.h.0" has no place`:                                                                    one("transformer.h.0", "F32", []uint64{1}, 4),
		`"model.norm.weight" has elements of type I8; supported are F32, F16 and BF16: unquantised weights`: one("model.norm.weight", "I8", []uint64{1}, 1),
		`"model.norm.weight" has elements of type F8_E4M3; supported`:                                       one("model.norm.weight", "F8_E4M3", []uint64{1}, 1),
		`"model.norm.weight" has shape []; expected one or two dimensions`:                                  one("model.norm.weight", "F32", nil, 4),
		`"model.norm.weight" has shape [2 0]; expected one or two dimensions`:                               one("model.norm.weight", "F32", []uint64{2, 0}, 0),
		`"model.norm.weight" has shape [1 1 1]; expected`:                                                   one("model.norm.weight", "F32", []uint64{1, 1, 1}, 4),
		`expected 0 to -1`: one("model.norm.weight", "F32", []uint64{1}, 4), // no embeddings
	} {
		dir := copyOf(t, "llama", "config.json", set("tie_word_embeddings", nil))
		publish{}.tensors(t, filepath.Join(dir, "model.safetensors"), []safetensors.Tensor{tensor})
		if _, err := checkpoint.Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	// The twin names of the two kinds of text networks that also see.
	dir := copyOf(t, "gemma3-vision", "config.json", func(object) {})
	publish{}.tensors(t, filepath.Join(dir, "model.safetensors"), []safetensors.Tensor{
		one("language_model.model.norm.weight", "F32", []uint64{1}, 4), one("model.language_model.norm.weight", "F32", []uint64{1}, 4)})
	if _, err := checkpoint.Open(dir); err == nil || !strings.Contains(err.Error(), "are both output_norm.weight") {
		t.Error(err)
	}
}

// Folders without what a checkpoint has, or with something else in its place.
func TestFolderErrors(t *testing.T) {
	for name, change := range map[string]struct {
		do   func(dir string) error
		want string
	}{
		"config.json":       {func(dir string) error { return os.Remove(filepath.Join(dir, "config.json")) }, "config.json: no such file"},
		"model.safetensors": {func(dir string) error { return os.Remove(filepath.Join(dir, "model.safetensors")) }, "found neither model.safetensors nor"},
		"tokenizer":         {func(dir string) error { return os.Remove(filepath.Join(dir, "tokenizer.json")) }, "found neither tokenizer.json nor tokenizer.model"},
		"a folder": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "tokenizer.json")), os.Mkdir(filepath.Join(dir, "tokenizer.json"), 0o755))
		}, "expected a regular file"},
		"size": {func(dir string) error { return os.Truncate(filepath.Join(dir, "config.json"), 5<<20) }, "the file has more than 4194304 bytes"},
		"not UTF-8": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{\"\xff\":1}"), 0o644)
		}, "config.json: the text is not UTF-8"},
		"not JSON": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "generation_config.json"), []byte("{"), 0o644)
		}, "generation_config.json: unexpected end of JSON input"},
		"not a model": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "tokenizer.json")), os.WriteFile(filepath.Join(dir, "tokenizer.model"), []byte("hello"), 0o644))
		}, "tokenizer.model: field at 3 bytes from the end: the message is damaged"},
	} {
		dir := copyOf(t, "mistral", "config.json", func(object) {})
		if err := change.do(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := checkpoint.Open(dir); err == nil || !strings.Contains(err.Error(), change.want) {
			t.Errorf("%s: error %v, want %q", name, err, change.want)
		}
	}
	if _, err := checkpoint.Open(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent folder was opened")
	}
}

// A window of all layers ends the context: within it nothing is hidden.
func TestWindowEndsContext(t *testing.T) {
	for _, c := range []struct {
		from string
		edit func(object)
		want int
	}{
		{"mistral", func(object) {}, 64},
		{"mistral", set("sliding_window", nil), 256},
		{"mistral", func(o object) { delete(o, "sliding_window") }, 256}, // then 4096
		{"qwen2", func(o object) { o["use_sliding_window"], o["sliding_window"] = true, 100 }, 100},
		{"qwen2", func(o object) { o["use_sliding_window"], o["sliding_window"] = false, 100 }, 256},
		{"llama", set("sliding_window", 100), 256}, // not a key of this architecture
	} {
		h := must(model.ReadHyper(openCheckpoint(t, copyOf(t, c.from, "config.json", c.edit))))(t)
		if h.Context != c.want || h.Sliding != nil {
			t.Errorf("%s: context %d, want %d", c.from, h.Context, c.want)
		}
	}
}

// Llama 3.1's factors for its own parameters, from the formula in turns over the original context.
func TestLlama3Factors(t *testing.T) {
	dir := copyOf(t, "llama", "config.json", func(o object) {
		o["rope_parameters"] = object{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
		o["head_dim"], o["num_attention_heads"], o["num_key_value_heads"] = 128, 1, 1
	})
	factors, ok := openCheckpoint(t, dir).Tensor("rope_freqs.weight")
	if !ok || len(factors.Dims) != 1 || factors.Dims[0] != 64 {
		t.Fatalf("rope_freqs.weight is %v", factors.Dims)
	}
	x := make([]float32, 64)
	if err := tensor.Decode(factors.Type, x, factors.Data); err != nil {
		t.Fatal(err)
	}
	for i, got := range x {
		wavelength := 2 * math.Pi * math.Pow(500000, float64(2*i)/128)
		want := 1.0
		switch {
		case wavelength > 8192:
			want = 8
		case wavelength > 2048:
			smooth := (8192/wavelength - 1) / (4 - 1)
			want = 1 / ((1-smooth)/8 + smooth)
		}
		if math.Abs(float64(got)-want) > 1e-6*want {
			t.Errorf("factor %d is %v, want %v", i, got, want)
		}
	}
}

// Whatever a value of the JSON files is replaced by, the outcome is an error or a checkpoint that the engine reads or refuses.
func TestMutations(t *testing.T) {
	values := []string{"null", "true", "-1", "0", "1", "3", "1099511627776", "1e308", "-0.5", `""`, `"x"`, `"▁"`, `"BPE"`, `"ByteLevel"`, `"Sequence"`, `"yarn"`, `"llama3"`, "[]", `[1,"a"]`, "{}", `{"type":"Split"}`}
	type kind struct{ from, file string }
	var kinds []kind
	for _, from := range []string{"llama", "qwen2", "mistral", "gemma3", "gemma3-vision"} {
		for _, file := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"} {
			kinds = append(kinds, kind{from, file})
		}
	}
	opened := 0
	rapid.Check(t, func(r *rapid.T) {
		k := rapid.SampledFrom(kinds).Draw(r, "file")
		dir := copyOf(t, k.from, k.file, func(o object) {
			for range rapid.IntRange(1, 3).Draw(r, "changes") {
				mutate(r, o, values)
			}
		})
		c, err := checkpoint.Open(dir)
		if err != nil {
			return
		}
		opened++
		_, _ = model.ReadHyper(c)
		if tok, err := tokenizer.FromGGUF(c.File); err == nil {
			tok.Encode(sample, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true})
		}
		if err := c.Close(); err != nil {
			r.Fatal(err)
		}
	})
	if opened == 0 {
		t.Error("every change made the checkpoint unreadable")
	}
}

// mutate replaces a value somewhere in the object.
func mutate(r *rapid.T, o object, values []string) {
	keys := make([]string, 0, len(o))
	for key := range o {
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return
	}
	key := rapid.SampledFrom(sorted(keys)).Draw(r, "key")
	if inner, ok := o[key].(object); ok && rapid.Bool().Draw(r, "inner") {
		mutate(r, inner, values)
		return
	}
	var value any
	if err := json.Unmarshal([]byte(rapid.SampledFrom(values).Draw(r, "value")), &value); err != nil {
		r.Fatal(err)
	}
	o[key] = value
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}
