package bench

import (
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/testmodel"
)

func TestDecode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, testmodel.Config{Seed: 5}); err != nil {
		t.Fatal(err)
	}
	var rows []DecodeRow
	var stage string
	d := Decode{Model: "tiny", Text: "A text that has to be repeated.", Depths: []int{0, 300, 700}, Specs: []string{"twilight", "dense"}, Steps: 6, Threads: 1,
		Row: func(r DecodeRow) { rows = append(rows, r) }, Progress: func(s string, _, _ int64) { stage = s }}
	m, err := twilight.Open(t.Context(), path, d.Options(twilight.Options{Threads: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := d.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	var ops []string
	for _, r := range rows {
		ops = append(ops, r.Op+" "+r.Spec)
		if r.MicrosStep <= 0 || r.P99 < 1 || r.Model != "tiny" || r.Threads != 1 || r.Op == "decode" && (r.Steps != 6 || r.DenseFactor <= 0 || r.KeptMean <= 0) {
			t.Errorf("%+v", r)
		}
		if sparse := r.KeptShare < 1; sparse != (r.Op == "decode" && r.Spec == "twilight" && r.Context == 700) {
			t.Errorf("kept %g of the context: %+v", r.KeptShare, r)
		}
	}
	want := []string{"decode twilight", "decode dense", "prefill dense", "decode twilight", "decode dense", "prefill dense", "decode twilight", "decode dense"}
	if len(ops) != len(want) || stage == "" {
		t.Fatalf("%q, want %q", ops, want)
	}
	for i := range ops {
		if ops[i] != want[i] {
			t.Fatalf("%q, want %q", ops, want)
		}
	}
	rows, d.Depths, d.Sequences, d.Shortest, d.Threads = nil, []int{700}, 3, 0.25, 2
	crowded, err := twilight.Open(t.Context(), path, d.Options(twilight.Options{Threads: 2}))
	if err != nil {
		t.Fatal(err)
	}
	defer crowded.Close()
	if err := d.Run(t.Context(), crowded); err != nil {
		t.Fatal(err)
	}
	for i, r := range rows {
		if i == 0 {
			continue // the prompt
		}
		if r.Sequences != 3 || r.Context != 700 || r.FirstFactor <= 0 || r.TokensSec < 2.99e6/r.MicrosStep || r.ContextMean < 438+1 || r.ContextMean > 442 && r.Spec == "dense" {
			t.Errorf("together: %+v", r) // 700, 438 and 175 tokens
		}
	}
	d.Depths, d.Sequences = []int{5, 1}, 1
	if err := d.Run(t.Context(), m); err == nil {
		t.Error("depths that fall were taken")
	}
	d.Depths, d.Text = []int{5}, ""
	if err := d.Run(t.Context(), m); err == nil {
		t.Error("an empty text was taken")
	}
}

func TestTiming(t *testing.T) {
	x := Timing{Times: []float64{1, 2, 3, 4, 100}}
	if x.Median() != 3 || x.P99() != 100 {
		t.Errorf("median %g, p99 %g", x.Median(), x.P99())
	}
}

func TestKernels(t *testing.T) {
	if testing.Short() {
		t.Skip("measures the machine")
	}
	n := 0
	if err := Kernels(t.Context(), 1, func(r KernelRow) {
		if n++; r.Rate <= 0 || r.Threads != 1 || r.Unit == "" {
			t.Errorf("%+v", r)
		}
	}); err != nil || n != 4 {
		t.Errorf("%d rows, %v", n, err)
	}
}
