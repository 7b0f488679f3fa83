package cuda

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/reference"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testmodel"
)

var (
	densely  = attention.MustNew("dense")
	sparsely = attention.MustNew("quest:keep=1,shared+block-range+top-p:0.99,union,exact=0.9,tail=mean+when:dense-layers=1,min-context=100")
)

// open loads a generated model onto a device.
func open(t *testing.T, path string, d device.Device, sequences int) *engine.Engine {
	t.Helper()
	return openRows(t, path, d, sequences, 80)
}

// openRows takes the rows of the largest step too.
func openRows(t *testing.T, path string, d device.Device, sequences, rows int) *engine.Engine {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(f, d, model.Options{MaxRows: rows, MaxLogits: 8})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(m, engine.Config{Context: 600, Sequences: sequences, Spare: 4, Pipelines: []*attention.Pipeline{densely, sparsely}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range []error{e.Close(), d.Close(), f.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return e
}

func openGPU(t *testing.T) *Device { return openWith(t, Options{}) }

func openWith(t *testing.T, o Options) *Device {
	t.Helper()
	if emulated {
		o.Library = emulatorLibrary(t)
	}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tokens(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(3 + (i*i*7+i*13)%400)
	}
	return ids
}

var models = []testmodel.Config{
	{Arch: "llama", Seed: 5, Layers: 2, Heads: 3, KVHeads: 1, HeadDim: 64, Embed: 96, FFN: 160, Type: tensor.Q8_0},
	{Arch: "qwen2", Seed: 6, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 128, Embed: 128, FFN: 96, Type: tensor.Q5_0},
	{Arch: "gemma3", Seed: 7, Layers: 7, Heads: 2, KVHeads: 1, HeadDim: 256, Embed: 64, FFN: 96, Type: tensor.Q4_1},
}

// TestModels: whole models give what the reference gives: prompts in chunks, single steps, the graphs that repeat them, batches, forks, cut texts.
func TestModels(t *testing.T) {
	for _, c := range models {
		t.Run(c.Arch, func(t *testing.T) {
			if c.Arch == "gemma3" && emulated && testing.Short() {
				t.Skip("wide heads are slow in the emulator")
			}
			path := filepath.Join(t.TempDir(), "model.gguf")
			if err := testmodel.Write(path, c); err != nil {
				t.Fatal(err)
			}
			want, got := open(t, path, reference.New(), 2), open(t, path, openGPU(t), 2)
			n := 300
			if quick {
				n = 150
			}
			for _, p := range []*attention.Pipeline{densely, sparsely} {
				limit := 0.02
				if p == sparsely {
					limit = 0.1 // its codes have four bits, and the reference's pipeline is held against dense by others
				}
				compareModels(t, want, got, densely, p, tokens(n), limit)
			}
		})
	}
}

// TestManyRows: steps of hundreds of rows, whose kernels are others, give what the reference gives.
func TestManyRows(t *testing.T) {
	for _, c := range models {
		if quick && c.Arch != "llama" {
			continue
		}
		c.Embed, c.FFN = 256, 384 // so that they are taken
		path := filepath.Join(t.TempDir(), "model.gguf")
		if err := testmodel.Write(path, c); err != nil {
			t.Fatal(err)
		}
		compareModels(t, open(t, path, reference.New(), 2), openRows(t, path, openGPU(t), 2, 400), densely, densely, tokens(520), 0.02)
	}
}

// TestPromptRows: steps are as long as fills the multiprocessors to the end, and as memory allows.
func TestPromptRows(t *testing.T) {
	if !emulated {
		t.Skip("the emulator's multiprocessors and memory")
	}
	d := openGPU(t)
	defer d.Close() //nolint:errcheck // nothing was queued
	for _, c := range []struct{ values, heads, want int }{{1000, 12, 5632}, {1000, 14, 3584}, {1000, 9, 5632}, {4000, 12, 2560}, {1 << 20, 12, 512}} {
		if got := d.PromptRows(c.values, c.heads); got != c.want {
			t.Errorf("%d heads, rows of %d values: %d rows, expected %d", c.heads, c.values, got, c.want)
		}
	}
}

// compareModels holds the logits of two engines, each under a pipeline of its own, against each other; limit 0: they are equal.
func compareModels(t *testing.T, want, got *engine.Engine, ref, p *attention.Pipeline, ids []int32, limit float64) {
	t.Helper()
	a, b := want.NewSession(ref), got.NewSession(p)
	defer a.Close()
	defer b.Close()
	check := func(what string, x []float32, err error, y []float32, err2 error) {
		t.Helper()
		if err != nil || err2 != nil {
			t.Fatalf("%s: %v, %v", what, err, err2)
		}
		if e := apartBy(y, x); !(e <= limit) {
			t.Errorf("%s, %s: logits are %.3g apart", p.Spec(), what, e)
		}
	}
	x, _, err := a.Prefill(context.Background(), ids, nil)
	y, _, err2 := b.Prefill(context.Background(), ids, nil)
	check("prompt", x, err, y, err2)
	for i := range 4 {
		x, err = a.Step(int32(7 + i))
		y, err2 = b.Step(int32(7 + i))
		check(fmt.Sprintf("step %d", i), x, err, y, err2)
	}
	if sum := b.Summary(); p == sparsely && (sum.Steps == 0 || sum.Kept <= 0 || sum.Kept > sum.Context) {
		t.Errorf("%s: the statistics are %+v", p.Spec(), sum)
	}
	fork, fork2 := a.Fork(ref), b.Fork(p)
	defer fork.Close()
	defer fork2.Close()
	x, err = want.StepBatch([]*engine.Session{a, fork}, []int32{9, 12})
	y, err2 = got.StepBatch([]*engine.Session{b, fork2}, []int32{9, 12})
	check("batch", x, err, y, err2)
	x, err = a.Score([]int32{30, 31, 32})
	y, err2 = b.Score([]int32{30, 31, 32})
	check("scored text", x, err, y, err2)
	a.Truncate(len(ids) - 20)
	b.Truncate(len(ids) - 20)
	x, err = a.Step(99)
	y, err2 = b.Step(99)
	check("after a cut", x, err, y, err2)
}

// apartBy is ‖a−b‖/‖b‖; no number if either holds one that is none.
func apartBy(a, b []float32) float64 {
	var d, n float64
	for i := range b {
		d += float64(a[i]-b[i]) * float64(a[i]-b[i])
		n += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(d / n)
}
