package cuda

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// TestFewUnits: the kernel for few units gives the same with any number of ranks if it keeps its scratch near as if it leaves it in memory, which TestSparseAgrees holds against the reference.
func TestFewUnits(t *testing.T) {
	d := gpu(t)
	for i, s := range shapes {
		for _, lens := range [][]int32{lengths, long} {
			t.Run(fmt.Sprintf("%d_%d_%d", s.Dim, s.Group, len(lens)), func(t *testing.T) {
				withRig(t, d, s, lens, uint64(300+i), func(r *rig) {
					ranks := []int{2, 3, 5, 6, 7, 8}
					if testing.Short() && !emulated {
						ranks = ranks[:2] // larger clusters take a sanitizer seconds a launch; TestRanks has all sizes
					}
					for name, m := range modes {
						m.DenseBelow = 20 // the shortest are read whole
						r.o.SelectRanks = ranks[0]
						ranks = append(ranks[1:], ranks[0])
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
		for ranks := 1; ranks <= maxRanks; ranks++ {
			m, name := modes["twilight"], fmt.Sprintf("by %d", ranks)
			m.DenseBelow = 1
			r.o.SelectRanks, r.o.Readable = ranks, true
			r.compareSparse(name, r.run(m), m)
			r.o.Readable = false
			if ranks > 1 {
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
	o.Readable = true
	defer func() { o.Readable = false }()
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
