package cuda

import (
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// TestStepAllocations: a step of a form that was recorded allocates nothing, though its statistics are counted.
func TestStepAllocations(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector allocates on its own, and runs the short tests")
	}
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := testmodel.Write(path, models[0]); err != nil {
		t.Fatal(err)
	}
	e := open(t, path, openGPU(t), 3)
	for _, p := range []*attention.Pipeline{densely, sparsely} {
		var sessions []*engine.Session
		for i := range 3 {
			s := e.NewSession(p)
			t.Cleanup(s.Close)
			if _, _, err := s.Prefill(t.Context(), tokens(120-i*30), nil); err != nil {
				t.Fatal(err)
			}
			sessions = append(sessions, s)
		}
		given, chosen, samplers := []int32{5, 6, 7}, make([]int32, 3), make([]*engine.Sampler, 3)
		for i := range samplers {
			samplers[i] = engine.NewSampler(engine.Sampling{Temperature: 1, TopK: 20 + i, TopP: 0.9})
		}
		run := func() error { return e.NextBatch(sessions, given, chosen) }
		if p == densely {
			run = func() error { return e.SampleBatch(sessions, given, samplers, chosen) }
		}
		step := func() {
			if err := run(); err != nil {
				t.Fatal(err)
			}
		}
		for range 9 { // of every layer, too
			step()
		}
		if n := testing.AllocsPerRun(8, step); n != 0 {
			t.Errorf("%s: %v allocations a step", p.Spec(), n)
		}
	}
}
