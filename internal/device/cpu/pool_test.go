package cpu

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// tally counts how often each task was done.
type tally []atomic.Int32

func (c tally) Do(i int) {
	if i%7 == 3 {
		runtime.Gosched() // tasks end out of order
	}
	c[i].Add(1)
}

// Every task of every operation is done once, before Run returns: with fewer and with many more workers than processors, whether they meet the next operation awake,
// asleep or on the way there.
func TestPoolStress(t *testing.T) {
	rounds := 4000
	if testing.Short() {
		rounds = 400
	}
	for _, threads := range []int{1, 2, 5, 24} {
		for _, spins := range []int{0, 3, 100, idleSpins} {
			t.Run(fmt.Sprintf("%d threads, %d spins", threads, spins), func(t *testing.T) {
				p := newPool(threads, spins)
				defer p.close()
				rng := rand.New(rand.NewPCG(uint64(threads), uint64(spins)))
				count, want := make(tally, 40), make([]int32, 40)
				for round := range rounds * 4 / (threads + 3) {
					n := rng.IntN(len(count) + 1)
					p.Run(n, count)
					for i := range want {
						if i < n {
							want[i]++
						}
						if got := count[i].Load(); got != want[i] {
							t.Fatalf("round %d of %d tasks: task %d was done %d times, want %d", round, n, i, got, want[i])
						}
					}
					if p.active.Load() != 0 {
						t.Fatalf("round %d: %d workers are still at it", round, p.active.Load())
					}
					for range rng.IntN(3) * rng.IntN(30) {
						runtime.Gosched() // let some fall asleep
					}
				}
			})
		}
	}
}

// Workers without work fall asleep, and wake for the next operation.
func TestPoolIdles(t *testing.T) {
	p := newPool(4, idleSpins)
	defer p.close()
	count := make(tally, 100)
	for round := range int32(3) {
		p.Run(len(count), count)
		deadline := time.Now().Add(20 * time.Second)
		for i := range p.workers {
			for !p.workers[i].asleep.Load() {
				if time.Now().After(deadline) {
					t.Fatalf("worker %d is awake with nothing to do", i)
				}
				runtime.Gosched()
			}
		}
		for i := range count {
			if got := count[i].Load(); got != round+1 {
				t.Fatalf("task %d was done %d times, want %d", i, got, round+1)
			}
		}
	}
}

// A starter that is descheduled between announcing an operation and waking its workers may wake one that did the work and went to sleep again: it must look, and sleep on.
func TestPoolStaleWake(t *testing.T) {
	p := newPool(2, 10)
	defer p.close()
	w := &p.workers[0]
	wait := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !done(); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain for the worker %s", what)
			}
		}
	}
	wake := func() {
		if w.asleep.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
	count := make(tally, 8)
	wait("to fall asleep", w.asleep.Load)
	p.share(8, count)
	p.active.Store(1)
	p.round.Add(1)
	wake()
	wait("to do the work", func() bool { return p.active.Load() == 0 && w.asleep.Load() })
	p.task = nil
	wake() // late
	wait("to fall asleep again", func() bool { return len(w.wake) == 0 && w.asleep.Load() })
	p.Run(8, count)
	for i := range count {
		if got := count[i].Load(); got != 2 {
			t.Errorf("task %d was done %d times, want 2", i, got)
		}
	}
}

// Closing ends the workers, awake or asleep.
func TestPoolCloses(t *testing.T) {
	before := runtime.NumGoroutine()
	for i := range 20 {
		p := newPool(6, i*i*i)
		p.Run(i, make(tally, 20))
		p.close()
	}
	deadline := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left of %d", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
}

func TestNewErrors(t *testing.T) {
	for _, threads := range []int{-1, 1025} {
		if _, err := New(threads); err == nil || err.Error() != fmt.Sprintf("cpu: %d threads: expected 1 to 1024", threads) {
			t.Errorf("%d threads: %v", threads, err)
		}
	}
}
