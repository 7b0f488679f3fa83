// Package inspect says what is in a model file, and what of its context this machine can hold, without loading it.
package inspect

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/chat"
	"github.com/twilight-go/twilight/internal/checkpoint"
	"github.com/twilight-go/twilight/internal/mem"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/tokenizer"
)

// Model is what is in a file.
type Model struct {
	Path       string `json:"path"`
	Name       string `json:"name"` // as the file calls itself; may be empty
	Bytes      int64  `json:"bytes"`
	Format     string `json:"format"`
	Arch       string `json:"architecture"`
	Parameters int64  `json:"parameters"`

	Layers   int     `json:"layers"`
	Embed    int     `json:"embedding"`
	FFN      int     `json:"feed_forward"`
	Heads    int     `json:"query_heads"`
	KVHeads  int     `json:"kv_heads"`
	HeadDim  int     `json:"head_size"`
	Vocab    int     `json:"vocabulary"`
	Context  int     `json:"context"` // tokens that the model was trained for
	RopeBase float64 `json:"rope_base"`
	Window   int     `json:"sliding_window"` // tokens; 0: no layer has one
	Sliding  int     `json:"sliding_layers"`

	Types     []Type    `json:"tensor_types"`
	Tokenizer Tokenizer `json:"tokenizer"`
	// Template says whether the file has a chat template; without one ChatML is used.
	Template bool `json:"chat_template"`
	Memory   `json:"memory"`
}

// Type is one tensor type's share of the file.
type Type struct {
	Name    string `json:"type"`
	Tensors int    `json:"tensors"`
	Bytes   int64  `json:"bytes"`
}

// Tokenizer is what kind of tokenizer the file has. Special tokens are spelled as the vocabulary does, "" where there is none.
type Tokenizer struct {
	Kind   string `json:"kind"`
	Pre    string `json:"pre_tokenizer"`
	Tokens int    `json:"tokens"`
	BOS    string `json:"bos"`
	EOS    string `json:"eos"`
	EOT    string `json:"eot"`
	AddBOS bool   `json:"adds_bos"`
}

// Memory is what contexts cost, and what fits.
type Memory struct {
	KVToken    int   `json:"kv_bytes_per_token"`    // exact keys and values, all layers
	CodesToken int   `json:"codes_bytes_per_token"` // what the preset twilight keeps beside them
	Weights    int64 `json:"weights_bytes"`         // of all tensors, as in the file; loaded they are about as large
	Available  int64 `json:"available_bytes"`       // of this machine's memory; 0 if unknown
	Fits       int64 `json:"context_that_fits"`     // tokens beside the weights, codes included; 0 if unknown or none
}

// Read inspects the model at path, a GGUF file or a checkpoint folder.
func Read(path string) (_ *Model, err error) {
	f, meta, err := checkpoint.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	format := fmt.Sprintf("GGUF v%d", meta.Version)
	if checkpoint.Is(path) {
		format = "safetensors checkpoint"
	}
	h, err := model.ReadHyper(f)
	if err != nil {
		return nil, err
	}
	tok, err := tokenizer.FromGGUF(meta)
	if err != nil {
		return nil, err
	}
	m := &Model{Path: path, Bytes: f.Size(), Format: format, Arch: h.Arch, Layers: h.Layers, Embed: h.Embed, FFN: h.FFN, Heads: h.Heads, KVHeads: h.KVHeads,
		HeadDim: h.HeadDim, Vocab: h.Vocab, Context: h.Context, Template: meta.Has("tokenizer.chat_template")}
	m.Name, _ = meta.String("general.name") // optional
	m.RopeBase, _ = meta.Float(h.Arch + ".rope.freq_base")
	for _, s := range h.Sliding {
		if s {
			m.Sliding, m.Window = m.Sliding+1, h.Window
		}
	}
	m.tensors(f.Tensors())
	m.Tokenizer = Tokenizer{Tokens: tok.VocabSize(), BOS: tok.Token(tok.BOS()), EOS: tok.Token(tok.EOS()), EOT: tok.Token(tok.EOT()), AddBOS: tok.AddBOS()}
	m.Tokenizer.Kind, _ = meta.String("tokenizer.ggml.model")
	m.Tokenizer.Pre, _ = meta.String("tokenizer.ggml.pre")
	if m.Template {
		source, err := meta.String("tokenizer.chat_template")
		if err != nil {
			return nil, err
		}
		if _, err := chat.New(source, m.Tokenizer.BOS, m.Tokenizer.EOS); err != nil {
			return nil, err
		}
	}
	m.memory(h)
	return m, nil
}

func (m *Model) tensors(all []gguf.Tensor) {
	at := map[tensor.Type]int{}
	for _, t := range all {
		i, ok := at[t.Type]
		if !ok {
			i = len(m.Types)
			at[t.Type] = i
			m.Types = append(m.Types, Type{Name: t.Type.String()})
		}
		m.Types[i].Tensors++
		row, _ := tensor.RowBytes(t.Type, t.Cols()) // checked when the file was opened
		bytes := int64(row) * int64(t.Rows())
		m.Types[i].Bytes += bytes
		m.Weights += bytes
		m.Parameters += int64(t.Rows()) * int64(t.Cols())
	}
	slices.SortFunc(m.Types, func(a, b Type) int { return cmp.Compare(b.Bytes, a.Bytes) })
}

func (m *Model) memory(h *model.Hyper) {
	m.KVToken = h.KVBytes()
	codes := 0
	for _, p := range attention.MustNew("twilight").Planes() {
		codes += p.BlockBytes(h.HeadDim) * h.KVHeads * (h.Layers - m.Sliding)
	}
	m.CodesToken = codes / attention.BlockTokens
	m.Available = mem.Available()
	if free := m.Available - m.Weights; free > 0 {
		m.Fits = free / int64(m.KVToken+m.CodesToken) / attention.BlockTokens * attention.BlockTokens
	}
}
