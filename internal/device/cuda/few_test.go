package cuda

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// TestFewUnits: the kernel for few units gives what the other gives, which TestSparseAgrees holds against the reference.
func TestFewUnits(t *testing.T) {
	d := gpu(t)
	for i, s := range shapes {
		for _, lens := range [][]int32{lengths, long} {
			t.Run(fmt.Sprintf("%d_%d_%d", s.Dim, s.Group, len(lens)), func(t *testing.T) {
				withRig(t, d, s, lens, uint64(300+i), func(r *rig) {
					r.o.FewUnits = 64
					if units := len(lens) * s.KVHeads; r.o.few(units) == 0 {
						t.Fatalf("%d units are not few", units)
					}
					for name, m := range modes {
						m.DenseBelow = 20 // the shortest are read whole
						r.compareFew(name, m)
					}
				})
			})
		}
	}
}

// TestRanks: however many thread blocks share a unit, it selects as it should and attends to what it has selected.
func TestRanks(t *testing.T) {
	if emulated {
		t.Skip("other tests have clusters of all sizes there")
	}
	withRig(t, gpu(t), Shape{Dim: 64, KVHeads: 1, Group: 3, TokenCodes: true}, []int32{777}, 9, func(r *rig) {
		for ranks := 1; ranks <= maxRanks; ranks *= 2 {
			m, name := modes["twilight"], fmt.Sprintf("by %d", ranks)
			m.DenseBelow = 1
			r.o.SelectRanks, r.o.FewUnits = ranks, 0
			r.compareSparse(name, r.run(m), m)
			if r.o.FewUnits = 64; r.o.few(1) > 0 {
				r.compareFew(name, m)
			}
		}
	})
}

func (r *rig) compareFew(name string, m Mode) {
	t, o, batch := r.t, r.o, len(r.lens)
	got := r.run(m)
	stats, err := o.Stats(r.c, batch)
	r.must(err)
	if !slices.Equal(got, r.run(m)) {
		t.Errorf("%s: two runs differ", name)
	}
	few := o.FewUnits
	o.FewUnits = 0
	defer func() { o.FewUnits = few }()
	want := r.run(m)
	apartStats, err := o.Stats(r.c, batch)
	r.must(err)
	for i := range r.q {
		a, b := stats[i], apartStats[i]
		held := math.Abs(float64(a.Held - b.Held))
		if a.Held, b.Held = 0, 0; a != b || held > 1e-4 {
			t.Errorf("%s: sequence of %d, head %d: statistics are %+v, expected %+v; shares held are %.2g apart", name, r.lens[i/o.Group/o.KVHeads], i, a, b, held)
		}
		x := make([]float64, o.Dim)
		for c, y := range want[i*o.Dim:][:o.Dim] {
			x[c] = float64(y)
		}
		if e := apart(got[i*o.Dim:], x); !(e <= fp16Error) {
			t.Errorf("%s: sequence of %d, head %d: error %.2g", name, r.lens[i/o.Group/o.KVHeads], i, e)
		}
	}
}
