//go:build !nocuda

package bench

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda"
	"github.com/twilight-go/twilight/internal/tensor"
)

var _ [cuda.Stages + 1]string = gpuStages

// What is downloaded, or computed by definition, is of at most so many KV heads of a batch.
const (
	sampledPages = 64
	sampledMass  = 16
)

// measure completes the row of a batch and spec. dense is the batch's first row, which it becomes if the mode is dense.
func (p *gpuPoint) measure(r *AttentionRow, m cuda.Mode, dense *AttentionRow) (err error) {
	o, l := p.op, p.line
	first := l.texts[0]
	*r = AttentionRow{Model: first.Model, Device: fmt.Sprintf("%s, compute capability %d.%d", p.dev.Name, p.dev.Major, p.dev.Minor), View: p.view, Batch: r.Batch, Heads: o.KVHeads * o.Group,
		KVHeads: o.KVHeads, Dim: o.Dim, Layers: len(first.layers()), Context: p.n, Spec: r.Spec, Steps: p.pace.replays, Stages: map[string]float64{},
		OnGPU: &OnGPU{CopyGBps: p.copyGBps, Texts: min(len(l.texts), r.Batch)}}
	steps := p.sequences / r.Batch
	if r.Micros, err = p.time(steps, func(i int) error { return o.Attend(p.c, p.stream, i*r.Batch, r.Batch, m) }); err != nil {
		return err
	}
	if err := p.stages(r, m, steps); err != nil {
		return err
	}
	if err := errors.Join(o.Attend(p.c, p.stream, 0, r.Batch, m), p.c.Wait(p.stream)); err != nil {
		return err
	}
	got, err := p.output(r.Batch)
	if err != nil {
		return err
	}
	if err := p.byDefinition(r.Batch); err != nil {
		return err
	}
	if m.Dense {
		*dense, p.want = *r, got
		r.Speedup = 1
		p.dense(r, got)
		return nil
	}
	r.Speedup = dense.Micros / r.Micros
	defer func() { o.Readable = false }()
	o.Readable = true
	if err := errors.Join(o.Attend(p.c, p.stream, 0, r.Batch, m), p.c.Wait(p.stream)); err != nil {
		return err
	}
	heads := r.Batch * r.Heads
	for i := range heads {
		r.OutErr += apart(got[i*o.Dim:][:o.Dim], p.want[i*o.Dim:][:o.Dim]) / float64(heads)
	}
	return p.account(r, m)
}

// stages times the operator's stages, each as what it adds when the launch ends after it, and the last as the rest of the whole step.
func (p *gpuPoint) stages(r *AttentionRow, m cuda.Mode, steps int) error {
	before := 0.0
	for n := 1; n <= cuda.Stages && !m.Dense; n++ {
		us, err := p.time(steps, func(i int) error {
			return p.op.Select(p.c, p.stream, i*r.Batch, r.Batch, m, n)
		})
		if err != nil {
			return err
		}
		r.Stages[gpuStages[n-1]] = max(us-before, 0)
		before = us
	}
	r.Stages[gpuStages[cuda.Stages]] = max(r.Micros-before, 0)
	return nil
}

// output downloads what the heads of a batch have, [batch][heads][dim].
func (p *gpuPoint) output(batch int) ([]float32, error) {
	_, from, _, _ := p.op.Buffers()
	half := make([]uint16, batch*p.op.KVHeads*p.op.Group*p.op.Dim)
	if err := p.c.Download(bytesOf(half), from); err != nil {
		return nil, err
	}
	out := make([]float32, len(half))
	tensor.F16sToF32s(out, half)
	return out, nil
}

// dense completes the row of dense attention: it reads everything, and its error is against attention by definition, of the sampled heads.
func (p *gpuPoint) dense(r *AttentionRow, got []float32) {
	o := p.op
	units := sampled(r.Batch*o.KVHeads, sampledMass)
	for _, u := range units {
		for g := range o.Group {
			r.OutErr += apart(got[(u*o.Group+g)*o.Dim:][:o.Dim], p.known[[2]int{u, g}].out) / float64(len(units)*o.Group)
		}
	}
	tokens := 0.0
	for s := range r.Batch {
		tokens += float64(p.line.length(s))
	}
	mean := tokens / float64(r.Batch)
	r.KeptMean, r.KeptShare, r.UnionMean, r.Mass, r.MassWorst, r.MassHeads, r.Candidates, r.Whole = mean, 1, mean, 1, 1, len(units)*o.Group, mean, 1
	p.bytes(r, attention.Bytes{Attend: int64(tokens) * int64(o.KVHeads*o.Dim*4)}, tokens)
}

