package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/safetensors"
	"github.com/twilight-go/twilight/internal/tensor"
)

// ropeFactorsName is the tensor of Llama 3's rotary factors, which a checkpoint has as numbers in its config.json.
const ropeFactorsName = "rope_freqs.weight"

// change is what sets a tensor apart from its twin in a GGUF file.
type change uint8

const (
	asIs      change = iota
	queryRows        // rows of query heads: permuted where the architecture's GGUF files have rotated channels side by side
	keyRows          // rows of key heads: likewise
	addOne           // a norm's weights: plus 1 where the network multiplies by 1 + weight
)

// commonLayer names the tensors of a layer in all architectures; norms come on top.
var commonLayer = map[string]struct {
	name string
	change
}{
	"self_attn.q_proj":           {"attn_q", queryRows},
	"self_attn.k_proj":           {"attn_k", keyRows},
	"self_attn.v_proj":           {"attn_v", asIs},
	"self_attn.o_proj":           {"attn_output", asIs},
	"mlp.gate_proj":              {"ffn_gate", asIs},
	"mlp.up_proj":                {"ffn_up", asIs},
	"mlp.down_proj":              {"ffn_down", asIs},
	"input_layernorm":            {"attn_norm", addOne},
	"post_attention_layernorm":   {"ffn_norm", addOne},
	"pre_feedforward_layernorm":  {"ffn_norm", addOne}, // only in networks with four norms a layer
	"post_feedforward_layernorm": {"post_ffw_norm", addOne},
	"self_attn.q_norm":           {"attn_q_norm", addOne},
	"self_attn.k_norm":           {"attn_k_norm", addOne},
}

// place gives a tensor of the checkpoint its GGUF name and what must change; the name is "" for one that is not needed. A tensor that this engine would silently
// leave out of the computation is an error.
func (n *network) place(tensor string) (name string, c change, err error) {
	if tensor == "lm_head.weight" || tensor == "language_model.lm_head.weight" {
		if n.tied {
			return "", 0, nil // a copy
		}
		return "output.weight", asIs, nil
	}
	rest := tensor
	for _, prefix := range n.prefixes {
		var ok bool
		if rest, ok = strings.CutPrefix(tensor, prefix); ok {
			break
		}
	}
	switch {
	case rest == "embed_tokens.weight":
		return "token_embd.weight", asIs, nil
	case rest == "norm.weight":
		return "output_norm.weight", n.norm(), nil
	case strings.HasSuffix(rest, ".rotary_emb.inv_freq"):
		return "", 0, nil // what config.json says
	}
	for _, prefix := range n.other {
		if strings.HasPrefix(tensor, prefix) {
			return "", 0, nil
		}
	}
	unknown := fmt.Errorf("tensor %.200q has no place in a %s of %d layers", tensor, n.title, n.layers)
	rest, ok := strings.CutPrefix(rest, "layers.")
	if !ok {
		return "", 0, unknown
	}
	index, rest, _ := strings.Cut(rest, ".")
	layer, err := strconv.ParseUint(index, 10, 32)
	if err != nil || layer >= uint64(n.layers) || index != strconv.FormatUint(layer, 10) {
		return "", 0, unknown
	}
	dot := strings.LastIndexByte(rest, '.')
	if dot < 0 {
		return "", 0, unknown
	}
	part, kind := rest[:dot], rest[dot+1:]
	to, ok := commonLayer[part]
	isNorm := to.change == addOne
	if !ok || kind != "weight" && (kind != "bias" || isNorm) || !n.has(part) {
		return "", 0, unknown
	}
	if n.fourNorms && part == "post_attention_layernorm" {
		to.name = "post_attention_norm"
	}
	if isNorm {
		to.change = n.norm()
	}
	return fmt.Sprintf("blk.%d.%s.%s", layer, to.name, kind), to.change, nil
}

// has reports whether the network's layers have the part.
func (n *network) has(part string) bool {
	switch part {
	case "pre_feedforward_layernorm", "post_feedforward_layernorm":
		return n.fourNorms
	case "self_attn.q_norm", "self_attn.k_norm":
		return n.headNorms
	}
	return true
}

