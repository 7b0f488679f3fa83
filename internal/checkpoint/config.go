package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/tensor"
)

// config is config.json, as far as it is read. A field that is null is nil; one that is absent is the class's default.
type config struct {
	Architectures []string        `json:"architectures"`
	ModelType     string          `json:"model_type"`
	Name          string          `json:"_name_or_path"`
	Text          json.RawMessage `json:"text_config"` // of a network that also sees
	Quantization  *struct {
		Method string `json:"quant_method"`
	} `json:"quantization_config"`
	Experts       *int64 `json:"num_experts"`
	LocalExperts  *int64 `json:"num_local_experts"`
	RoutedExperts *int64 `json:"n_routed_experts"`

	Layers  *int64   `json:"num_hidden_layers"`
	Embed   *int64   `json:"hidden_size"`
	FFN     *int64   `json:"intermediate_size"`
	Heads   *int64   `json:"num_attention_heads"`
	KVHeads *int64   `json:"num_key_value_heads"`
	HeadDim *int64   `json:"head_dim"`
	Context *int64   `json:"max_position_embeddings"`
	Eps     *float64 `json:"rms_norm_eps"`
	Act     *string  `json:"hidden_act"`
	Act2    *string  `json:"hidden_activation"` // wins over hidden_act
	Tied    *bool    `json:"tie_word_embeddings"`
	BOS     *int64   `json:"bos_token_id"`
	EOS     ids      `json:"eos_token_id"`

	UseWindow  *bool    `json:"use_sliding_window"`
	Window     *int64   `json:"sliding_window"`
	Pattern    *int64   `json:"sliding_window_pattern"` // every so-many-th layer has no window
	Pattern2   *int64   `json:"_sliding_window_pattern"`
	LayerTypes []string `json:"layer_types"`
	// The attention logits are divided by the root of this.
	AttnScalar    *float64 `json:"query_pre_attn_scalar"`
	AttnCap       *float64 `json:"attn_logit_softcapping"`
	FinalCap      *float64 `json:"final_logit_softcapping"`
	Bidirectional *bool    `json:"use_bidirectional_attention"`

	rotary
}

// ids is a token id, or a list of them.
type ids []int64

// UnmarshalJSON implements json.Unmarshaler.
func (x *ids) UnmarshalJSON(data []byte) error {
	if data[0] == '[' {
		return json.Unmarshal(data, (*[]int64)(x))
	}
	var one *int64
	err := json.Unmarshal(data, &one)
	if *x = nil; one != nil {
		*x = ids{*one}
	}
	return err
}

// class is what this engine knows of an architecture.
type class struct {
	modelType string        // config.json's model_type, which stands for the architecture where that is missing
	arch      string        // GGUF's general.architecture
	defaults  func() config // what transformers takes where config.json is silent

	sideBySide bool // GGUF files of the architecture hold rotated channels side by side
	headNorms  bool // norms on query and key heads
	fourNorms  bool // norms before and after each half of a layer
	onePlus    bool // norms multiply by 1 + weight
	locals     bool // layers with a window take turns with layers without
	vision     bool // a network that also sees; its text half is run
	act        string
}

const silu, gelu = "silu", "gelu_pytorch_tanh"

// classes are the supported architectures, by the name that checkpoints give them.
var classes = map[string]class{
	"LlamaForCausalLM": {modelType: "llama", arch: "llama", act: silu, sideBySide: true, defaults: func() config { return config{} }},
	"MistralForCausalLM": {modelType: "mistral", arch: "llama", act: silu, sideBySide: true,
		defaults: func() config { return config{KVHeads: new(int64(8)), UseWindow: new(true), Window: new(int64(4096))} }},
	"Qwen2ForCausalLM": {modelType: "qwen2", arch: "qwen2", act: silu, defaults: func() config { return config{Window: new(int64(4096))} }},
	"Qwen3ForCausalLM": {modelType: "qwen3", arch: "qwen3", act: silu, headNorms: true,
		defaults: func() config { return config{HeadDim: new(int64(128)), Window: new(int64(4096))} }},
	"Gemma3ForCausalLM":              gemma3("gemma3_text", false),
	"Gemma3ForConditionalGeneration": gemma3("gemma3", true), // 4B, 12B and 27B
}

