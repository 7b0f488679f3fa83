package bench

import (
	"time"

	"github.com/twilight-go/twilight/attention"
)

// operator is the attention of a device by itself, under one pipeline and view. What it remembers of a sequence is its own.
type operator interface {
	// run attends in the given layers, one after the other, as a decode step does, and returns how long that took. stats and stage, which is told of the time of
	// each stage, may be nil.
	run(s *step, layers []int, stats *attention.Stats, stage func(name string, took time.Duration)) (time.Duration, error)
}

// view is how query heads share KV heads: as the model has it, or each with a KV head of its own. For the latter a model's KV heads are gone through once for
// every query head of a group, all layers of it before the next, so that a head's keys are as cold as if no other had read them.
type view struct {
	name          string
	passes, group int
}

func viewOf(name string, group int) view {
	if name == ViewMHA {
		return view{name, group, 1}
	}
	return view{name, 1, group}
}

// hostOperator runs the stages on this machine.
type hostOperator struct {
	exec   *attention.Exec
	pipe   *attention.Pipeline
	view   view
	memory []attention.Memory // by pass
	out    []float32
}

func newHostOperator(x *attention.Exec, p *attention.Pipeline, v view, s *step) *hostOperator {
	o := &hostOperator{exec: x, pipe: p, view: v}
	for range v.passes {
		o.memory = append(o.memory, s.seq.Memory.Fork(s.seq.Len()))
	}
	return o
}

func (o *hostOperator) run(s *step, layers []int, stats *attention.Stats, stage func(string, time.Duration)) (time.Duration, error) {
	o.exec.OnStage = stage
	defer func() { o.exec.OnStage = nil }()
	shape, dim := s.host.Shape(), s.host.Shape().Dim
	if n := len(s.q[layers[0]]); len(o.out) < n {
		o.out = make([]float32, n)
	}
	start := time.Now()
	for pass := range o.view.passes {
		o.memory[pass].Prepare(o.pipe, s.host.AttentionShape(o.view.group))
		for _, l := range layers {
			for h := range shape.KVHeads {
				at := (h*o.view.passes*o.view.group + pass) * dim
				err := o.exec.Add(attention.Call{Pipeline: o.pipe, Layer: l, KVHead: h, Head: s.host.Head(s.seq, l, h, s.seq.Len()), Planes: s.host.PlaneNames(), Group: o.view.group,
					Q: s.q[l][at:][:o.view.group*dim], Out: o.out[at:][:o.view.group*dim], Stats: stats, Memory: &o.memory[pass]})
				if err != nil {
					return 0, err
				}
			}
			o.exec.Run()
		}
	}
	return time.Since(start), nil
}
