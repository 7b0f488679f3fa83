package cuda

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// TestTop: lists of the most likely tokens are exact and in order, damaged rows and those with too many alike are left to the host.
func TestTop(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		rng := rand.New(rand.NewPCG(17, 18))
		for _, cols := range []int{1, 77, 256, 3001, 20011} {
			const rows = 8
			src := make([]float32, rows*cols)
			for i := range src {
				src[i] = float32(3*rng.NormFloat64() - 9)
			}
			row := func(r int) []float32 { return src[r*cols:][:cols] }
			for i := range row(1) {
				row(1)[i] = float32(math.Round(float64(row(1)[i]))) // many are as large
				row(2)[i] = 0
				row(3)[i] *= 100 // few are within reach
				row(5)[i] = -row(5)[i] * 1e30
				row(6)[i] = float32(math.Inf(-1))
			}
			row(2)[0] = float32(math.Copysign(0, -1)) // as large as 0
			row(4)[cols/2] = float32(math.NaN())
			row(7)[cols/3] = float32(math.Inf(1))
			got := make([]device.Top, rows)
			raw := unsafe.Slice((*byte)(unsafe.Pointer(&got[0])), rows*topBytes)
			dst := b.upload(raw)
			if err := errors.Join(b.l.top(b.c, 0, dst, put(b, src), rows, cols), b.c.Synchronize(), b.c.Download(raw, dst)); err != nil {
				return err
			}
			for r := range rows {
				checkTop(t, r, row(r), &got[r])
			}
		}
		return nil
	})
}

// TestDraws: what a device draws from lists is what samplers draw from the logits, whether or not the list suffices.
func TestDraws(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := testmodel.Write(path, models[0]); err != nil {
		t.Fatal(err)
	}
	e := open(t, path, openGPU(t), 10)
	var listed, whole []*engine.Session
	var ours, theirs []*engine.Sampler
	for i, p := range []engine.Sampling{{}, {Temperature: 1, TopK: 5}, {Temperature: 2, TopP: 0.9}, {Temperature: 1, MinP: 0.05, Repetition: 1.2}, {Temperature: 1}} {
		p.Seed = uint64(i)
		a := e.NewSession(densely)
		if _, _, err := a.Prefill(t.Context(), tokens(40-i), nil); err != nil {
			t.Fatal(err)
		}
		b := a.Fork(densely)
		t.Cleanup(a.Close)
		t.Cleanup(b.Close)
		listed, whole = append(listed, a), append(whole, b)
		ours, theirs = append(ours, engine.NewSampler(p)), append(theirs, engine.NewSampler(p))
	}
	next, want := []int32{5, 6, 7, 8, 9}, []int32{5, 6, 7, 8, 9}
	for step := range 6 {
		if err := e.SampleBatch(listed, next, ours, next); err != nil {
			t.Fatal(err)
		}
		logits, err := e.StepBatch(whole, want)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range theirs {
			want[i] = s.Sample(logits[i*e.Model().Vocab:][:e.Model().Vocab])
			ours[i].Accept(next[i])
			s.Accept(want[i])
		}
		if !slices.Equal(next, want) {
			t.Fatalf("step %d draws %v, expected %v", step, next, want)
		}
	}
}

func checkTop(t *testing.T, r int, row []float32, got *device.Top) {
	t.Helper()
	largest := float32(math.Inf(-1))
	for _, x := range row {
		if x > largest {
			largest = x
		}
	}
	var ids []int32
	mass := 0.0
	for i, x := range row {
		if largest-x < 64 {
			ids = append(ids, int32(i))
			mass += math.Exp(float64(x) - float64(largest))
		}
	}
	slices.SortStableFunc(ids, func(a, b int32) int { return cmp.Compare(row[b], row[a]) })
	alike := 0
	for _, id := range ids {
		if len(ids) > device.Listed && row[id] > row[ids[device.Listed-1]]-1.0/16 {
			alike++
		}
	}
	ids = ids[:min(len(ids), device.Listed)]
	if got.Count == 0 && alike > 2048 || len(ids) == 0 && got.Count == 0 {
		return // the host looks itself
	}
	if int(got.Count) != len(ids) || math.Abs(got.Mass/mass-1) > device.MassError {
		t.Errorf("%d columns, row %d: %d tokens of mass %g, expected %d of %g", len(row), r, got.Count, got.Mass, len(ids), mass)
		return
	}
	for i, id := range ids {
		if got.ID[i] != id || got.Logit[i] != row[id] {
			t.Errorf("%d columns, row %d: token %d is %d at %g, expected %d at %g", len(row), r, i, got.ID[i], got.Logit[i], id, row[id])
			return
		}
	}
}
