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
	Times                       []float64 // seconds a step, ascending
	Kept, Exact, Context, Bytes float64   // means over sparse layers and sequences: tokens kept a head, tokens read exactly a KV head, tokens in sight, bytes read a KV head and step
	Allocs                      float64   // allocations a step
}

// Median is the time of the middle step.
func (t *Timing) Median() float64 { return t.Times[len(t.Times)/2] }

// P99 is the time that one step in a hundred exceeds; of few steps, the slowest.
func (t *Timing) P99() float64 { return t.Times[min(len(t.Times)-1, len(t.Times)*99/100)] }

// turn is how many steps a spec does, at least, before the next has its turn: they share the machine's noise. A few turns are enough, and of many sequences, which take long to fork, one.
func turn(steps, sequences int) int {
	if sequences > 8 {
		return steps
	}
	return max(4, (steps+3)/4)
}

// Steps times decode steps of the given tokens behind what base has cached. The specs take turns of some steps, after a few that are not measured, each in forks of base that it gives back:
// however many specs there are, only one has blocks of its own, as many as StepBlocks says.
func Steps(ctx context.Context, base *twilight.Session, specs []string, tokens []int32) ([]Timing, error) {
	return StepsTogether(ctx, []*twilight.Session{base}, specs, [][]int32{tokens})
}

// StepBlocks is how many blocks of its own StepsTogether needs for each sequence.
func StepBlocks(steps, sequences int) int {
	return 2 + (turn(steps, sequences)+warmSteps)/attention.BlockTokens
}

// StepsTogether is Steps of several sequences that decode together: tokens[i] behind bases[i], all of equal number.
func StepsTogether(ctx context.Context, bases []*twilight.Session, specs []string, tokens [][]int32) ([]Timing, error) {
	out, all := make([]Timing, len(specs)), len(tokens[0])
	for i := range out {
		out[i].Times = make([]float64, 0, all)
	}
	for at, n := 0, turn(all, len(bases)); at < all; at += n {
		for i, spec := range specs {
			if err := out[i].turn(ctx, bases, spec, tokens, at, min(at+n, all)); err != nil {
				return nil, err
			}
		}
	}
	for i := range out {
		slices.Sort(out[i].Times)
	}
	return out, nil
}

// turn measures steps of tokens [from,to) of each sequence.
func (t *Timing) turn(ctx context.Context, bases []*twilight.Session, spec string, tokens [][]int32, from, to int) error {
	c, err := newCrowd(bases, spec)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.warm(tokens); err != nil {
		return err
	}
	before := allocations()
	for k := from; k < to; k++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		start := time.Now()
		if err := c.step(tokens, k); err != nil {
			return err
		}
		t.Times = append(t.Times, time.Since(start).Seconds())
	}
	t.Allocs += float64(allocations()-before) / float64(len(tokens[0]))
	share := float64(to-from) / float64(len(tokens[0])*len(bases))
	for i, f := range c.sessions {
		s := Summary(f, bases[i].Len())
		t.Kept, t.Exact, t.Context, t.Bytes = t.Kept+share*s.Kept, t.Exact+share*s.Union, t.Context+share*s.Context, t.Bytes+share*s.BytesStep
	}
	return nil
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

const warmSteps = 3

// warm makes steps that are not measured, and takes them back: the first of a fork copies blocks, and finds no scratch; the second is recorded by a device that records,
// and the third is the first to be repeated.
func (c *crowd) warm(tokens [][]int32) error {
	for range warmSteps {
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