func gemma3(modelType string, vision bool) class {
	return class{modelType: modelType, arch: "gemma3", act: gelu, headNorms: true, fourNorms: true, onePlus: true, locals: true, vision: vision,
		defaults: func() config {
			return config{Heads: new(int64(8)), KVHeads: new(int64(4)), HeadDim: new(int64(256)), Context: new(int64(131072)), Tied: new(true),
				AttnScalar: new(256.0), Window: new(int64(4096)), rotary: rotary{Base: new(1e6), LocalBase: new(1e4)}}
		}}
}

// network is a config.json understood.
type network struct {
	class
	title, name string // of the architecture; of the model, which may be empty

	layers, embed, ffn, heads, kvHeads, headDim, context, window int64

	eps          float64
	tied, untied bool // config.json says that the output matrix is the embeddings; that it is not
	rope         rope
	ropeFactors  []float32 // what the rotary frequencies are divided by; nil: nothing
	prefixes     []string  // of the tensors of the text's network
	other        []string  // of tensors that belong to another half
	bos          *int64
	eos          ids
}

// parseConfig reads config.json.
func parseConfig(raw []byte) (*network, error) {
	var first config
	if err := decode(raw, &first); err != nil {
		return nil, err
	}
	n, err := first.class()
	if err != nil {
		return nil, err
	}
	c := n.defaults()
	if err := decode(raw, &c); err != nil {
		return nil, err
	}
	n.bos, n.eos = c.BOS, c.EOS
	n.prefixes = []string{"model."}
	if n.vision {
		if c.Text == nil || string(c.Text) == "null" {
			return nil, errors.New("text_config: not found")
		}
		if err := decode(c.Text, &c); err != nil {
			return nil, fmt.Errorf("text_config: %w", err)
		}
		n.prefixes = []string{"language_model.model.", "model.language_model."}
		n.other = []string{"vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."}
	}
	if n.name = path.Base(c.Name); n.name == "." {
		n.name = ""
	}
	return n, n.read(&c)
}

// class finds what is known of the architecture.
func (c *config) class() (*network, error) {
	title := ""
	if len(c.Architectures) > 0 {
		title = c.Architectures[0]
	} else {
		for name, k := range classes {
			if k.modelType == c.ModelType {
				title = name
			}
		}
	}
	for _, e := range []struct {
		key string
		n   *int64
	}{{"num_experts", c.Experts}, {"num_local_experts", c.LocalExperts}, {"n_routed_experts", c.RoutedExperts}} {
		if e.n != nil && *e.n > 0 {
			return nil, fmt.Errorf("%.100q has %s = %d: mixtures of experts are not supported", title, e.key, *e.n)
		}
	}
	known, ok := classes[title]
	if !ok {
		return nil, fmt.Errorf("architectures %.200q with model_type %.100q are not supported; supported: %s",
			c.Architectures, c.ModelType, strings.Join(slices.Sorted(maps.Keys(classes)), ", "))
	}
	if c.Quantization != nil {
		return nil, fmt.Errorf("quantization_config of method %.100q: quantised checkpoints are not supported, only F32, F16 and BF16 weights (or a GGUF file)", c.Quantization.Method)
	}
	return &network{class: known, title: title}, nil
}

// read fills in the network from its config.
func (n *network) read(c *config) error {
	const maxWidth, maxLayers = 1 << 20, 1 << 10
	for _, f := range []struct {
		key  string
		from *int64
		to   *int64
		most int64
	}{
		{"num_hidden_layers", c.Layers, &n.layers, maxLayers}, {"hidden_size", c.Embed, &n.embed, maxWidth}, {"intermediate_size", c.FFN, &n.ffn, maxWidth},
		{"num_attention_heads", c.Heads, &n.heads, maxWidth}, {"num_key_value_heads", or(c.KVHeads, c.Heads), &n.kvHeads, maxWidth},
		{"max_position_embeddings", c.Context, &n.context, math.MaxInt32},
	} {
		if f.from == nil {
			return fmt.Errorf("%s: not found", f.key)
		}
		if *f.from < 1 || *f.from > f.most {
			return fmt.Errorf("%s = %d: expected 1 to %d", f.key, *f.from, f.most)
		}
		*f.to = *f.from
	}
	n.headDim = *or(c.HeadDim, new(n.embed/n.heads))
	if n.headDim < 2 || n.headDim > maxWidth || n.headDim%2 != 0 {
		return fmt.Errorf("head_dim = %d: expected an even number from 2 to %d", n.headDim, maxWidth)
	}
	if n.eps = *or(c.Eps, new(1e-6)); !(n.eps >= 0 && n.eps < 1) {
		return fmt.Errorf("rms_norm_eps = %v: expected 0 to 1", n.eps)
	}
	if act := *or(or(c.Act2, c.Act), new(n.act)); act != n.act && !(n.act == silu && act == "swish") {
		return fmt.Errorf("activation %.100q is not supported in a %s; supported: %s", act, n.title, n.act)
	}
	if c.Tied != nil {
		n.tied, n.untied = *c.Tied, !*c.Tied
	}
	if err := n.rotation(&c.rotary); err != nil {
		return err
	}
	return n.windows(c)
}

