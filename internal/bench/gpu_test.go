//go:build !nocuda

package bench

import (
	"errors"
	"math"
	"testing"

	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/device/cuda/emulator"
)

func TestGPUAttention(t *testing.T) {
	b := GPUAttention{Captures: []*Capture{randomCapture(1, 64, 2, 2, 1, 3, 280, 600), randomCapture(2, 64, 2, 2, 2, 3, 600)}, Views: []string{ViewGQA, ViewMHA}, Batches: []int{2},
		Contexts: []int{600}, Specs: []string{"twilight-paper", "dense", "full+block-range+top-p:0.9,union,exact=0.3,tail=mean", "twilight-paper+when:min-context=700"}}
	d, err := driver.Open(driver.Options{})
	if err == nil {
		err = d.Close()
	}
	if errors.Is(err, driver.ErrUnavailable) {
		if b.library, err = emulator.Build(t.TempDir(), "../device/cuda"); errors.Is(err, emulator.ErrUnavailable) {
			t.Skip(err)
		}
		b.pace = pace{steps: 1, replays: 1, copyBytes: 1 << 16}
	}
	if err != nil {
		t.Fatal(err)
	}
	var rows []AttentionRow
	b.Row = func(r AttentionRow) { rows = append(rows, r) }
	if err := b.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2*4 {
		t.Fatalf("%d rows, expected one for each of 2 views and 4 specs", len(rows))
	}
	for i, r := range rows {
		view, n, batch, spec := b.Views[i/4], b.Contexts[0], b.Batches[0], b.Specs[i%4]
		if r.View != view || r.Context != n || r.Batch != batch || r.Spec != spec || r.Heads != 4 || r.Dim != 64 || (r.KVHeads == 4) != (view == ViewMHA) || r.Micros <= 0 || r.Speedup <= 0 || r.CopyGBps <= 0 || r.Texts != 2 {
			t.Errorf("row %d: %+v", i, r)
		}
		read := 0.0
		for _, x := range r.StageBytes {
			read += x
		}
		if math.Abs(read-r.BytesToken) > 1e-9 || math.Abs(r.GBps*r.Micros*1e3-r.BytesToken*float64(r.KVHeads*batch)*r.KeptMean/r.KeptShare) > 1e-3*r.GBps*r.Micros*1e3 {
			t.Errorf("row %d: %g bytes a token by stage, %+v", i, read, r)
		}
		if whole := i%4 == 0 || i%4 == 3; whole != (r.Whole == 1) {
			t.Errorf("row %d: %g read whole: %+v", i, r.Whole, r)
		} else if whole {
			if r.BytesToken != 256 || r.KeptShare != 1 || math.Abs(r.Mass-1) > 1e-5 || r.OutErr > 2e-3 || r.Spec == "dense" && r.OutErr == 0 {
				t.Errorf("row %d: dense %+v", i, r)
			}
			continue
		}
		if r.BytesToken >= 256 || r.Mass < 0.5 || r.Mass >= 1 || r.MassWorst > r.Mass || r.OutErr <= 0 || r.OutErr > 0.8 || r.KeptMean > r.Candidates || r.Candidates > float64(n) || r.KeptShare >= 1 ||
			(r.Coded > 0) != (i%4 == 2) || r.MassHeads != min(16, batch*r.KVHeads)*r.Heads/r.KVHeads {
			t.Errorf("row %d: %+v %+v", i, r, *r.OnGPU)
		}
		if full := i%4 == 2; full && math.Abs(r.Candidates-r.KeptMean/r.KeptShare) > 1e-6 {
			t.Errorf("row %d: full has %g candidates", i, r.Candidates)
		}
	}
}
