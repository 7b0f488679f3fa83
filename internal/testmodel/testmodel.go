// Package testmodel makes small models from a seed, as the GGUF files that converters write: every architecture, any weight type, with a tokenizer and a chat
// template. Their text is nonsense, but their attention is neither uniform nor on single tokens, so that sparse attention has something to choose from.
package testmodel

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/tensor"
)

// Config is the shape of a model. Zero fields take the defaults of Defaults; a field that an architecture lacks is ignored.
type Config struct {
	Arch           string // llama, qwen2, qwen3 or gemma3
	Seed           uint64
	Layers         int
	Embed, FFN     int
	Heads, KVHeads int
	HeadDim        int
	Vocab          int
	Context        int
	Window         int         // of gemma3's sliding layers
	Type           tensor.Type // of the matrices; F32 if zero
	Rope           Rope
}

// Rope says how positions are encoded.
type Rope struct {
	Base     float32
	Scaling  string // "", linear or yarn
	Factor   float32
	Original int  // context before scaling
	Factors  bool // per-channel factors, as Llama 3.1 has them
}

// Defaults fills the zero fields: a model of some 300 KB that runs thousands of tokens a second.
func (c Config) Defaults() Config {
	set := func(at *int, v int) {
		if *at == 0 {
			*at = v
		}
	}
	if c.Arch == "" {
		c.Arch = "llama"
	}
	layers := 4
	if c.Arch == "gemma3" {
		layers = 7 // the sixth is global
	}
	set(&c.Layers, layers)
	set(&c.Embed, 64)
	set(&c.FFN, 96)
	set(&c.Heads, 6)
	set(&c.KVHeads, 2)
	set(&c.HeadDim, 32)
	set(&c.Vocab, 448)
	set(&c.Context, 2048)
	set(&c.Window, 40)
	if c.Rope.Base == 0 {
		c.Rope.Base = 10000
	}
	return c
}

// Write writes the model's file. Equal configurations give equal bytes.
func Write(path string, c Config) error {
	meta, tensors, err := Build(c)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("testmodel: %w", err)
	}
	w := bufio.NewWriter(f)
	err = gguf.Write(w, meta, tensors)
	return errors.Join(err, w.Flush(), f.Close())
}

// Build makes the parts of the file, for tests that damage them.
func Build(c Config) (meta []gguf.KV, tensors []gguf.Tensor, err error) {
	c = c.Defaults()
	if meta, err = c.metadata(); err != nil {
		return nil, nil, err
	}
	b := &builder{c: c}
	b.weights()
	return meta, b.tensors, b.err
}

func (c Config) metadata() ([]gguf.KV, error) {
	tokens, err := c.tokenizer()
	if err != nil {
		return nil, err
	}
	key := func(s string) string { return c.Arch + "." + s }
	meta := []gguf.KV{
		{Key: "general.architecture", Value: c.Arch},
		{Key: "general.name", Value: fmt.Sprintf("test %s %d", c.Arch, c.Seed)},
		{Key: key("block_count"), Value: uint32(c.Layers)},
		{Key: key("context_length"), Value: uint32(c.Context)},
		{Key: key("embedding_length"), Value: uint32(c.Embed)},
		{Key: key("feed_forward_length"), Value: uint32(c.FFN)},
		{Key: key("attention.head_count"), Value: uint32(c.Heads)},
		{Key: key("attention.head_count_kv"), Value: uint32(c.KVHeads)},
		{Key: key("attention.key_length"), Value: uint32(c.HeadDim)},
		{Key: key("attention.value_length"), Value: uint32(c.HeadDim)},
		{Key: key("attention.layer_norm_rms_epsilon"), Value: float32(1e-6)},
		{Key: key("rope.freq_base"), Value: c.Rope.Base},
	}
	if c.Rope.Scaling != "" {
		meta = append(meta, gguf.KV{Key: key("rope.scaling.type"), Value: c.Rope.Scaling}, gguf.KV{Key: key("rope.scaling.factor"), Value: c.Rope.Factor})
	}
	if c.Rope.Original != 0 {
		meta = append(meta, gguf.KV{Key: key("rope.scaling.original_context_length"), Value: uint32(c.Rope.Original)})
	}
	if c.Arch == "gemma3" {
		meta = append(meta, gguf.KV{Key: key("attention.sliding_window"), Value: uint32(c.Window)})
	}
	return append(meta, tokens...), nil
}

// builder gathers tensors and keeps the first error.
type builder struct {
	c       Config
	tensors []gguf.Tensor
	err     error
}

func (b *builder) add(name string, t tensor.Type, rows int, x []float32) {
	cols := len(x) / rows
	n, err := tensor.RowBytes(t, cols)
	data := make([]byte, n*rows)
	if err == nil {
		err = tensor.Encode(t, data, x)
	}
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("testmodel: tensor %s: %w", name, err)
	}
	dims := []uint64{uint64(cols)}
	if rows > 1 {
		dims = append(dims, uint64(rows))
	}
	b.tensors = append(b.tensors, gguf.Tensor{Name: name, Type: t, Dims: dims, Data: data})
}

