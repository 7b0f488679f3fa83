package model_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/device/reference"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testmodel"
	"pgregory.net/rapid"
)

// file is the parts of a model's file, to be damaged.
type file struct {
	meta    []gguf.KV
	tensors []gguf.Tensor
}

func parts(t interface{ Fatal(...any) }, c testmodel.Config) *file {
	meta, tensors, err := testmodel.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	return &file{meta, tensors}
}

func (f *file) set(key string, v any) {
	i := slices.IndexFunc(f.meta, func(kv gguf.KV) bool { return kv.Key == key })
	if i < 0 {
		f.meta = append(f.meta, gguf.KV{Key: key, Value: v})
		return
	}
	f.meta[i].Value = v
}

func (f *file) drop(key string) {
	f.meta = slices.DeleteFunc(f.meta, func(kv gguf.KV) bool { return kv.Key == key })
}

func (f *file) tensor(name string) *gguf.Tensor {
	return &f.tensors[slices.IndexFunc(f.tensors, func(t gguf.Tensor) bool { return t.Name == name })]
}

// floats replaces a tensor by one of the given dimensions.
func (f *file) floats(name string, x float32, dims ...uint64) {
	n := uint64(1)
	for _, d := range dims {
		n *= d
	}
	data := make([]float32, n)
	for i := range data {
		data[i] = x
	}
	t := gguf.Tensor{Name: name, Type: tensor.F32, Dims: dims, Data: make([]byte, 4*n)}
	if err := tensor.Encode(tensor.F32, t.Data, data); err != nil {
		panic(err)
	}
	f.tensors = slices.DeleteFunc(f.tensors, func(t gguf.Tensor) bool { return t.Name == name })
	f.tensors = append(f.tensors, t)
}

