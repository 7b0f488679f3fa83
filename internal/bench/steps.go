package bench

import (
	"context"
	"runtime"
	"slices"
	"time"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
)

// Timing is the measured steps of one spec.
type Timing struct {
	Times                []float64 // seconds a step, ascending
	Kept, Context, Bytes float64   // means over sparse layers and sequences: tokens kept a head, tokens in sight, bytes read a KV head and step
	Allocs               float64   // allocations a step
}

// Median is the time of the middle step.
func (t *Timing) Median() float64 { return t.Times[len(t.Times)/2] }

// P99 is the time that one step in a hundred exceeds; of few steps, the slowest.
func (t *Timing) P99() float64 { return t.Times[min(len(t.Times)-1, len(t.Times)*99/100)] }

// Steps times decode steps of the given tokens behind what base has cached, in a fork for each spec. The specs take turns every few steps, after some of each
// that are not measured.
func Steps(ctx context.Context, base *twilight.Session, specs []string, tokens []int32) ([]Timing, error) {
	return StepsTogether(ctx, []*twilight.Session{base}, specs, [][]int32{tokens})
}

// StepsTogether is Steps of several sequences that decode together: tokens[i] behind bases[i], all of equal number.
func StepsTogether(ctx context.Context, bases []*twilight.Session, specs []string, tokens [][]int32) ([]Timing, error) {
	out, crowds := make([]Timing, len(specs)), make([]*crowd, len(specs))
	for i, spec := range specs {
		c, err := newCrowd(bases, spec)
		if err != nil {
			return nil, err
		}
		defer c.close()
		if err := c.warm(tokens); err != nil {
			return nil, err
		}
		crowds[i] = c
		out[i].Times = make([]float64, 0, len(tokens[0]))
	}
	for at := 0; at < len(tokens[0]); at += chunk {
		for i, c := range crowds {
			before := allocations()
			for k := at; k < min(at+chunk, len(tokens[0])); k++ {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				start := time.Now()
				if err := c.step(tokens, k); err != nil {
					return nil, err
				}
				out[i].Times = append(out[i].Times, time.Since(start).Seconds())
			}
			out[i].Allocs += float64(allocations()-before) / float64(len(tokens[0]))
		}
	}
	for i, c := range crowds {
		slices.Sort(out[i].Times)
		for j, f := range c.sessions {
			s, n := Summary(f, bases[j].Len()), float64(len(c.sessions))
			out[i].Kept, out[i].Context, out[i].Bytes = out[i].Kept+s.Kept/n, out[i].Context+s.Context/n, out[i].Bytes+s.BytesStep/n
		}
	}
	return out, nil
}

// allocations is how many the process has made so far.
func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// crowd is sessions that step together under one spec.
type crowd struct {
	sessions     []*twilight.Session
	next, chosen []int32
}

// newCrowd forks the bases.
func newCrowd(bases []*twilight.Session, spec string) (*crowd, error) {
	c := &crowd{next: make([]int32, len(bases)), chosen: make([]int32, len(bases))}
	for _, b := range bases {
		f, err := b.Fork(spec)
		if err != nil {
			c.close()
			return nil, err
		}
		c.sessions = append(c.sessions, f)
	}
	return c, nil
}

// step decodes token k of each sequence, and finds the most likely token after it.
func (c *crowd) step(tokens [][]int32, k int) error {
	for i := range c.next {
		c.next[i] = tokens[i][k]
	}
	return c.sessions[0].Model().NextBatch(c.sessions, c.next, c.chosen)
}

func (c *crowd) close() {
	for _, s := range c.sessions {
		s.Close()
	}
}

// warm makes steps that are not measured, and takes them back: the first of a fork copies blocks, and finds no scratch; the second is recorded by a device that records,
// and the third is the first to be repeated.
func (c *crowd) warm(tokens [][]int32) error {
	for range 3 {
		if err := c.step(tokens, 0); err != nil {
			return err
		}
		for _, s := range c.sessions {
			s.Truncate(s.Len() - 1)
			s.Stats = attention.Stats{}
		}
	}
	return nil
}

// Summary is what s attended to since it was forked at from tokens. Unlike the session's own it speaks of dense attention too, which keeps and reads everything in sight.
func Summary(s *twilight.Session, from int) attention.Summary {
	a := s.Summary()
	if a.Steps == 0 {
		n := float64(from+1+s.Len()) / 2
		b := n * float64(s.Model().Hyper().HeadDim) * 4
		a = attention.Summary{Context: n, Candidate: n, Kept: n, Union: n, Mass: 1, BytesStep: b, DenseStep: b}
	}
	return a
}
