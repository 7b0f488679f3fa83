package bench

import (
	"context"
	"slices"
	"time"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
)

// Timing is the measured steps of one spec.
type Timing struct {
	Times                []float64 // seconds a step, ascending
	Kept, Context, Bytes float64   // means over sparse layers: tokens kept a head, tokens in sight, bytes read a KV head and step
}

// Median is the time of the middle step.
func (t *Timing) Median() float64 { return t.Times[len(t.Times)/2] }

// P99 is the time that one step in a hundred exceeds; of few steps, the slowest.
func (t *Timing) P99() float64 { return t.Times[min(len(t.Times)-1, len(t.Times)*99/100)] }

// Steps times decode steps of the given tokens behind what base has cached, in a fork for each spec. The specs take turns every few steps, after one step of each
// that is not measured.
func Steps(ctx context.Context, base *twilight.Session, specs []string, tokens []int32) ([]Timing, error) {
	out, forks := make([]Timing, len(specs)), make([]*twilight.Session, len(specs))
	for i, spec := range specs {
		if err := warm(base, spec, tokens[0]); err != nil {
			return nil, err
		}
		f, err := base.Fork(spec)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		forks[i] = f
	}
	for at := 0; at < len(tokens); at += chunk {
		for i, f := range forks {
			for _, id := range tokens[at:min(at+chunk, len(tokens))] {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				start := time.Now()
				if _, err := f.Step(id); err != nil {
					return nil, err
				}
				out[i].Times = append(out[i].Times, time.Since(start).Seconds())
			}
		}
	}
	for i, f := range forks {
		slices.Sort(out[i].Times)
		s := Summary(f, base.Len())
		out[i].Kept, out[i].Context, out[i].Bytes = s.Kept, s.Context, s.BytesStep
	}
	return out, nil
}

func warm(base *twilight.Session, spec string, token int32) error {
	f, err := base.Fork(spec)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Step(token)
	return err
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
