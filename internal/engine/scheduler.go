package engine

import (
	"slices"
	"sync"
	"time"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/tokenizer"
)

// Scheduler writes many texts at once, which come and go as they please: continuous batching. A turn is: schedule, who joins and who has the step; run, one step of the model; settle,
// what it wrote goes to the readers. Steps that read prompts, so many rows of them, alternate with steps in which every text that is being written gets a token. They are not mixed, so that
// a text gets what a session of its own would get, and a GPU repeats its recorded step. Generate is safe for concurrent use.
type Scheduler struct {
	eng   *Engine
	tok   *tokenizer.Tokenizer
	chunk int

	mu     sync.Mutex
	queue  []*job // who waits, in the order of arrival
	count  uint64 // of all that arrived
	load   Load
	closed bool
	wake   chan struct{} // holds one: there may be something to do
	ended  chan struct{} // closed when the loop is over

	// The loop's own. idle are prompts whose texts are written, the last used at the end: they wait for prompts that begin alike until their blocks are needed.
	reading, writing, idle []*job
	wrote                  bool   // in the last step
	settled                []*job // who is finished and was not told
	did                    Load
	who                    []*job // of the step in flight, with parts
	parts                  []part
	samplers               []*Sampler
	next                   []int32
	ops                    func(*model.Step) error // run
}

// Load is what a scheduler has to do, and has done.
type Load struct {
	Waiting, Reading, Writing int // texts
	Free, Blocks              int // cache blocks; idle prompts may be given up for more
	Prompt, Shared, Written   int // tokens of prompts, those of them that were found cached, and tokens written
	Most, Preempted           int // texts in the largest step that wrote, and times that a text gave its blocks up for an older one
	Reads, Writes, Plain      int // steps that read prompts, that wrote, and of these those that followed another that did
	// PlainTime is what these took, BusyTime what all other steps did: a device may still be reading when the step that writes begins.
	PlainTime, BusyTime time.Duration
}

// NewScheduler starts a scheduler. Until it is closed nobody else may step the engine's sessions. chunk is how many tokens of prompts are read at most between two tokens of a text
// that is being written; 0: an eighth of what a step takes.
func NewScheduler(e *Engine, tok *tokenizer.Tokenizer, chunk int) *Scheduler {
	if chunk < 1 {
		chunk = max(e.model.MaxRows()/8, 1)
	}
	chunk = min(chunk, e.model.MaxRows())
	n := e.MaxBatch()
	s := &Scheduler{eng: e, tok: tok, chunk: chunk, wake: make(chan struct{}, 1), ended: make(chan struct{}), samplers: make([]*Sampler, 0, n), next: make([]int32, n)}
	s.ops = s.run
	go s.loop()
	return s
}

// Close ends what is under way, with ErrClosed, and gives all blocks back.
func (s *Scheduler) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.nudge()
	<-s.ended
}

// Load is how much there is to do now. A text whose Generate has returned is not in it.
func (s *Scheduler) Load() Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.load
	l.Waiting = len(s.queue)
	return l
}

func (s *Scheduler) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Scheduler) loop() {
	defer close(s.ended)
	for {
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if closed {
			break
		}
		if !s.turn() {
			<-s.wake
		}
	}
	for _, t := range slices.Concat(s.reading, s.writing) {
		s.finish(t, "", ErrClosed)
	}
	for len(s.idle) > 0 {
		s.evict()
	}
	s.mu.Lock() // nobody joins the queue any more
	for _, t := range s.queue {
		s.finish(t, "", ErrClosed)
	}
	s.queue = nil
	s.mu.Unlock()
	s.sweep()
	s.report()
}

// turn makes a step if there is one to make, and says whether there may be more to do.
func (s *Scheduler) turn() bool {
	after := s.wrote
	s.cancelled()
	s.join()
	s.schedule()
	s.sweep()
	if len(s.settled) > 0 { // they need not wait for the step
		s.report()
	}
	if len(s.parts) > 0 {
		start := time.Now()
		err := s.eng.step(s.parts, s.ops)
		s.clock(after, time.Since(start))
		s.settle(err)
		s.sweep()
	}
	return s.report()
}

// clock counts a step, after one that wrote or not.
func (s *Scheduler) clock(after bool, took time.Duration) {
	if !s.wrote {
		s.did.Reads++
	} else if s.did.Writes++; after {
		s.did.Plain++
		s.did.PlainTime += took
		return
	}
	s.did.BusyTime += took
}