// random is n normal numbers of the given deviation, the same for a name whatever else the model has.
func (b *builder) random(name string, n int, deviation float64) []float32 {
	h := fnv.New64a()
	h.Write([]byte(name))
	rng := rand.New(rand.NewPCG(b.c.Seed, h.Sum64()))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * deviation)
	}
	return x
}

// matrix adds a product whose outputs have about the given deviation for inputs of unit size.
func (b *builder) matrix(name string, rows, cols int, gain float64) {
	b.add(name, b.c.Type, rows, b.random(name, rows*cols, gain/math.Sqrt(float64(cols))))
}

// norm adds a norm's weights, near mean.
func (b *builder) norm(name string, n int, mean float64) {
	x := b.random(name, n, 0.1*mean)
	for i := range x {
		x[i] += float32(mean)
	}
	b.add(name, tensor.F32, 1, x)
}

func (b *builder) weights() {
	c := &b.c
	// The rows of embeddings have unit size a channel, gemma3's after its scaling.
	size := 1.0
	if c.Arch == "gemma3" {
		size = 1 / math.Sqrt(float64(c.Embed))
	}
	b.add("token_embd.weight", c.Type, c.Vocab, b.random("token_embd.weight", c.Vocab*c.Embed, size))
	// Logits of deviation 3. Random signs keep a tied head from predicting the token that was just read.
	gain := 3 / math.Sqrt(float64(c.Embed)) / size
	if c.Arch == "llama" || c.Arch == "qwen3" {
		b.matrix("output.weight", c.Vocab, c.Embed, 3)
		gain = 1
	}
	out := b.random("output_norm.weight", c.Embed, 1)
	for i := range out {
		out[i] = float32(math.Copysign(gain, float64(out[i])))
	}
	b.add("output_norm.weight", tensor.F32, 1, out)
	if c.Rope.Factors {
		x := make([]float32, c.HeadDim/2)
		for i := range x {
			x[i] = 1 + 7*float32(i)/float32(len(x))
		}
		b.add("rope_freqs.weight", tensor.F32, 1, x)
	}
	for l := range c.Layers {
		b.layer(l)
	}
}

func (b *builder) layer(l int) {
	c := &b.c
	name := func(s string) string { return fmt.Sprintf("blk.%d.%s", l, s) }
	q, kv, group := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim, c.Heads/c.KVHeads
	b.norm(name("attn_norm.weight"), c.Embed, 1)
	b.norm(name("ffn_norm.weight"), c.Embed, 1)

	// Keys resemble the queries of their group, so that tokens look for their like; the gains give logits of deviation 2 or so.
	const gain = 1.6
	wq := b.random(name("attn_q.weight"), q*c.Embed, gain/math.Sqrt(float64(c.Embed)))
	wk := b.random(name("attn_k.weight"), kv*c.Embed, 0.8*gain/math.Sqrt(float64(c.Embed)))
	for h := range c.KVHeads {
		for i := range c.HeadDim * c.Embed {
			wk[h*c.HeadDim*c.Embed+i] += 0.6 * wq[h*group*c.HeadDim*c.Embed+i]
		}
	}
	b.add(name("attn_q.weight"), c.Type, q, wq)
	b.add(name("attn_k.weight"), c.Type, kv, wk)
	b.matrix(name("attn_v.weight"), kv, c.Embed, 1)
	deep := 1 / math.Sqrt(float64(c.Layers)) // the residual stream grows by about its size over all layers
	b.matrix(name("attn_output.weight"), c.Embed, q, 2*deep)
	b.matrix(name("ffn_gate.weight"), c.FFN, c.Embed, 1)
	b.matrix(name("ffn_up.weight"), c.FFN, c.Embed, 1)
	b.matrix(name("ffn_down.weight"), c.Embed, c.FFN, 2*deep)
	switch c.Arch {
	case "qwen2":
		b.add(name("attn_q.bias"), tensor.F32, 1, b.random(name("attn_q.bias"), q, 0.2))
		b.add(name("attn_v.bias"), tensor.F32, 1, b.random(name("attn_v.bias"), kv, 0.2))
		bias := b.random(name("attn_k.bias"), kv, 0.5)
		for i := range bias {
			if i%11 == 3 {
				bias[i] *= 20 // outlier channels, as Qwen's keys have them
			}
		}
		b.add(name("attn_k.bias"), tensor.F32, 1, bias)
	case "gemma3", "qwen3":
		b.norm(name("attn_q_norm.weight"), c.HeadDim, gain)
		b.norm(name("attn_k_norm.weight"), c.HeadDim, gain)
	}
	if c.Arch == "gemma3" {
		b.norm(name("post_attention_norm.weight"), c.Embed, deep)
		b.norm(name("post_ffw_norm.weight"), c.Embed, deep)
	}
}