// load writes the file, loads it and, if that succeeds, runs a step.
func (f *file) load(dir string, dev device.Device) error {
	var b bytes.Buffer
	if err := gguf.Write(&b, f.meta, f.tensors); err != nil {
		return err
	}
	path := filepath.Join(dir, "m.gguf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return err
	}
	g, err := gguf.Open(path)
	if err != nil {
		return err
	}
	defer g.Close()
	m, err := model.Load(g, dev, model.Options{MaxRows: 4})
	if err != nil {
		return err
	}
	c, err := dev.Cache(kvcache.Shape{Layers: m.Layers, KVHeads: m.KVHeads, Dim: m.HeadDim, Exact: m.Sliding}, 1, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	s := c.NewSequence()
	if err := s.Reserve(3); err != nil {
		return err
	}
	_, err = m.Forward(&model.Step{Tokens: []int32{1, 0, 2}, Segments: []device.Segment{{Seq: s, N: 3, Pipeline: dense}}, Logits: []int32{2}, Cache: c})
	return err
}

// Each way in which a file cannot be a model is an error that says what was found where, and what was expected.
func TestDamagedModels(t *testing.T) {
	nan := float32(math.NaN())
	dir := t.TempDir()
	for _, c := range []struct {
		name   string
		config testmodel.Config
		damage func(*file)
		want   string // after "model: FILE: "
	}{
		{"no architecture", testmodel.Config{}, func(f *file) { f.drop("general.architecture") }, `metadata key "general.architecture": not found`},
		{"unknown architecture", testmodel.Config{}, func(f *file) { f.set("general.architecture", "mamba") }, `architecture "mamba" is not supported; supported: gemma3, llama, qwen2, qwen3`},
		{"no layers", testmodel.Config{}, func(f *file) { f.set("llama.block_count", uint32(0)) }, `llama.block_count = 0: expected 1 to 1024`},
		{"too many layers", testmodel.Config{}, func(f *file) { f.set("llama.block_count", uint32(5)) }, `tensor blk.4.attn_norm.weight: not found`},
		{"absurd layers", testmodel.Config{}, func(f *file) { f.set("llama.block_count", uint64(1<<40)) }, `llama.block_count = 1099511627776: expected 1 to 1024`},
		{"layers as text", testmodel.Config{}, func(f *file) { f.set("llama.block_count", "4") }, `llama.block_count`},
		{"negative heads", testmodel.Config{}, func(f *file) { f.set("llama.attention.head_count", int32(-6)) }, `llama.attention.head_count`},
		{"heads no multiple", testmodel.Config{}, func(f *file) { f.set("llama.attention.head_count_kv", uint32(4)) }, `6 query heads and 4 KV heads: expected a multiple, at most 32`},
		{"a group too large", testmodel.Config{Heads: 33, KVHeads: 1, HeadDim: 2}, func(*file) {}, `33 query heads and 1 KV heads: expected a multiple, at most 32`},
		{"more heads than channels", testmodel.Config{}, func(f *file) {
			f.drop("llama.attention.key_length")
			f.drop("llama.attention.value_length")
			f.set("llama.attention.head_count", uint32(300))
		}, `llama.attention.key_length = 0: expected 2 to 1048576`},
		{"values unlike keys", testmodel.Config{}, func(f *file) { f.set("llama.attention.value_length", uint32(16)) }, `keys of 32 channels and values of 16: expected equal`},
		{"odd rotation", testmodel.Config{}, func(f *file) { f.set("llama.rope.dimension_count", uint32(31)) }, `rotary embedding of 31 channels with base 10000: expected an even number and a positive base`},
		{"base zero", testmodel.Config{}, func(f *file) { f.set("llama.rope.freq_base", float32(0)) }, `rotary embedding of 32 channels with base 0: expected an even number and a positive base`},
		{"eps NaN", testmodel.Config{}, func(f *file) { f.set("llama.attention.layer_norm_rms_epsilon", nan) }, `llama.attention.layer_norm_rms_epsilon = NaN: expected a finite number, not negative`},
		{"unknown scaling", testmodel.Config{}, func(f *file) { f.set("llama.rope.scaling.type", "longrope") }, `rope scaling "longrope" is not supported; supported: none, linear, yarn, and Llama 3's factors`},
		{"yarn without factor", testmodel.Config{}, func(f *file) { f.set("llama.rope.scaling.type", "yarn") }, `llama.rope.scaling.factor = 0: yarn needs a positive factor`},
		{"factors missing", testmodel.Config{}, func(f *file) { f.floats("rope_freqs.weight", 1, 7) }, `tensor rope_freqs.weight has dimensions [7]; expected 16 elements`},
		{"factor zero", testmodel.Config{}, func(f *file) { f.floats("rope_freqs.weight", 0, 16) }, `tensor rope_freqs.weight: factor 0 is 0: expected a positive number`},
		{"experts", testmodel.Config{}, func(f *file) { f.set("llama.expert_count", uint32(8)) }, `8 experts: mixtures of experts are not supported`},
		{"no embeddings", testmodel.Config{}, func(f *file) { f.tensor("token_embd.weight").Name = "x" }, `tensor token_embd.weight: not found`},
		{"absurd width", testmodel.Config{}, func(f *file) { f.set("llama.embedding_length", uint32(1<<20)) }, `tensor token_embd.weight has dimensions [64 448]; expected [1048576 448]`},
		{"absurd feed-forward", testmodel.Config{}, func(f *file) { f.set("llama.feed_forward_length", uint32(1<<20)) }, `tensor blk.0.ffn_gate.weight has dimensions [64 96]; expected [64 1048576]`},
		{"absurd heads", testmodel.Config{}, func(f *file) {
			f.set("llama.attention.head_count", uint32(1<<20))
			f.set("llama.attention.head_count_kv", uint32(1<<20))
		}, `tensor blk.0.attn_q.weight has dimensions [64 192]; expected [64 33554432]`},
		{"transposed", testmodel.Config{}, func(f *file) { slices.Reverse(f.tensor("blk.2.ffn_down.weight").Dims) }, `tensor blk.2.ffn_down.weight has dimensions [64 96]; expected [96 64]`},
		{"flat", testmodel.Config{}, func(f *file) { f.tensor("blk.3.attn_v.weight").Dims = []uint64{64 * 64} }, `tensor blk.3.attn_v.weight has dimensions [4096]; expected [64 64]`},
		{"short norm", testmodel.Config{}, func(f *file) { f.floats("blk.1.ffn_norm.weight", 1, 63) }, `tensor blk.1.ffn_norm.weight has dimensions [63]; expected 64 elements`},
		{"short bias", testmodel.Config{Arch: "qwen2"}, func(f *file) { f.floats("blk.1.attn_q.bias", 1, 3) }, `tensor blk.1.attn_q.bias has dimensions [3]; expected 192 elements`},
		{"no window", testmodel.Config{Arch: "gemma3"}, func(f *file) { f.drop("gemma3.attention.sliding_window") }, `metadata key "gemma3.attention.sliding_window": not found`},
		{"window zero", testmodel.Config{Arch: "gemma3"}, func(f *file) { f.set("gemma3.attention.sliding_window", uint32(0)) }, `gemma3.attention.sliding_window = 0: expected 1 to 2147483647`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := parts(t, c.config)
			c.damage(f)
			d, err := cpu.New(1)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			for _, dev := range []device.Device{reference.New(), d} {
				err := f.load(dir, dev)
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "model: ") || !strings.Contains(err.Error(), "m.gguf") {
					t.Errorf("%s: got %v\nwant model: FILE: %s", dev.Name(), err, c.want)
				}
			}
		})
	}
}

