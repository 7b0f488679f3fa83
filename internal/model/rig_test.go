package model_test

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/device/reference"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// everywhere makes a spec sparse in every layer and from the first token.
const everywhere = "+when:dense-layers=0,min-context=0"

// sparse is the pipelines that the rigs' caches serve.
var sparse = func() (all []*attention.Pipeline) {
	for _, s := range []string{"quest:keep=0.4+page-range+top-p:0.8,union", "quest:page=8,keep=0.5+int4+top-p:0.9", "full+int4+top-p:0.7,tail=mean", "streaming:sink=2,window=30", "full+int4+top-p:1", "full+page-range+top-p:1"} {
		all = append(all, attention.MustNew(s+everywhere))
	}
	return all
}()

func writeModel(t *testing.T, c testmodel.Config) *gguf.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := testmodel.Write(path, c); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// testTokens is a text of n tokens with repetitions, as texts have them.
func testTokens(n int, c testmodel.Config) []int32 {
	rng := rand.New(rand.NewPCG(c.Seed, 77))
	ids := make([]int32, n)
	for i := range ids {
		if i > 20 && rng.IntN(3) == 0 {
			ids[i] = ids[i-1-rng.IntN(20)]
		} else {
			ids[i] = int32(rng.IntN(c.Defaults().Vocab))
		}
	}
	return ids
}

// rig is a generated model on a device, with a cache for all pipelines of the tests.
type rig struct {
	*model.Model
	cache device.Cache
}

func newRig(t *testing.T, f *gguf.File, dev string, threads int) *rig {
	t.Helper()
	var d device.Device = reference.New()
	if dev == "cpu" {
		var err error
		if d, err = cpu.New(threads); err != nil {
			t.Fatal(err)
		}
	}
	m, err := model.Load(f, d, model.Options{MaxRows: 512, MaxLogits: 512})
	if err != nil {
		t.Fatal(err)
	}
	var planes []attention.Plane
	seen := map[string]bool{}
	for _, p := range sparse {
		for _, pl := range p.Planes() {
			if !seen[pl.Name()] {
				seen[pl.Name()] = true
				planes = append(planes, pl)
			}
		}
	}
	c, err := d.Cache(kvcache.Shape{Layers: m.Layers, KVHeads: m.KVHeads, Dim: m.HeadDim, Exact: m.Sliding}, 16, planes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if free, all := c.Free(); free != all {
			t.Errorf("%d of %d cache blocks are free in the end", free, all)
		}
		for _, err := range []error{c.Close(), d.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return &rig{m, c}
}

// piece is some next tokens of a text, fed in one step.
type piece struct {
	n    int
	mode device.Mode
	pipe *attention.Pipeline
}

func promptOf(n int) []piece { return []piece{{n, device.Prompt, dense}} }

// pieces cuts n tokens into steps of at most per.
func pieces(n, per int, mode device.Mode, p *attention.Pipeline) (out []piece) {
	for ; n > 0; n -= per {
		out = append(out, piece{min(n, per), mode, p})
	}
	return out
}

// run feeds a text of its own in the given pieces and returns the logits after each token.
func (r *rig) run(t *testing.T, ids []int32, ps []piece) [][]float32 {
	t.Helper()
	s := r.cache.NewSequence()
	defer s.Release()
	return r.feed(t, s, ids, ps)
}

func (r *rig) feed(t *testing.T, s *kvcache.Sequence, ids []int32, ps []piece) (out [][]float32) {
	t.Helper()
	for _, p := range ps {
		out = append(out, r.step(t, []*kvcache.Sequence{s}, [][]int32{ids[:p.n]}, []piece{p})[0]...)
		ids = ids[p.n:]
	}
	return out
}

// step feeds one piece to each of several sequences at once and returns each one's logits.
func (r *rig) step(t *testing.T, seqs []*kvcache.Sequence, ids [][]int32, ps []piece) [][][]float32 {
	t.Helper()
	step := &model.Step{Cache: r.cache}
	for i, s := range seqs {
		if err := s.Reserve(ps[i].n); err != nil {
			t.Fatal(err)
		}
		step.Segments = append(step.Segments, device.Segment{Seq: s, Row: len(step.Tokens), N: ps[i].n, Pos: s.Len(), Mode: ps[i].mode, Pipeline: ps[i].pipe})
		step.Tokens = append(step.Tokens, ids[i][:ps[i].n]...)
	}
	for i := range step.Tokens {
		step.Logits = append(step.Logits, int32(i))
	}
	logits, err := r.Forward(step)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][][]float32, len(seqs))
	for i, s := range seqs {
		s.Advance(ps[i].n)
		for range ps[i].n {
			out[i] = append(out[i], append([]float32(nil), logits[:r.Vocab]...))
			logits = logits[r.Vocab:]
		}
	}
	return out
}

func requireBits(t *testing.T, what string, got, want [][]float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: logits of %d tokens, want %d", what, len(got), len(want))
	}
	for i, row := range want {
		for j, x := range row {
			if math.Float32bits(got[i][j]) != math.Float32bits(x) {
				t.Fatalf("%s: logit %d after token %d is %v, want the same bits as %v", what, j, i, got[i][j], x)
			}
		}
	}
}

// meanKL is the mean over positions of the divergence of got's distribution from want's.
func meanKL[A, B float32 | float64](want [][]A, got [][]B) (kl float64) {
	for i, row := range want {
		p, q := logProb(row), logProb(got[i])
		for j := range p {
			kl += math.Exp(p[j]) * (p[j] - q[j])
		}
	}
	return kl / float64(len(want))
}

func logProb[T float32 | float64](row []T) []float64 {
	x := make([]float32, len(row))
	for i, v := range row {
		x[i] = float32(v)
	}
	return logSoftmax(x)
}

// devices runs a test on each device; with -short on the one that has workers.
func devices(t *testing.T, f func(t *testing.T, dev string)) {
	all := []string{"cpu", "reference"}
	if testing.Short() {
		all = all[:1]
	}
	for _, dev := range all {
		t.Run(dev, func(t *testing.T) { f(t, dev) })
	}
}

var archs = []string{"llama", "qwen2", "qwen3", "gemma3"}

// some is those of the architectures that a test runs: with -short the first.
func some(archs ...string) []string {
	if testing.Short() {
		return archs[:1]
	}
	return archs
}
