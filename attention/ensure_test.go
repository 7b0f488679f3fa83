package attention

import (
	"fmt"
	"testing"
)

// A head whose audited mass is too little is dense, bit for bit, from that step on and until an audit finds enough; forks carry that on, truncations forget it.
func TestEnsure(t *testing.T) {
	b := newBatch(shape{3, 32, []int{700}})
	x := NewExec(Portable{}, Serial{})
	var stats Stats
	step := func(p *Pipeline, m *Memory, n int) []float32 {
		t.Helper()
		c := b.calls(1, p, func(int) *Stats { return &stats })[0]
		c.Head.N = n
		if m != nil {
			c.Memory = m
		}
		runAll(t, x, []Call{c})
		return c.Out
	}
	spec := "streaming:sink=1,window=16" + always
	few, many := MustNew(spec+",audit=5,ensure=0.999"), MustNew(spec+",audit=5,ensure=0.0001")
	first := 600 // audits' turns are at multiples of five from here
	for !few.audits(0, 0, first) {
		first++
	}
	m := new(Memory)
	m.Prepare(few, Shape{Layers: 1, KVHeads: 1, Group: 3, Dim: 32})
	for n := first + 1; n < first+12; n++ {
		out := step(few, m, n)
		dense := step(MustNew("dense"), nil, n)
		requireSame(t, fmt.Sprintf("step at %d", n), out, dense)
	}
	if k := stats.Layers[0].KV[0]; k.Short != 11 || k.Audit.N != 3 || k.Steps != 0 || stats.Layers[0].Dense != 22 {
		t.Errorf("%+v, %d dense steps; want 11 short of mass, of them 3 audited, and 22 dense", k, stats.Layers[0].Dense)
	}
	if s := stats.Summary(32); s.Short != 11 || s.Audits != 3 || !(s.AuditMass > 0 && s.AuditMass < 0.9) {
		t.Errorf("summary %+v", s)
	}
	fork := m.Fork(0)
	stats = Stats{}
	step(few, &fork, first+13)
	if k := stats.Layers[0].KV[0]; k.Short != 1 || k.Audit.N != 0 {
		t.Errorf("after a fork: %+v; want a dense step without an audit", k)
	}
	fork.Truncate(first)
	stats = Stats{}
	step(few, &fork, first+1)
	if k := stats.Layers[0].KV[0]; k.Short != 1 || k.Audit.N != 1 {
		t.Errorf("after a truncation: %+v; want a dense step by an audit", k)
	}
	*few.verdict(&Call{Memory: m}) = enough
	stats = Stats{}
	step(few, m, first+13)
	if k := stats.Layers[0].KV[0]; k.Short != 0 || k.Steps != 1 || *few.verdict(&Call{Memory: &fork}) != short {
		t.Errorf("with enough mass: %+v; want a sparse step, and the fork as it was", k)
	}

	stats = Stats{}
	m.Prepare(many, Shape{Layers: 1, KVHeads: 1, Group: 3, Dim: 32})
	out := step(many, m, first+1)
	plain := step(MustNew(spec), nil, first+1)
	requireSame(t, "with enough mass", out, plain)
	if k := stats.Layers[0].KV[0]; k.Short != 0 || k.Steps != 2 || k.Audit.N != 1 {
		t.Errorf("with enough mass: %+v; want two sparse steps, one audited", k)
	}

	c := b.calls(1, few, func(int) *Stats { return nil })[0]
	c.Memory = nil
	want := "attention: " + few.Spec().String() + ": the call brings no memory of its sequence for ensure=, expected one made ready by Prepare"
	if err := x.Add(c); err == nil || err.Error() != want {
		t.Errorf("without a memory: %v, want %s", err, want)
	}
	calls := b.calls(1, few, func(int) *Stats { return &stats })
	if n := testing.AllocsPerRun(3, func() { runAll(t, x, calls) }); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
}
