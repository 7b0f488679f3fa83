package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// join has those who wait begin, in their order, as long as there are blocks for what they have to read and one more for each of those before them.
func (s *Scheduler) join() {
	for len(s.reading)+len(s.writing) < s.eng.sequences {
		t := s.head()
		if t == nil {
			return
		}
		from, n, soon := s.alike(t)
		if soon {
			return
		}
		others := len(s.reading) + len(s.writing)
		fits := s.room(attention.BlocksOf(len(t.tokens)) - n/attention.BlockTokens + others)
		if !fits && others > 0 {
			return
		}
		if from != nil && from.s.Len() < n { // it went for the room
			continue
		}
		s.pop()
		if t.s = s.eng.NewSession(t.pipe); from != nil {
			t.s = from.s.Fork(t.pipe)
			t.s.Truncate(n)
		}
		if !fits || t.s.seq.Reserve(len(t.tokens)-n) != nil {
			s.finish(t, "", s.full(t))
			continue
		}
		if t.gone = false; len(t.tokens) == t.prompt {
			t.res.Cached, t.res.Waited = n, time.Since(t.arrived)
			s.did.Prompt, s.did.Shared = s.did.Prompt+t.prompt, s.did.Shared+n
		}
		s.reading = append(s.reading, t)
	}
}

// room makes sure of so many free blocks. Idle prompts go for them, those first that were not used for longest.
func (s *Scheduler) room(blocks int) bool {
	for {
		if free, _ := s.eng.cache.Free(); free >= blocks {
			return true
		}
		if len(s.idle) == 0 {
			return false
		}
		s.evict()
	}
}

// full is the error of a text for whose tokens there are no blocks, though it is alone.
func (s *Scheduler) full(t *job) error {
	free, all := s.eng.cache.Free()
	return fmt.Errorf("engine: a text of %d tokens needs %d blocks of %d tokens, the cache has %d, of which %d are free: %w", len(t.tokens), attention.BlocksOf(len(t.tokens)), attention.BlockTokens, all, free, kvcache.ErrFull)
}

func (s *Scheduler) evict() {
	s.idle[0].s.Close()
	s.idle = slices.Delete(s.idle, 0, 1)
}

// leastShared is how many tokens of a prompt are worth finding cached: fewer are read faster than a block is copied.
const leastShared = 32

// alike finds who has read most of what t has to read, and how much of it; soon says that somebody will have read a block more of it in some turns. What was written is not shared,
// because to read it could give other keys than to write it did; nor is anything with selectors that remember the sequence.
func (s *Scheduler) alike(t *job) (from *job, n int, soon bool) {
	if t.pipe.Remembers() {
		return nil, 0, false
	}
	will := 0
	n = leastShared - 1
	for _, list := range [][]*job{s.idle, s.writing, s.reading} {
		for _, o := range list {
			same := common(o.tokens[:o.prompt], t.tokens[:t.prompt-1])
			will = max(will, same)
			if same = min(same, o.s.Len()); same > n {
				from, n = o, same
			}
		}
	}
	if from == nil {
		n = 0
	}
	if i := slices.Index(s.idle, from); i >= 0 {
		s.idle = append(slices.Delete(s.idle, i, i+1), from)
	}
	return from, n, will-n >= attention.BlockTokens
}

// common is how many tokens two texts begin with alike. There may be hundreds of long ones to compare with, so it goes by arrays, which are compared as memory is.
func common(a, b []int32) (n int) {
	a, b = a[:min(len(a), len(b))], b[:min(len(a), len(b))]
	const block = attention.BlockTokens
	for n+block <= len(a) && *(*[block]int32)(a[n:]) == *(*[block]int32)(b[n:]) {
		n += block
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}

// preempt takes the blocks of the youngest, which begins again when there is room for it: it reads its prompt, and what it wrote as the steps that wrote it, so that it goes on as it would have.
func (s *Scheduler) preempt(t *job) {
	last, others := t, 0
	for _, o := range slices.Concat(s.reading, s.writing) {
		if o.gone {
			continue
		}
		if others++; o.order > last.order {
			last = o
		}
	}
	if others == 1 {
		s.finish(t, "", s.full(t))
		return
	}
	last.s.Close()
	last.s, last.gone = nil, true
	s.did.Preempted++
	s.enqueue(last)
}
