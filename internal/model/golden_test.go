package model_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/device/cuda"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/device/reference"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/testenv"
)

var dense = attention.MustNew("dense")

// floatGolden is NAME.f32.json: per prompt, the 16 best log-probabilities of a float32 forward pass at each position from the prompt's last on.
type floatGolden struct {
	Prompts []struct {
		Prompt string         `json:"prompt"`
		IDs    []int32        `json:"forced_ids"`
		Tokens int            `json:"prompt_tokens"`
		Top    [][][2]float64 `json:"top"`
	} `json:"prompts"`
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// openDevice starts a device; the test is skipped where there is none.
func openDevice(t *testing.T, name string) (d device.Device) {
	t.Helper()
	var err error
	switch name {
	case "unrounded":
		return reference.NewUnrounded()
	case "reference":
		return reference.New()
	case "cuda":
		if d, err = cuda.Open(cuda.Options{}); errors.Is(err, driver.ErrUnavailable) {
			t.Skip(err)
		}
	default:
		d, err = cpu.New(0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// loaded is a model on a device with a cache for dense attention.
type loaded struct {
	*model.Model
	cache device.Cache
}

func load(t *testing.T, dev device.Device, name string, rows, blocks int) *loaded {
	t.Helper()
	f, err := gguf.Open(testenv.Model(t, name))
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(f, dev, model.Options{MaxRows: rows, MaxLogits: min(rows, 512)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := dev.Cache(kvcache.Shape{Layers: m.Layers, KVHeads: m.KVHeads, Dim: m.HeadDim, Group: m.Group(), Exact: m.Sliding}, blocks, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range []error{c.Close(), dev.Close(), f.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return &loaded{m, c}
}

// logProbs runs ids as one prompt and returns the log-probabilities after each of its tokens from the first-th on.
func (l *loaded) logProbs(t *testing.T, ids []int32, first int, mode device.Mode) [][]float64 {
	t.Helper()
	s := l.cache.NewSequence()
	defer s.Release()
	if err := s.Reserve(len(ids)); err != nil {
		t.Fatal(err)
	}
	step := &model.Step{Tokens: ids, Cache: l.cache, Segments: []device.Segment{{Seq: s, N: len(ids), Mode: mode, Pipeline: dense}}}
	for i := first; i < len(ids); i++ {
		step.Logits = append(step.Logits, int32(i))
	}
	logits, err := l.Forward(step)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][]float64, len(step.Logits))
	for i := range out {
		out[i] = logSoftmax(logits[i*l.Vocab:][:l.Vocab])
	}
	return out
}

func logSoftmax(row []float32) []float64 {
	top, sum := math.Inf(-1), 0.0
	for _, x := range row {
		top = max(top, float64(x))
	}
	for _, x := range row {
		sum += math.Exp(float64(x) - top)
	}
	out := make([]float64, len(row))
	for i, x := range row {
		out[i] = float64(x) - top - math.Log(sum)
	}
	return out
}

// floatModels have float32 goldens.
var floatModels = []string{"smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"}

func TestFloatGolden(t *testing.T) {
	// what a device may differ by: its largest difference of a log-probability above −8 (the cpu device quantises activations to 8 bits, so it is held to a KL),
	// and the mean KL
	limits := map[string]struct{ worst, kl float64 }{
		"unrounded": {1e-3, 1e-6}, // float32 throughout
		"reference": {2e-2, 1e-4}, // the fp16 cache
		"cpu":       {math.Inf(1), 2e-3},
		"cuda":      {0.1, 5e-5},
	}
	for _, dev := range []string{"unrounded", "reference", "cpu", "cuda"} {
		for _, name := range floatModels {
			t.Run(dev+"/"+name, func(t *testing.T) {
				slow := (dev == "unrounded" || dev == "reference") && os.Getenv("TWILIGHT_SLOW") == ""
				if testing.Short() || slow && name != floatModels[0] {
					t.Skip("slow: runs without -short, and with TWILIGHT_SLOW=1 beyond smollm2 on float32 devices")
				}
				d := openDevice(t, dev)
				var golden floatGolden
				readJSON(t, testenv.Shared(t, "golden", name+".f32.json"), &golden)
				if slow {
					golden.Prompts = golden.Prompts[:3]
				}
				l := load(t, d, name, 128, 1)
				var kl, n, worst float64
				for _, p := range golden.Prompts {
					got := l.logProbs(t, p.IDs, p.Tokens-1, device.Prompt)
					for i, top := range p.Top {
						wantRest, haveRest := 1.0, 1.0 // the tokens beyond the best count as one
						for _, e := range top {
							want, have := e[1], got[i][int(e[0])]
							kl += math.Exp(want) * (want - have)
							wantRest -= math.Exp(want)
							haveRest -= math.Exp(have)
							if want > -8 {
								worst = max(worst, math.Abs(want-have))
							}
						}
						if wantRest > 0 && haveRest > 0 {
							kl += wantRest * math.Log(wantRest/haveRest)
						}
						n++
					}
				}
				t.Logf("%d positions: mean KL over the 16 best %.6f, largest difference of a log-probability above -8 %.5f", int(n), kl/n, worst)
				if limit := limits[dev]; worst > limit.worst || kl/n > limit.kl {
					t.Errorf("mean KL %.6f, largest difference %.5f; expected at most %g and %g", kl/n, worst, limit.kl, limit.worst)
				}
			})
		}
	}
}