// Whatever stands in a well-formed file, loading and running it ends in logits or an error.
func TestMutatedModels(t *testing.T) {
	dir := t.TempDir()
	d, err := cpu.New(2)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	values := []any{uint32(0), uint32(1), uint32(2), uint32(3), uint32(31), uint32(64), uint32(1 << 20), uint32(math.MaxUint32), int32(-1), uint64(1 << 62), float32(0), float32(-1), float32(1e30),
		float32(math.NaN()), float32(math.Inf(1)), 1e-300, "", "yarn", "linear", "gemma3", true, []float32{1, 2}, []string{"a"}}
	rapid.Check(t, func(t *rapid.T) {
		f := parts(t, testmodel.Config{Arch: rapid.SampledFrom(archs).Draw(t, "arch"), Embed: 32, FFN: 32, Vocab: 380, Layers: 2, Heads: 2, KVHeads: 1, HeadDim: 16,
			Type: rapid.SampledFrom([]tensor.Type{tensor.F32, tensor.Q8_0}).Draw(t, "type"), Rope: testmodel.Rope{Scaling: "yarn", Factor: 2, Original: 64, Factors: true}})
		for range rapid.IntRange(1, 3).Draw(t, "mutations") {
			i, j := rapid.IntRange(0, 14).Draw(t, "key"), rapid.IntRange(0, len(f.tensors)-1).Draw(t, "tensor")
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0, 1:
				f.meta[i].Value = rapid.SampledFrom(values).Draw(t, "value")
			case 2:
				f.meta = slices.Delete(f.meta, i, i+1)
			case 3:
				f.tensors[j].Name += "x"
			case 4:
				slices.Reverse(f.tensors[j].Dims)
			case 5:
				dims := []uint64{rapid.SampledFrom([]uint64{1, 16, 32, 48}).Draw(t, "columns"), rapid.Uint64Range(1, 40).Draw(t, "rows")}
				f.floats(f.tensors[j].Name, rapid.SampledFrom([]float32{0, 1, float32(math.NaN()), 3e38}).Draw(t, "fill"), dims...)
			}
		}
		var dev device.Device = d
		if rapid.Bool().Draw(t, "reference") {
			dev = reference.New()
		}
		if err := f.load(dir, dev); err != nil && err.Error() == "" {
			t.Fatal("an error without text")
		}
	})
}

// A step that the model cannot take is refused before anything is written.
func TestStepErrors(t *testing.T) {
	r := newRig(t, writeModel(t, testmodel.Config{}), "reference", 1)
	s := r.cache.NewSequence()
	for _, c := range []struct {
		step model.Step
		want string
	}{
		{model.Step{}, "model: a step of 0 rows with 0 logits: expected 1 to 512 rows and at most 512 logits"},
		{model.Step{Tokens: make([]int32, 513)}, "model: a step of 513 rows with 0 logits: expected 1 to 512 rows and at most 512 logits"},
		{model.Step{Tokens: []int32{0, 448}}, "model: token 1 of the step is 448: expected 0 to 447"},
		{model.Step{Tokens: []int32{-1}}, "model: token 0 of the step is -1: expected 0 to 447"},
	} {
		c.step.Cache, c.step.Segments = r.cache, []device.Segment{{Seq: s, N: len(c.step.Tokens), Pipeline: dense}}
		if _, err := r.Forward(&c.step); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