// cancelled ends the texts that nobody waits for any more.
func (s *Scheduler) cancelled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range [][]*job{s.queue, s.reading, s.writing} {
		for _, t := range list {
			if err := t.ctx.Err(); err != nil {
				s.finish(t, "", err)
			}
		}
	}
	s.queue = slices.DeleteFunc(s.queue, func(t *job) bool { return t.err != nil })
	s.sweep()
}

// sweep drops from the lists who has gone.
func (s *Scheduler) sweep() {
	gone := func(t *job) bool { return t.gone }
	s.reading, s.writing = slices.DeleteFunc(s.reading, gone), slices.DeleteFunc(s.writing, gone)
}

// report says what the load is, then tells those who are finished, and says whether there is more to do.
func (s *Scheduler) report() bool {
	s.did.Reading, s.did.Writing = len(s.reading), len(s.writing)
	s.did.Free, s.did.Blocks = s.eng.cache.Free()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load = s.did
	for _, t := range s.settled {
		close(t.out)
	}
	clear(s.settled)
	s.settled = s.settled[:0]
	return len(s.reading)+len(s.writing)+len(s.queue) > 0
}

// schedule decides whose rows the next step has.
func (s *Scheduler) schedule() {
	s.parts, s.who, s.samplers = s.parts[:0], s.who[:0], s.samplers[:0]
	if len(s.reading) > 0 && (s.wrote || len(s.writing) == 0) {
		s.wrote = false
		s.read()
		return
	}
	s.wrote = true
	for _, t := range s.writing {
		for !t.gone && !(s.room(attention.BlocksOf(t.s.Len()+1)-len(t.s.seq.Table())) && t.s.seq.Reserve(1) == nil) {
			s.preempt(t)
		}
	}
	for _, t := range s.writing {
		if !t.gone {
			s.add(t, part{t.s, t.tokens[len(t.tokens)-1:], device.Decode, 1})
		}
	}
	s.did.Most = max(s.did.Most, len(s.parts))
}

// read shares the rows of a step among those who read: their prompts, or, of who had to begin again, what it had written.
func (s *Scheduler) read() {
	rows := s.eng.model.MaxRows()
	if len(s.writing) > 0 {
		rows = s.chunk
	}
	for _, t := range s.reading {
		at, end, p := t.s.Len(), t.prompt, part{s: t.s, mode: device.Prompt}
		if at >= t.prompt {
			end, p.mode = len(t.tokens)-1, device.Decode
		}
		if p.tokens = t.tokens[at:min(end, at+rows)]; at+len(p.tokens) == len(t.tokens) {
			p.want = 1
		}
		s.add(t, p)
		if rows -= len(p.tokens); rows == 0 || len(s.samplers) == len(s.next) {
			return
		}
	}
}

func (s *Scheduler) add(t *job, p part) {
	s.parts, s.who = append(s.parts, p), append(s.who, t)
	if p.want > 0 {
		s.samplers = append(s.samplers, t.sampler)
	}
}

// run is what the step does.
func (s *Scheduler) run(step *model.Step) error {
	if len(step.Logits) == 0 {
		_, err := s.eng.model.Forward(step)
		return err
	}
	return s.eng.draw(step, s.samplers, s.next)
}

// settle hands over what the step wrote. A step that failed ends the texts that were in it; the others go on.
func (s *Scheduler) settle(err error) {
	drawn := s.next
	for i, t := range s.who {
		switch {
		case err != nil:
			s.finish(t, "", err)
		case s.parts[i].want > 0:
			s.write(t, drawn[0])
			drawn = drawn[1:]
		}
		if !s.wrote && !t.gone && len(t.tokens) > t.prompt && t.s.Len() == len(t.tokens)-1 {
			s.begin(t)
		}
	}
}

// begin moves a text from those who read to those who write, beside others of its pipeline: these attend in one launch.
func (s *Scheduler) begin(t *job) {
	s.reading = slices.DeleteFunc(s.reading, func(o *job) bool { return o == t })
	at := len(s.writing)
	for i, o := range s.writing {
		if o.pipe == t.pipe {
			at = i + 1
		}
	}
	s.writing = slices.Insert(s.writing, at, t)
}