// windows understands sliding windows, and what else is done to the attention of a network that has them.
func (n *network) windows(c *config) error {
	if c.Window != nil && (*c.Window < 1 || *c.Window > math.MaxInt32) {
		return fmt.Errorf("sliding_window = %d: expected 1 to %d", *c.Window, math.MaxInt32)
	}
	if !n.locals {
		if c.Window != nil && c.UseWindow != nil && *c.UseWindow {
			n.context = min(n.context, *c.Window) // so far a window hides nothing
		}
		return nil
	}
	const pattern, layers27B = 6, 62
	if c.Window == nil {
		return errors.New("sliding_window: not found")
	}
	n.window = *c.Window
	every := *or(or(c.Pattern, c.Pattern2), new(int64(pattern)))
	for l := range n.layers {
		local := every < 1 || (l+1)%every != 0
		if c.LayerTypes != nil {
			if int64(len(c.LayerTypes)) != n.layers {
				return fmt.Errorf("layer_types has %d entries; expected one a layer, %d", len(c.LayerTypes), n.layers)
			}
			local = c.LayerTypes[l] == "sliding_attention"
		}
		if local != (l%pattern != pattern-1) {
			return fmt.Errorf("layer %d has a sliding window: %v; supported is a window in all but every sixth layer of a %s", l, local, n.title)
		}
	}
	scalar := float64(n.headDim)
	if n.layers == layers27B {
		scalar = float64(n.embed) / float64(n.heads)
	}
	if c.AttnScalar != nil && *c.AttnScalar != scalar {
		return fmt.Errorf("query_pre_attn_scalar = %v is not supported in a %s of %d layers; supported: %v", *c.AttnScalar, n.title, n.layers, scalar)
	}
	if c.AttnCap != nil || c.FinalCap != nil {
		return errors.New("attn_logit_softcapping and final_logit_softcapping are not supported")
	}
	if c.Bidirectional != nil && *c.Bidirectional {
		return errors.New("use_bidirectional_attention is not supported")
	}
	return nil
}

// or is the first pointer that is not nil.
func or[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// metadata is the network under GGUF's keys. mostly is the type of most weights.
func (n *network) metadata(mostly tensor.Type, vocab int) []gguf.KV {
	fileTypes := map[tensor.Type]uint32{tensor.F32: 0, tensor.F16: 1, tensor.BF16: 32} // general.file_type
	key := func(name string) string { return n.arch + "." + name }
	kv := []gguf.KV{
		{Key: "general.architecture", Value: n.arch},
		{Key: "general.type", Value: "model"},
		{Key: "general.name", Value: n.name},
		{Key: "general.file_type", Value: fileTypes[mostly]},
		{Key: key("block_count"), Value: uint32(n.layers)},
		{Key: key("context_length"), Value: uint32(n.context)},
		{Key: key("embedding_length"), Value: uint32(n.embed)},
		{Key: key("feed_forward_length"), Value: uint32(n.ffn)},
		{Key: key("attention.head_count"), Value: uint32(n.heads)},
		{Key: key("attention.head_count_kv"), Value: uint32(n.kvHeads)},
		{Key: key("attention.key_length"), Value: uint32(n.headDim)},
		{Key: key("attention.value_length"), Value: uint32(n.headDim)},
		{Key: key("attention.layer_norm_rms_epsilon"), Value: float32(n.eps)},
		{Key: key("vocab_size"), Value: uint32(vocab)},
		{Key: key("rope.dimension_count"), Value: uint32(n.headDim)},
	}
	if n.window > 0 {
		kv = append(kv, gguf.KV{Key: key("attention.sliding_window"), Value: uint32(n.window)})
	}
	return append(kv, n.rope.metadata(key)...)
}
