package checkpoint_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/safetensors"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/tokenizer"
)

// This file is the way back: a GGUF file as a checkpoint folder, as its publisher would have written it.

// publish says how a folder is written.
type publish struct {
	typ    tensor.Type    // of the matrices
	shards int            // files; 0: one without an index
	pairs  bool           // merges as pairs, as newer files have them
	pieces bool           // a sentencepiece model instead of tokenizer.json
	vision bool           // as the text half of a network that also sees
	config map[string]any // fields of config.json to add; nil values are left out
}

// write writes the folder.
func (p publish) write(t testing.TB, dir string, f *gguf.File) {
	t.Helper()
	arch := must(f.String("general.architecture"))(t)
	var tensors []safetensors.Tensor
	for _, g := range f.Tensors() {
		if name := publishedName(arch, g.Name); name != "" {
			if p.vision {
				name = "language_model." + name
			}
			tensors = append(tensors, p.tensor(t, f, arch, name, g))
		}
	}
	if p.vision {
		tensors = append(tensors, safetensors.Tensor{Name: "vision_tower.patches.weight", DType: "U8", Shape: []uint64{1, 1, 3}, Data: make([]byte, 3)})
	}
	if p.shards == 0 {
		p.tensors(t, filepath.Join(dir, "model.safetensors"), tensors)
	} else {
		index := map[string]string{}
		for i := range p.shards {
			name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, p.shards)
			part := tensors[len(tensors)*i/p.shards : len(tensors)*(i+1)/p.shards]
			for _, s := range part {
				index[s.Name] = name
			}
			p.tensors(t, filepath.Join(dir, name), part)
		}
		writeJSON(t, filepath.Join(dir, "model.safetensors.index.json"), map[string]any{"metadata": map[string]any{"total_size": 1}, "weight_map": index})
	}
	writeJSON(t, filepath.Join(dir, "config.json"), p.configOf(t, f, arch))
	p.tokenizer(t, dir, f)
}

