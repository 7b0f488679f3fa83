package bench

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// The operator by itself computes what the device computed for the model; seen as separate heads it differs by rounding alone.
func TestOperatorRepeatsTheModel(t *testing.T) {
	const kvHeads, group, dim, tokens, layer = 2, 3, 32, 900, 1
	for _, spec := range []string{"dense", "quest:keep=0.5+int4+top-p:0.8+when:dense-layers=0,min-context=1"} {
		p := attention.MustNew(spec)
		d, err := cpu.New(2)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		r := &recorder{Device: d}
		cache, err := r.Cache(kvcache.Shape{Layers: 2, KVHeads: kvHeads, Dim: dim}, 4, p.Planes())
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		seq := cache.NewSequence()
		rng := rand.New(rand.NewPCG(1, 2))
		attend := func(n int, mode device.Mode) device.Tensor {
			if err := seq.Reserve(n); err != nil {
				t.Fatal(err)
			}
			tensor := func(heads int) device.Tensor {
				x := device.Tensor{Rows: n, Cols: heads * dim, Data: make([]float32, n*heads*dim)}
				for i := range x.Data {
					x.Data[i] = float32(rng.NormFloat64())
				}
				return x
			}
			a := device.Attention{Layer: layer, Heads: kvHeads * group, KVHeads: kvHeads, Dim: dim, Scale: 0.3, Q: tensor(kvHeads * group), K: tensor(kvHeads), V: tensor(kvHeads), Out: tensor(kvHeads * group),
				Cache: cache, Segments: []device.Segment{{Seq: seq, N: n, Pos: seq.Len(), Mode: mode, Pipeline: p}}}
			if err := r.Attend(&a); err != nil {
				t.Fatal(err)
			}
			seq.Advance(n)
			return a.Out
		}
		attend(tokens, device.Prompt)
		want := attend(1, device.Decode).Data
		for _, name := range []string{ViewGQA, ViewMHA} {
			v := viewOf(name, group)
			o := newHostOperator(d.Exec(), p, v, &r.step)
			stats := attention.Stats{Measure: true}
			if _, err := o.run(&r.step, []int{layer}, &stats, nil); err != nil {
				t.Fatal(err)
			}
			if name == ViewGQA && !slices.Equal(o.out, want) {
				t.Errorf("%s, %s: the operator's output is not the device's", spec, name)
			}
			for i, x := range o.out {
				if math.Abs(float64(x-want[i])) > 1e-4 {
					t.Fatalf("%s, %s: channel %d is %g, expected %g", spec, name, i, x, want[i])
				}
			}
			if a := stats.Summary(dim); spec != "dense" && (a.Steps != kvHeads*group || a.Context != tokens+1 || a.Mass <= 0 || a.Mass > 1.0001) {
				t.Errorf("%s, %s: %+v", spec, name, a)
			}
		}
		seq.Release()
	}
}

func TestAttention(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, testmodel.Config{Seed: 5}); err != nil {
		t.Fatal(err)
	}
	text := ""
	for len(text) < 6000 {
		text += "A text that has to be repeated. "
	}
	for _, v := range []string{ViewGQA, ViewMHA} {
		var rows []AttentionRow
		b := Attention{Model: path, Text: text, Contexts: []int{300, 700}, Specs: []string{"twilight"}, Views: []string{v}, Steps: 3, Threads: 1, Row: func(r AttentionRow) { rows = append(rows, r) }}
		if err := b.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(rows) != 4 {
			t.Fatalf("%d rows, expected 4: %+v", len(rows), rows)
		}
		for i, r := range rows {
			spec, ctx := []string{"dense", "twilight"}[i%2], []int{300, 700}[i/2]
			if r.Spec != spec || r.Context != ctx || r.View != v || r.Layers != 4 || r.Steps != 3 || r.Threads != 1 || r.Micros <= 0 || r.GBps <= 0 || r.ReadGBps <= 0 || r.FMA <= 0 || r.VNNI <= 0 {
				t.Errorf("row %d: %+v", i, r)
			}
			sparse := i == 3
			if sparse != (r.KeptShare < 1) || sparse != (r.OutErr > 0) || sparse != (r.Mass < 1) || sparse != (r.Stages["prune"] > 0) || r.Stages["attend"] <= 0 {
				t.Errorf("row %d: %+v", i, r)
			}
			if !sparse && (r.BytesToken != float64(4*r.Dim) || math.Abs(r.KeptMean-float64(ctx-1)) > 1e-9) {
				t.Errorf("row %d: dense attention reads %g bytes a token of %g", i, r.BytesToken, r.KeptMean)
			}
		}
		if rows[0].Speedup != 1 || rows[2].Speedup != 1 {
			t.Errorf("dense is %g and %g times itself", rows[0].Speedup, rows[2].Speedup)
		}
	}
}

func TestAttentionRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, testmodel.Config{Seed: 5}); err != nil {
		t.Fatal(err)
	}
	good := Attention{Model: path, Text: "A short text.", Views: []string{ViewGQA}, Specs: []string{"dense"}, Steps: 1, Threads: 1}
	for name, change := range map[string]func(b *Attention){
		"no steps":                   func(b *Attention) { b.Steps = 0 },
		"an unknown view":            func(b *Attention) { b.Views = []string{"mqa"} },
		"contexts that fall":         func(b *Attention) { b.Contexts = []int{9, 8} },
		"a context without room":     func(b *Attention) { b.Contexts = []int{3} },
		"a context beyond the text":  func(b *Attention) { b.Contexts = []int{4000} },
		"a text without room":        func(b *Attention) { b.Text = "A" },
		"an unknown spec":            func(b *Attention) { b.Specs = []string{"no"} },
		"a model all of which stays": func(b *Attention) { b.Specs = []string{"twilight+when:dense-layers=99"} },
		"a missing model":            func(b *Attention) { b.Model += ".no" },
		"a missing cache":            func(b *Attention) { b.Load = path + ".kv" },
	} {
		b := good
		change(&b)
		if err := b.Run(t.Context()); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