// bytes says what a step reads, per token and KV head, and how fast.
func (p *gpuPoint) bytes(r *AttentionRow, b attention.Bytes, tokens float64) {
	all := tokens * float64(p.op.KVHeads)
	r.StageBytes = map[string]float64{"select": float64(b.Select) / all, "estimate": float64(b.Estimate) / all, "attend": float64(b.Attend) / all}
	r.BytesToken = float64(b.Total()) / all
	r.GBps = float64(b.Total()) / r.Micros / 1e3
}

// account completes the row of a sparse step that was the last: what was kept, what was read, and what mass that has.
func (p *gpuPoint) account(r *AttentionRow, m cuda.Mode) error {
	o := p.op
	stats, err := o.Stats(p.c, r.Batch)
	if err != nil {
		return err
	}
	units := r.Batch * o.KVHeads
	whole := func(u int) bool { return int(stats[u*o.Group].Exact) == p.line.length(u/o.KVHeads) }
	union, seen := 0, 0
	for _, u := range sampled(units, sampledPages) {
		if whole(u) {
			continue
		}
		seen++
		pages, err := o.Candidates(p.c, u, p.line.length(u/o.KVHeads), r.Batch)
		if err != nil {
			return err
		}
		for _, heads := range pages {
			if heads != 0 {
				union += attention.PageTokens
			}
		}
	}
	var read attention.Bytes
	tokens, wholes := 0.0, 0
	for u := range units {
		n, s := p.line.length(u/o.KVHeads), stats[u*o.Group]
		tokens += float64(n) / float64(o.KVHeads)
		mode := m
		if whole(u) {
			mode.Dense = true
			wholes++
		}
		b := o.Read(mode, n, union/max(seen, 1), int(s.Exact), int(s.Others))
		read.Select, read.Estimate, read.Attend = read.Select+b.Select, read.Estimate+b.Estimate, read.Attend+b.Attend
		r.UnionMean += float64(s.Exact) / float64(units)
		r.Coded += float64(s.Others) / float64(units)
	}
	r.Whole = float64(wholes) / float64(units)
	for _, s := range stats {
		r.Candidates += float64(s.Candidates) / float64(len(stats))
		r.KeptMean += float64(s.Own) / float64(len(stats))
	}
	r.KeptShare = r.KeptMean / (tokens / float64(r.Batch))
	p.bytes(r, read, tokens)
	return p.mass(r)
}

// mass takes the exact softmax mass of what the sampled heads attended to.
func (p *gpuPoint) mass(r *AttentionRow) error {
	o := p.op
	units := sampled(r.Batch*o.KVHeads, sampledMass)
	r.MassWorst, r.MassHeads = 1, len(units)*o.Group
	for _, u := range units {
		exact, others, heads, err := o.Survivors(p.c, u, p.line.length(u/o.KVHeads), r.Batch)
		if err != nil {
			return err
		}
		for g := range o.Group {
			w, mass := p.known[[2]int{u, g}].weights, 0.0
			for i, t := range exact {
				if heads[i]>>g&1 != 0 {
					mass += float64(w[t])
				}
			}
			for _, t := range others {
				mass += float64(w[t])
			}
			r.Mass += mass / float64(r.MassHeads)
			r.MassWorst = min(r.MassWorst, mass)
		}
	}
	return nil
}

// exactHead is attention by definition of one query head of one unit.
type exactHead struct {
	weights, out []float32
}

// byDefinition computes attention by definition for the sampled heads of a batch, as far as that has not been done.
func (p *gpuPoint) byDefinition(batch int) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, u := range sampled(batch*p.op.KVHeads, sampledMass) {
		for head := range p.op.Group {
			key := [2]int{u, head}
			if p.known[key] != nil {
				continue
			}
			x := &exactHead{}
			p.known[key] = x
			g.Go(func() error {
				x.weights, x.out = p.line.exact(u/p.op.KVHeads, u%p.op.KVHeads, head)
				return nil
			})
		}
	}
	return g.Wait()
}

// sampled is at most most numbers below n, spread over them, and over what repeats among them with a power of two.
func sampled(n, most int) (list []int) {
	k := min(n, most)
	for i := range k {
		list = append(list, i*n/k+i%max(n/k, 1))
	}
	return list
}