// norms are the parts that only some networks have in every layer.
func (n *network) norms() (parts []string) {
	if n.headNorms {
		parts = append(parts, "attn_q_norm", "attn_k_norm")
	}
	if n.fourNorms {
		parts = append(parts, "post_attention_norm", "post_ffw_norm")
	}
	return parts
}

// norm is how the weights of norms change.
func (n *network) norm() change {
	if n.onePlus {
		return addOne
	}
	return asIs
}

// layerOf is the layer of a GGUF name, −1 for those of none.
func layerOf(name string) int {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return -1
	}
	index, _, _ := strings.Cut(rest, ".")
	layer, _ := strconv.Atoi(index) // place wrote it
	return layer
}

// entry is a tensor of the checkpoint on its way to be one of a GGUF file.
type entry struct {
	src    safetensors.Tensor
	typ    tensor.Type // of src
	change change
	heads  int // of the rows, where they are permuted
}

// newEntry checks a tensor's type and shape.
func newEntry(t safetensors.Tensor, c change, n *network) (entry, error) {
	e := entry{src: t, change: c}
	var err error
	if e.typ, err = t.Type(); err != nil || e.typ != tensor.F32 && e.typ != tensor.F16 && e.typ != tensor.BF16 {
		return e, fmt.Errorf("tensor %q has elements of type %s; supported are F32, F16 and BF16: unquantised weights", t.Name, t.DType)
	}
	if len(t.Shape) < 1 || len(t.Shape) > 2 || t.Len() == 0 {
		return e, fmt.Errorf("tensor %q has shape %d; expected one or two dimensions, none of them 0", t.Name, t.Shape)
	}
	if c == queryRows || c == keyRows {
		if e.heads = int(n.heads); c == keyRows {
			e.heads = int(n.kvHeads)
		}
		if !n.sideBySide {
			e.change = asIs
		} else if t.Shape[0]%uint64(2*e.heads) != 0 {
			return e, fmt.Errorf("tensor %q has %d rows; expected a multiple of 2 for each of %d heads", t.Name, t.Shape[0], e.heads)
		}
	}
	return e, nil
}

// factorsEntry is the tensor of the rotary factors.
func factorsEntry(factors []float32) entry {
	data := make([]byte, 0, 4*len(factors))
	for _, f := range factors {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(f))
	}
	return entry{src: safetensors.Tensor{Name: ropeFactorsName, DType: "F32", Shape: []uint64{uint64(len(factors))}, Data: data}, typ: tensor.F32}
}

// tensor is the entry as GGUF describes it, without Data.
func (e entry) tensor(name string) gguf.Tensor {
	t := gguf.Tensor{Name: name, Type: e.typ}
	for i := len(e.src.Shape) - 1; i >= 0; i-- {
		t.Dims = append(t.Dims, e.src.Shape[i])
	}
	if e.change == addOne {
		t.Type = tensor.F32
	}
	return t
}

// data is the tensor's elements as GGUF holds them.
func (e entry) data() []byte {
	switch e.change {
	case queryRows, keyRows:
		return sideBySide(e.src.Data, int(e.src.Shape[0]), e.heads)
	case addOne:
		return plusOne(e.typ, e.src.Data)
	}
	return e.src.Data
}

// sideBySide reorders the rows of each head: channel i and its partner in the rotation, channel i + half, become channels 2i and 2i+1.
func sideBySide(src []byte, rows, heads int) []byte {
	out := make([]byte, 0, len(src))
	row, half := len(src)/rows, rows/heads/2
	for head := range heads {
		for i := range half {
			first := (2*head*half + i) * row
			second := first + half*row
			out = append(out, src[first:first+row]...)
			out = append(out, src[second:second+row]...)
		}
	}
	return out
}

// plusOne adds 1 to elements of t and gives float32.
func plusOne(t tensor.Type, src []byte) []byte {
	v := make([]float32, len(src)/t.BlockBytes())
	if err := tensor.Decode(t, v, src); err != nil {
		panic(fmt.Sprintf("checkpoint: %v, after it was checked", err))
	}
	out := make([]byte, 0, 4*len(v))
	for _, x := range v {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x+1))
	}
	return out
}
