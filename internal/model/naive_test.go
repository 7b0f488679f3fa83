package model_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// naive is a transformer in float64, written from the architectures' definitions and sharing nothing with the devices but the decoding of weights. Its keys and
// values are rounded to fp16, as a cache's are.
type naive struct {
	testmodel.Config
	f *gguf.File
	w map[string][]float64
}

func newNaive(t *testing.T, f *gguf.File, c testmodel.Config) *naive {
	n := &naive{c.Defaults(), f, map[string][]float64{}}
	for _, x := range f.Tensors() {
		d := make([]float32, x.Cols()*x.Rows())
		if err := tensor.Decode(x.Type, d, x.Data); err != nil {
			t.Fatal(err)
		}
		for _, y := range d {
			n.w[x.Name] = append(n.w[x.Name], float64(y))
		}
	}
	return n
}

// mul is w·x (+ bias).
func (n *naive) mul(name string, x []float64) []float64 {
	w := n.w[name+".weight"]
	y := make([]float64, len(w)/len(x))
	for r := range y {
		for c, v := range x {
			y[r] += w[r*len(x)+c] * v
		}
		if b := n.w[name+".bias"]; b != nil {
			y[r] += b[r]
		}
	}
	return y
}

// norm normalises runs of the weight's length; without a weight of that name x is as it was.
func (n *naive) norm(name string, x []float64) []float64 {
	w := n.w[name+".weight"]
	if w == nil {
		return x
	}
	y := make([]float64, len(x))
	for at := 0; at < len(x); at += len(w) {
		sum := 0.0
		for _, v := range x[at : at+len(w)] {
			sum += v * v
		}
		for c, v := range x[at : at+len(w)] {
			y[at+c] = v / math.Sqrt(sum/float64(len(w))+1e-6) * w[c]
		}
	}
	return y
}

// angle is the rotation of channel pair i at a position, and the factor on its length.
func (n *naive) angle(pos, i int, local bool) (angle, magnitude float64) {
	d, base := float64(n.HeadDim), float64(n.Rope.Base)
	if local {
		return float64(pos) * math.Pow(10000, -2*float64(i)/d), 1
	}
	freq := math.Pow(base, -2*float64(i)/d)
	if f := n.w["rope_freqs.weight"]; f != nil {
		freq /= f[i]
	}
	switch n.Rope.Scaling {
	case "linear":
		freq /= float64(n.Rope.Factor)
	case "yarn": // "NTK-by-parts": channels by how often they turn over the original context
		channel := func(turns float64) float64 {
			return d * math.Log(float64(n.Rope.Original)/(turns*2*math.Pi)) / (2 * math.Log(base))
		}
		lo, hi := max(math.Floor(channel(32)), 0), min(math.Ceil(channel(1)), d-1)
		keep := 1 - min(max((float64(i)-lo)/max(hi-lo, 0.001), 0), 1)
		freq = freq*keep + freq/float64(n.Rope.Factor)*(1-keep)
		return float64(pos) * freq, 1 + 0.1*math.Log(float64(n.Rope.Factor))
	}
	return float64(pos) * freq, 1
}

func (n *naive) rope(x []float64, pos int, local bool) {
	half := n.HeadDim / 2
	for at := 0; at < len(x); at += n.HeadDim {
		for i := range half {
			a, b := at+i, at+half+i
			if n.Arch == "llama" {
				a, b = at+2*i, at+2*i+1
			}
			angle, m := n.angle(pos, i, local)
			s, c := math.Sincos(angle)
			x[a], x[b] = m*(x[a]*c-x[b]*s), m*(x[a]*s+x[b]*c)
		}
	}
}

func toHalf(x []float64) []float64 {
	for i, v := range x {
		x[i] = float64(tensor.F16ToF32(tensor.F32ToF16(float32(v))))
	}
	return x
}

// logits are those after each token.
func (n *naive) logits(ids []int32) (out [][]float64) {
	xs := make([][]float64, len(ids))
	for i, id := range ids {
		xs[i] = append([]float64(nil), n.w["token_embd.weight"][int(id)*n.Embed:][:n.Embed]...)
		if n.Arch == "gemma3" {
			for c := range xs[i] {
				xs[i][c] *= math.Sqrt(float64(n.Embed))
			}
		}
	}
	for l := range n.Layers {
		n.layer(l, xs)
	}
	head := "output"
	if n.w["output.weight"] == nil {
		head = "token_embd"
	}
	for _, x := range xs {
		out = append(out, n.mul(head, n.norm("output_norm", x)))
	}
	return out
}