func (p publish) tensors(t testing.TB, path string, tensors []safetensors.Tensor) {
	t.Helper()
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := safetensors.Write(w, map[string]string{"format": "pt"}, tensors); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// publishedName is the name that a GGUF file's tensor had; "" for one that is no tensor of the checkpoint.
func publishedName(arch, name string) string {
	switch name {
	case "token_embd.weight":
		return "model.embed_tokens.weight"
	case "output_norm.weight":
		return "model.norm.weight"
	case "output.weight":
		return "lm_head.weight"
	case "rope_freqs.weight":
		return ""
	}
	parts := strings.Split(name, ".") // blk, N, part, weight
	ffnNorm := "post_attention_layernorm"
	if arch == "gemma3" {
		ffnNorm = "pre_feedforward_layernorm"
	}
	part := map[string]string{"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
		"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": ffnNorm,
		"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
		"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}[parts[2]]
	return fmt.Sprintf("model.layers.%s.%s.%s", parts[1], part, parts[3])
}

// tensor undoes what a converter does.
func (p publish) tensor(t testing.TB, f *gguf.File, arch, name string, g gguf.Tensor) safetensors.Tensor {
	t.Helper()
	rows, cols := g.Rows(), g.Cols()
	x := make([]float32, rows*cols)
	if err := tensor.Decode(g.Type, x, g.Data); err != nil {
		t.Fatal(err)
	}
	if len(g.Dims) == 1 && strings.HasSuffix(name, "_proj.bias") {
		rows, cols = cols, 1
	}
	if part := strings.Split(g.Name, "."); arch == "llama" && len(part) > 2 && (part[2] == "attn_q" || part[2] == "attn_k") {
		key := map[string]string{"attn_q": "head_count", "attn_k": "head_count_kv"}[part[2]]
		y := make([]float32, len(x))
		dim := rows / int(must(f.Uint(arch+".attention."+key))(t))
		for r := range rows { // row 2i+j of a head came from row i + j·dim/2
			i := r % dim
			copy(y[(r-i+i/2+i%2*dim/2)*cols:][:cols], x[r*cols:][:cols])
		}
		x = y
	}
	if arch == "gemma3" && strings.HasSuffix(name, "norm.weight") {
		for i := range x {
			x[i]--
		}
	}
	s := safetensors.Tensor{Name: name, DType: "F32"}
	typ := tensor.F32
	for _, d := range slices.Backward(g.Dims) {
		s.Shape = append(s.Shape, d)
	}
	if len(g.Dims) == 2 {
		typ = p.typ
		s.DType = safetensors.DType(typ.String())
	}
	s.Data = encode(t, typ, x)
	return s
}

func encode(t testing.TB, typ tensor.Type, x []float32) []byte {
	t.Helper()
	data := make([]byte, len(x)*typ.BlockBytes())
	if err := tensor.Encode(typ, data, x); err != nil {
		t.Fatal(err)
	}
	return data
}

// configOf is config.json.
func (p publish) configOf(t testing.TB, f *gguf.File, arch string) map[string]any {
	t.Helper()
	title := map[string]string{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "gemma3": "Gemma3ForCausalLM"}[arch]
	modelType := map[string]string{"gemma3": "gemma3_text"}[arch]
	if modelType == "" {
		modelType = arch
	}
	number := func(key string) uint64 {
		if !f.Has(arch + "." + key) { // a file of a vocabulary alone
			if key == "embedding_length" {
				return 4
			}
			return 2
		}
		return must(f.Uint(arch + "." + key))(t)
	}
	_, separate := f.Tensor("output.weight")
	vocab, _ := f.Tensor("token_embd.weight")
	c := map[string]any{
		"architectures": []string{title}, "model_type": modelType, "vocab_size": vocab.Rows(), "num_hidden_layers": number("block_count"),
		"hidden_size": number("embedding_length"), "intermediate_size": number("feed_forward_length"), "num_attention_heads": number("attention.head_count"),
		"num_key_value_heads": number("attention.head_count_kv"), "max_position_embeddings": number("context_length"), "tie_word_embeddings": !separate,
		"hidden_act": "silu", "torch_dtype": "bfloat16",
	}
	for key, from := range map[string]string{"rms_norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base"} {
		if f.Has(arch + "." + from) {
			c[key] = float32(must(f.Float(arch + "." + from))(t))
		}
	}
	if f.Has("general.name") {
		c["_name_or_path"] = must(f.String("general.name"))(t)
	}
	if f.Has(arch + ".attention.key_length") {
		c["head_dim"] = number("attention.key_length")
	}
	if title == "" {
		c["architectures"] = []string{"LlamaForCausalLM"}
	}
	if arch == "gemma3" {
		delete(c, "hidden_act")
		c["hidden_activation"], c["rope_local_base_freq"], c["sliding_window"] = "gelu_pytorch_tanh", 10000, number("attention.sliding_window")
		c["query_pre_attn_scalar"], c["attn_logit_softcapping"] = c["head_dim"], nil
	}
	maps.Copy(c, p.config)
	if p.vision {
		delete(c, "architectures")
		return map[string]any{"architectures": []string{"Gemma3ForConditionalGeneration"}, "model_type": "gemma3", "text_config": c, "eos_token_id": []int{1}}
	}
	return c
}

// tokenizer writes tokenizer.json and what goes with it.
func (p publish) tokenizer(t testing.TB, dir string, f *gguf.File) {
	t.Helper()
	c := must(tokenizer.ConfigFromGGUF(f))(t)
	pieces := c.Model == "llama"
	if p.pieces {
		writePieces(t, dir, &c)
		return
	}
	vocab, added := map[string]int{}, []any{}
	for id, text := range c.Tokens {
		if tokenizer.Kind(c.Types[id]) == tokenizer.Unused { // a hole that a converter filled
			continue
		}
		vocab[text] = id
		if kind := tokenizer.Kind(c.Types[id]); kind != tokenizer.Normal && kind != tokenizer.Byte {
			added = append(added, map[string]any{"id": id, "content": text, "special": kind != tokenizer.UserDefined, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
		}
	}
	model := map[string]any{"type": "BPE", "vocab": vocab, "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "byte_fallback": pieces, "ignore_merges": false}
	file := map[string]any{"version": "1.0", "truncation": nil, "added_tokens": added, "normalizer": nil, "post_processor": nil, "model": model}
	split := func(expr string) any {
		return map[string]any{"type": "Split", "pattern": map[string]any{"Regex": expr}, "behavior": "Isolated", "invert": false}
	}
	bytes := func(regex bool) any {
		return map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex}
	}
	if pieces {
		replace := map[string]any{"type": "Replace", "pattern": map[string]any{"String": " "}, "content": "▁"}
		file["normalizer"] = replace
		if c.AddSpacePrefix == nil || *c.AddSpacePrefix {
			file["normalizer"] = map[string]any{"type": "Sequence", "normalizers": []any{map[string]any{"type": "Prepend", "prepend": "▁"}, replace}}
		}
		file["pre_tokenizer"] = map[string]any{"type": "Split", "pattern": map[string]any{"String": " "}, "behavior": "MergedWithPrevious", "invert": false}
		model["unk_token"] = c.Tokens[c.Special[tokenizer.RoleUNK]]
		c.Merges = mergesOf(&c)
	} else {
		steps := map[string][]any{
			"gpt-2":  {bytes(true)},
			"smollm": {map[string]any{"type": "Digits", "individual_digits": true}, bytes(true)},
			"qwen2":  {split(`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`), bytes(false)},
		}[strings.Replace(c.Pre, "starcoder", "smollm", 1)]
		file["pre_tokenizer"] = map[string]any{"type": "Sequence", "pretokenizers": steps}
	}
	merges := []any{}
	for _, m := range c.Merges {
		if p.pairs {
			left, right, _ := strings.Cut(m[1:], " ")
			merges = append(merges, []string{m[:1] + left, right})
		} else {
			merges = append(merges, m)
		}
	}
	model["merges"] = merges
	token := func(r tokenizer.Role) any {
		if id, ok := c.Special[r]; ok && id != tokenizer.None {
			return c.Tokens[id]
		}
		return nil
	}
	if c.AddBOS != nil && *c.AddBOS {
		file["post_processor"] = map[string]any{"type": "TemplateProcessing", "single": []any{
			map[string]any{"SpecialToken": map[string]any{"id": token(tokenizer.RoleBOS), "type_id": 0}}, map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}},
			"pair": []any{}, "special_tokens": map[string]any{}}
	}
	settings := map[string]any{"bos_token": token(tokenizer.RoleBOS), "eos_token": map[string]any{"__type": "AddedToken", "content": token(tokenizer.RoleEOS), "lstrip": false},
		"unk_token": token(tokenizer.RoleUNK), "pad_token": token(tokenizer.RolePAD), "model_max_length": 1e30, "tokenizer_class": "PreTrainedTokenizerFast"}
	if f.Has("tokenizer.chat_template") {
		settings["chat_template"] = must(f.String("tokenizer.chat_template"))(t)
	}
	writeJSON(t, filepath.Join(dir, "tokenizer.json"), file)
	writeJSON(t, filepath.Join(dir, "tokenizer_config.json"), settings)
	writeJSON(t, filepath.Join(dir, "generation_config.json"), map[string]any{"eos_token_id": []int32{c.Special[tokenizer.RoleEOS]}})
}

// writePieces writes tokenizer.model and tokenizer_config.json.
func writePieces(t testing.TB, dir string, c *tokenizer.Config) {
	t.Helper()
	field := func(b []byte, number int, sub []byte) []byte {
		b = binary.AppendUvarint(b, uint64(number)<<3|2)
		return append(binary.AppendUvarint(b, uint64(len(sub))), sub...)
	}
	var out []byte
	added := map[string]any{}
	for id, text := range c.Tokens {
		kind := tokenizer.Kind(c.Types[id])
		if len(added) > 0 || c.Scores[id] == -1000 && id > 30000 { // what came with fine-tuning
			added[fmt.Sprint(id)] = map[string]any{"content": text, "special": kind == tokenizer.Control}
			continue
		}
		piece := field(nil, 1, []byte(text))
		piece = binary.LittleEndian.AppendUint32(append(piece, 2<<3|5), math.Float32bits(c.Scores[id]))
		piece = append(piece, 3<<3, byte(kind))
		out = field(out, 1, piece)
	}
	prefix := byte(1)
	if c.AddSpacePrefix != nil && !*c.AddSpacePrefix {
		prefix = 0
	}
	out = field(out, 2, []byte{3 << 3, 2})
	out = field(out, 3, []byte{3 << 3, prefix, 4 << 3, 0})
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.model"), out, 0o644); err != nil {
		t.Fatal(err)
	}
	settings := map[string]any{"bos_token": c.Tokens[c.Special[tokenizer.RoleBOS]], "eos_token": c.Tokens[c.Special[tokenizer.RoleEOS]],
		"add_bos_token": true, "add_eos_token": false, "added_tokens_decoder": added}
	if id, ok := c.Special[tokenizer.RolePAD]; ok {
		settings["pad_token"] = c.Tokens[id]
	}
	writeJSON(t, filepath.Join(dir, "tokenizer_config.json"), settings)
}

// mergesOf makes the merges that transformers makes of a sentencepiece model: every pair of pieces whose joint text is a piece, by that piece's score.
func mergesOf(c *tokenizer.Config) []string {
	ids := map[string]int{}
	for id, text := range c.Tokens {
		ids[text] = id
	}
	type merge struct {
		text  string
		score float32
		id    int
	}
	var all []merge
	for id, text := range c.Tokens {
		if tokenizer.Kind(c.Types[id]) != tokenizer.Normal {
			continue
		}
		for i := range text {
			_, left := ids[text[:i]]
			if _, right := ids[text[i:]]; left && right && i > 0 {
				all = append(all, merge{text[:i] + " " + text[i:], c.Scores[id], id})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b merge) int {
		switch {
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return a.id - b.id
	})
	out := make([]string, len(all))
	for i, m := range all {
		out[i] = m.text
	}
	return out
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// must returns the value of a call that may not fail.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// same fails where two logits differ at all.
func same(t testing.TB, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d logits, want %d", len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("logit %d is %v, want %v", i, got[i], want[i])
		}
	}
}
