package calibrate

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/tensor"
)

// The anchors are the best of all choices of at most that many.
func TestBestAnchors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layers, n := rapid.IntRange(3, 9).Draw(t, "layers"), rapid.IntRange(1, 4).Draw(t, "anchors")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		held := make([][]float64, layers)
		hidden := rng.IntN(layers * 2) // perhaps a layer that nobody sees
		for a := range held {
			held[a] = make([]float64, layers)
			for b := a; b < layers; b++ {
				if a != hidden && b != hidden {
					held[a][b] = 0.1 + 0.9*rng.Float64()
				}
			}
		}
		first := attention.DefaultDenseLayers
		if first == hidden {
			first++
		}
		if first >= layers {
			return
		}
		mean := func(set int) float64 {
			var sum, seen float64
			at := first
			for b := first; b < layers; b++ {
				if set>>b&1 != 0 {
					at = b
				}
				if b != hidden {
					sum, seen = sum+held[at][b], seen+1
				}
			}
			return sum / seen
		}
		want := 0.0
		for set := range 1 << layers {
			count := 0
			for b := range layers {
				count += set >> b & 1
			}
			if set>>first&1 != 0 && count <= n && set&(1<<first-1) == 0 && set>>hidden&1 == 0 {
				want = max(want, mean(set))
			}
		}
		anchors, got := bestAnchors(held, n)
		set := 0
		for _, a := range anchors {
			set |= 1 << a
		}
		if math.Abs(got-want) > 1e-12 || math.Abs(mean(set)-want) > 1e-12 || !slices.IsSorted(anchors) || anchors[0] != first || len(anchors) > n {
			t.Fatalf("anchors %v hold %v (said to hold %v), the best hold %v", anchors, mean(set), got, want)
		}
	})
}

// What is observed in chunks ranks channels by their definitions, and the mass that a layer's choice holds by its definition.
func TestObserve(t *testing.T) {
	const tokens, dim, group = 300, 4, 2
	rng := rand.New(rand.NewPCG(3, 3))
	var k [2][]float64 // by layer
	head := func(l int) attention.Head {
		h := attention.Head{Dim: dim, Table: []int32{1, 0}, K: make([]uint16, 2*attention.BlockTokens*dim)}
		k[l] = make([]float64, tokens*dim)
		for i := range k[l] {
			half := tensor.F32ToF16(float32([]float64{20, 0.1 * rng.NormFloat64(), 3 * rng.NormFloat64(), rng.NormFloat64()}[i%dim]))
			k[l][i] = float64(tensor.F16ToF32(half))
			h.K[int(h.Row(i/dim))*dim+i%dim] = half
		}
		return h
	}
	heads := []attention.Head{head(0), head(1)}
	q := make([]float32, 2*tokens*group*dim)
	for i := range q {
		q[i] = float32(rng.NormFloat64())
	}
	text := &Text{Tokens: tokens, Samples: 3, Keep: 0.1}
	o := newObserver(text, attention.Shape{Layers: 2, KVHeads: 1, Group: group, Dim: dim})
	row := group * dim
	for _, chunk := range [][2]int{{0, 170}, {170, tokens}} {
		for l, h := range heads {
			h.N = chunk[1]
			o.observe(&attention.Observation{Layer: l, Group: group, Head: h, First: chunk[0], Rows: chunk[1] - chunk[0], Q: q[(l*tokens+chunk[0])*row:], Stride: row, Kern: attention.Portable{}})
		}
	}
	for l := range 2 {
		importance := make([]float64, dim)
		for i, x := range q[l*tokens*row : (l+1)*tokens*row] {
			for at := i % dim; at < len(k[l]); at += dim { // every query with every key
				importance[i%dim] += math.Abs(float64(x) * k[l][at])
			}
		}
		if got := o.channels()[l][0]; !slices.Equal(got, ranked(importance)) {
			t.Errorf("layer %d: channels %v by importance %v", l, got, importance)
		}
	}
	if want := []int{199, 249, 299}; !slices.Equal(o.samples, want) {
		t.Fatalf("samples %v, want %v", o.samples, want)
	}
	weights := func(l, p, g int) []float64 {
		w, sum := make([]float64, p+1), 0.0
		for i := range w {
			for c := range dim {
				w[i] += float64(q[(l*tokens+p)*row+g*dim+c]) * k[l][i*dim+c]
			}
			w[i] = math.Exp(w[i])
			sum += w[i]
		}
		for i := range w {
			w[i] /= sum
		}
		return w
	}
	var want [2][2]float64
	for _, p := range o.samples {
		for g := range group {
			for a := range 2 {
				chosen := ranked(weights(a, p, g))[:int(0.1*float64(p+1)+0.5)]
				for b := a; b < 2; b++ {
					w := weights(b, p, g)
					for _, i := range chosen {
						want[a][b] += w[i] / float64(len(o.samples)*group)
					}
				}
			}
		}
	}
	for a, row := range o.held() {
		for b, x := range row {
			if math.Abs(x-want[a][b]) > 1e-4 {
				t.Errorf("the choice of layer %d holds %v in layer %d, want %v", a, x, b, want[a][b])
			}
		}
	}
}

func TestImport(t *testing.T) {
	h := &model.Hyper{Layers: 2, Heads: 2, KVHeads: 1, HeadDim: 4, Rope: &device.Rope{}}
	const text = `{"model.layers.0.self_attn.qk_proj": [[0,1,2,3],[3,1,0,2]], "model.layers.0.self_attn.k_proj": [[0,1,2,3]],
		"model.layers.1.self_attn.k_proj": [[2,3,1,0]], "model.layers.1.self_attn.q_proj": [[0,1,2,3],[0,1,2,3]]}`
	for _, c := range []struct {
		interleaved bool
		want        [][][]int
	}{
		{false, [][][]int{{{0, 1, 3, 2}}, {{2, 3, 1, 0}}}}, // places 2, 2, 5, 3
		{true, [][][]int{{{0, 2, 3, 1}}, {{1, 3, 2, 0}}}},  // 0, 1, 2, 3 stand at 0, 2, 1, 3
	} {
		h.Rope.Interleaved = c.interleaved
		got, err := Import([]byte(text), "m", h)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got.Channels, c.want); d != "" {
			t.Errorf("interleaved %v: %s", c.interleaved, d)
		}
	}
	for _, c := range []struct{ text, want string }{
		{`{"a":1}`, "cannot unmarshal"},
		{`{}`, "layer 0 has neither qk_proj nor k_proj, expected 2 layers as the model has"},
		{`{"model.layers.0.self_attn.qk_proj": [[0,1,2,3]]}`, "model.layers.0.self_attn.qk_proj lists 1 heads, expected 2"},
		{`{"model.layers.0.self_attn.k_proj": [[0,1,2,2]]}`, "head 0: expected the channels from 0 to 3, each once"},
		{`{"model.layers.0.self_attn.k_proj": [[0,1,2,-1]]}`, "head 0: expected the channels from 0 to 3, each once"},
		{`{"model.layers.0.self_attn.k_proj": [[0,1,2]]}`, "head 0: expected the channels from 0 to 3, each once"},
	} {
		if _, err := Import([]byte(c.text), "m", h); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}