func (n *naive) layer(l int, xs [][]float64) {
	name := func(s string) string { return fmt.Sprintf("blk.%d.%s", l, s) }
	local := n.Arch == "gemma3" && l%6 != 5
	var ks, vs [][]float64
	for i, x := range xs {
		h := n.norm(name("attn_norm"), x)
		q := n.norm(name("attn_q_norm"), n.mul(name("attn_q"), h))
		k := n.norm(name("attn_k_norm"), n.mul(name("attn_k"), h))
		n.rope(q, i, local)
		n.rope(k, i, local)
		ks, vs = append(ks, toHalf(k)), append(vs, toHalf(n.mul(name("attn_v"), h)))
		o := make([]float64, len(q))
		for head := range n.Heads {
			kv := head / (n.Heads / n.KVHeads) * n.HeadDim
			at := head * n.HeadDim
			s, sum := make([]float64, i+1), 0.0
			for j := range s {
				for c := range n.HeadDim {
					s[j] += q[at+c] * ks[j][kv+c] / math.Sqrt(float64(n.HeadDim))
				}
				if local && i-j >= n.Window {
					s[j] = math.Inf(-1)
				}
			}
			for j := range s {
				s[j] = math.Exp(s[j])
				sum += s[j]
			}
			for j := range s {
				for c := range n.HeadDim {
					o[at+c] += s[j] / sum * vs[j][kv+c]
				}
			}
		}
		n.add(x, n.norm(name("post_attention_norm"), n.mul(name("attn_output"), o)))
		h = n.norm(name("ffn_norm"), x)
		gate, up := n.mul(name("ffn_gate"), h), n.mul(name("ffn_up"), h)
		for c, v := range gate {
			if n.Arch == "gemma3" {
				v *= 0.5 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
			} else {
				v /= 1 + math.Exp(-v)
			}
			gate[c] = v * up[c]
		}
		n.add(x, n.norm(name("post_ffw_norm"), n.mul(name("ffn_down"), gate)))
	}
}

func (n *naive) add(x, y []float64) {
	for c, v := range y {
		x[c] += v
	}
}

// The reference device computes what the definitions say: rotary layouts and scalings, windows, norms, biases, tied heads.
func TestReferenceAgainstDefinition(t *testing.T) {
	for name, c := range map[string]testmodel.Config{
		"llama":           {Arch: "llama"},
		"llama q8_0":      {Arch: "llama", Type: tensor.Q8_0},
		"llama factors":   {Arch: "llama", Rope: testmodel.Rope{Base: 500000, Factors: true}},
		"llama linear":    {Arch: "llama", Rope: testmodel.Rope{Scaling: "linear", Factor: 4}},
		"llama mha":       {Arch: "llama", Heads: 3, KVHeads: 3, HeadDim: 16},
		"llama one group": {Arch: "llama", Heads: 7, KVHeads: 1, HeadDim: 20},
		"qwen2":           {Arch: "qwen2"},
		"qwen2 yarn":      {Arch: "qwen2", HeadDim: 64, Rope: testmodel.Rope{Base: 1e6, Scaling: "yarn", Factor: 4, Original: 512}},
		"qwen3":           {Arch: "qwen3", Type: tensor.F16},
		"gemma3":          {Arch: "gemma3", Rope: testmodel.Rope{Base: 1e6}},
		"gemma3 linear":   {Arch: "gemma3", Window: 7, Rope: testmodel.Rope{Base: 1e6, Scaling: "linear", Factor: 8}},
	} {
		t.Run(name, func(t *testing.T) {
			c.Seed = 11
			f := writeModel(t, c)
			want := newNaive(t, f, c).logits(testTokens(90, c))
			r := newRig(t, f, "reference", 1)
			got := r.run(t, testTokens(90, c), promptOf(90))
			for i, row := range want {
				for j, x := range row {
					if d := math.Abs(float64(got[i][j]) - x); !(d < 2e-2) {
						t.Fatalf("logit %d after token %d is %v, want %v", j, i, got[i][j], x)
					}
				}
			}
			if kl := meanKL(want, got); !(kl < 2e-6) {
				t.Errorf("mean KL %g", kl)
			}
		})
	}
}
