package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// crowd is sessions of unequal lengths, some of them forks of one text, under alternating pipelines.
func (r *rig) crowd(t *testing.T, lengths []int) (list []*Session) {
	t.Helper()
	base := r.session(t, densely)
	if _, _, err := base.Prefill(context.Background(), text(slices.Max(lengths)), nil); err != nil {
		t.Fatal(err)
	}
	for i, n := range lengths {
		f := base.Fork([]*attention.Pipeline{densely, sparsely}[i%2])
		t.Cleanup(f.Close)
		if _, _, err := f.Prefill(context.Background(), text(n), nil); err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}

// What a session gets does not depend on who steps beside it.
func TestBatchIsAlone(t *testing.T) {
	lengths := []int{300, 7, 520, 256, 31, 700, 512, 33}
	for _, dev := range []string{"cpu", "reference"} {
		for _, arch := range []string{"llama", "gemma3"} {
			if dev == "reference" && arch == "gemma3" {
				continue // slow, and what is its own has no part in this
			}
			r := newRig(t, dev, arch, Config{Context: 800, Sequences: 9, Spare: 40})
			together, alone := r.crowd(t, lengths), r.crowd(t, lengths)
			tokens := make([]int32, len(lengths))
			for step := range 5 {
				for i := range tokens {
					tokens[i] = int32(3 + (step*31+i*17)%400)
				}
				n := len(lengths) - step // fewer and fewer
				got, err := r.StepBatch(together[:n], tokens[:n])
				if err != nil {
					t.Fatal(err)
				}
				got = slices.Clone(got)
				for i := range n {
					want, err := alone[i].Step(tokens[i])
					if err != nil {
						t.Fatal(err)
					}
					if !same(got[i*r.model.Vocab:][:r.model.Vocab], want) {
						t.Errorf("%s %s: step %d of session %d differs in a batch of %d", dev, arch, step, i, n)
					}
				}
			}
			for i := range lengths {
				a, b := together[i], alone[i]
				if !slices.Equal(a.Tokens(), b.Tokens()) || a.Len() != b.Len() {
					t.Errorf("%s %s: session %d has %d tokens, expected %d", dev, arch, i, a.Len(), b.Len())
				}
				if x, y := a.Summary(), b.Summary(); x != y || (x.Steps > 0) != (i%2 == 1 && lengths[i] >= 30) {
					t.Errorf("%s %s: session %d counted %+v, alone %+v", dev, arch, i, x, y)
				}
			}
		}
	}
}

func TestBatchErrors(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 300, Sequences: 3})
	other := newRig(t, "cpu", "llama", Config{Context: 300})
	long, short, fork := r.session(t, densely), r.session(t, sparsely), (*Session)(nil)
	for s, n := range map[*Session]int{long: 300, short: 256} {
		if _, _, err := s.Prefill(context.Background(), text(n), nil); err != nil {
			t.Fatal(err)
		}
	}
	fork = short.Fork(densely)
	t.Cleanup(fork.Close)
	crowd := make([]*Session, r.MaxBatch()+1)
	for name, c := range map[string]struct {
		sessions []*Session
		tokens   []int32
		says     string
		is       error
	}{
		"nobody":           {nil, nil, "0 sessions", nil},
		"too few tokens":   {[]*Session{short, fork}, []int32{5}, "2 sessions and 1 tokens", nil},
		"too many":         {crowd, make([]int32, len(crowd)), "17 sessions", nil},
		"a full context":   {[]*Session{short, long}, []int32{5, 5}, "session 1 of a batch of 2", ErrContext},
		"twice the same":   {[]*Session{fork, short, fork}, []int32{5, 5, 5}, "session 2 of a batch of 3: it is session 0 too", nil},
		"a wrong token":    {[]*Session{short, fork}, []int32{5, 1 << 20}, "session 1 of a batch of 2: token 1048576", nil},
		"another's":        {[]*Session{short, other.session(t, densely)}, []int32{5, 5}, "session 1", nil},
		"no block is left": {[]*Session{short, fork, short.Fork(densely), short.Fork(densely), short.Fork(densely), short.Fork(densely)}, []int32{5, 5, 5, 5, 5, 5}, "session 3", kvcache.ErrFull},
	} {
		free, _ := r.cache.Free()
		_, err := r.StepBatch(c.sessions, c.tokens)
		if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v, expected %q", name, err, c.says)
		}
		if after, _ := r.cache.Free(); after != free || short.Len() != 256 || fork.Len() != 256 || long.Len() != 300 {
			t.Errorf("%s: the sessions have %d, %d and %d tokens and %d of %d blocks are left", name, short.Len(), fork.Len(), long.Len(), after, free)
		}
		for _, s := range c.sessions {
			if s != nil && s != short && s != fork && s != long && s.eng == r.Engine {
				s.Close()
			}
		}
	}
	if _, err := r.StepBatch([]*Session{short, fork}, []int32{5, 6}); err != nil || short.Len() != 257 || fork.Len() != 257 {
		t.Errorf("after the errors: %v, %d and %d tokens", err, short.Len(), fork.Len())
	}
}

// A step of a batch allocates nothing either.
func TestBatchAllocations(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 500, Sequences: 4, Spare: 10})
	sessions, tokens := r.crowd(t, []int{100, 40, 260, 300}), []int32{5, 6, 7, 8}
	step := func() {
		if _, err := r.StepBatch(sessions, tokens); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		step()
	}
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
}
