package main

import (
	"errors"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda"
)

// account fills in what was kept and read.
func (b *bench) account(r *row, m cuda.Mode, at int, tokens float64) error {
	o := b.op
	stats, err := o.Stats(b.c, r.Batch)
	if err != nil {
		return err
	}
	bytes, n := 0.0, float64(len(stats))
	for i, s := range stats {
		r.Candidates += float64(s.Candidates) / n
		r.Kept += float64(s.Own) / n
		r.Exact += float64(s.Exact) / n
		r.Others += float64(s.Others) / n
		if i%o.Group == 0 && !b.whole(stats, i/o.Group, at) {
			bytes += float64(s.Exact)*float64(4*o.Dim+4) + float64(s.Others)*float64(o.Dim/2+o.Dim/8+4+2*o.Group)
		}
	}
	code := float64(o.Dim / 2)
	if m.TokenCodes {
		code += 4
	}
	r.MassWorst = 1
	units := r.Batch * o.KVHeads
	samples := 0
	for u := range units {
		s := u / o.KVHeads
		n := b.length(at, s)
		if units > 64 && u%(units/64) != 0 { // downloads cost
			continue
		}
		read := float64(n) * float64(4*o.Dim)
		if !b.whole(stats, u, at) {
			pages, err := o.Candidates(b.c, u, n)
			if err != nil {
				return err
			}
			read = float64(n)*float64(o.Dim)/attention.PageTokens + 2*float64(4*o.Dim*n/attention.BlockTokens)
			for _, p := range pages {
				if p != 0 {
					read += attention.PageTokens * (code + float64(2*o.Group))
				}
			}
		}
		bytes += read * float64(units) / float64(min(units, 64))
		if samples < 12 {
			samples++
			if err := b.trueMass(r, m, at, u, n); err != nil {
				return err
			}
		}
	}
	r.Mass /= float64(samples * o.Group)
	r.Bytes = bytes / tokens / float64(o.KVHeads)
	r.GBps = bytes / r.Micros / 1e3
	return nil
}

// length is the tokens of a sequence at a context.
func (b *bench) length(at, sequence int) int {
	return b.data.at[at] - b.data.window + b.query(sequence) + 1
}

// whole reports whether a unit was short enough to be read whole.
func (b *bench) whole(stats []cuda.HeadStats, unit, at int) bool {
	return int(stats[unit*b.op.Group].Exact) == b.length(at, unit/b.op.KVHeads)
}

// trueMass adds the exact softmax mass, summed over the group, of what a unit attended to.
func (b *bench) trueMass(r *row, m cuda.Mode, at, unit, n int) error {
	o := b.op
	exact, others, who, err := o.Survivors(b.c, unit, n, r.Batch)
	if err != nil {
		return err
	}
	s, h := unit/o.KVHeads, unit%o.KVHeads
	src := b.source(s, h)
	for g := range o.Group {
		key := [3]int{at, unit, g}
		w := b.weighed[key]
		if w == nil {
			w = b.data.weights(src, at, b.query(s), b.queryHead(s, h, g), n)
			b.weighed[key] = w
		}
		mass := 0.0
		for i, t := range exact {
			if who[i]>>g&1 != 0 {
				mass += w[t]
			}
		}
		for _, t := range others {
			mass += w[t]
		}
		r.Mass += mass
		r.MassWorst = min(r.MassWorst, mass)
	}
	return nil
}

// measureStages times select's stages, each as what it adds to those before it.
func (b *bench) measureStages(r *row, m cuda.Mode, steps int) error {
	before := 0.0
	for n := 1; n <= cuda.Stages; n++ {
		us := r.Select
		if n < cuda.Stages {
			var err error
			us, err = b.time(steps, func(i int) error {
				return errors.Join(b.op.Select(b.c, b.stream, i*r.Batch, r.Batch, m, n), b.op.ResetQueue(b.c, b.stream))
			})
			if err != nil {
				return err
			}
		}
		r.Stages = append(r.Stages, us-before)
		before = us
	}
	return nil
}
