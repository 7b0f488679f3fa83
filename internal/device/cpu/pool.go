package cpu

import (
	"runtime"
	"sync/atomic"

	"github.com/twilight-go/twilight/attention"
)

// pool is a fixed set of workers that share the tasks of one operation at a time, the caller being one of them. Each has a range of consecutive tasks first, and helps others when that is
// done: neighbouring tasks read neighbouring memory, and two processors that take turns in one stream get two thirds of what each gets from a stream of its own. Between operations
// the workers spin for a little while, because the next comes within microseconds during a step, and then sleep, because a person may be reading. It implements attention.Runner.
type pool struct {
	workers []worker
	spins   int // how often a worker looks for the next operation before it sleeps
	task    attention.Task
	queues  []queue       // one a worker, the caller's last
	active  atomic.Int32  // workers that are not done with the operation
	round   atomic.Uint32 // counts operations; closed is round with no task
}

// queue is a range of tasks.
type queue struct {
	next atomic.Int64 // the next one that nobody has
	end  int64
	_    [48]byte // a cache line each
}

type worker struct {
	asleep atomic.Bool
	wake   chan struct{}
	_      [40]byte // a cache line each
}

// idleSpins is some 50 µs.
const idleSpins = 20000

func newPool(threads, spins int) *pool {
	p := &pool{workers: make([]worker, threads-1), queues: make([]queue, threads), spins: spins}
	for i := range p.workers {
		p.workers[i].wake = make(chan struct{}, 1)
		go p.loop(i)
	}
	return p
}

// Run implements attention.Runner.
func (p *pool) Run(n int, t attention.Task) {
	if n <= 1 || len(p.workers) == 0 {
		for i := range n {
			t.Do(i)
		}
		return
	}
	p.start(n, t)
	p.work(len(p.workers))
	for i := 0; p.active.Load() != 0; i++ {
		if i > p.spins {
			runtime.Gosched() // a worker was descheduled; do not keep its processor
		}
	}
	p.task = nil
}

// Workers implements attention.Runner.
func (p *pool) Workers() int { return len(p.queues) }

func (p *pool) start(n int, t attention.Task) {
	p.share(n, t)
	p.active.Store(int32(len(p.workers)))
	p.round.Add(1)
	for i := range p.workers {
		if w := &p.workers[i]; w.asleep.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
}

// share gives each worker its range.
func (p *pool) share(n int, t attention.Task) {
	p.task = t
	for i := range p.queues {
		q := &p.queues[i]
		q.next.Store(int64(n * i / len(p.queues)))
		q.end = int64(n * (i + 1) / len(p.queues))
	}
}

// work does the tasks of worker me, then those that others have not begun.
func (p *pool) work(me int) {
	for k := range p.queues {
		q := &p.queues[(me+k)%len(p.queues)]
		for i := q.next.Add(1) - 1; i < q.end; i = q.next.Add(1) - 1 {
			p.task.Do(int(i))
		}
	}
}

func (p *pool) loop(me int) {
	w := &p.workers[me]
	for round := uint32(0); ; {
		for i := 0; p.round.Load() == round; i++ {
			if i < p.spins {
				continue
			}
			w.asleep.Store(true)
			if p.round.Load() != round && w.asleep.CompareAndSwap(true, false) {
				break // work came between the last look and falling asleep
			}
			<-w.wake // perhaps for a round that this worker has done already: it looks again
		}
		round++
		if p.task == nil {
			return
		}
		p.work(me)
		p.active.Add(-1)
	}
}

// close ends the workers. No operation may follow.
func (p *pool) close() {
	if len(p.workers) > 0 {
		p.start(0, nil)
	}
}
