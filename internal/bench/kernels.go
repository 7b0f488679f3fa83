package bench

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/device/cpu/kernel"
	"github.com/twilight-go/twilight/internal/mem"
)

// KernelRow is one peak of this machine, or what an operation reaches.
type KernelRow struct {
	Op      string  `json:"op"`      // "read", "fma" or "vnni", or an operation's name
	Level   string  `json:"level"`   // the instruction set that did it
	Threads int     `json:"threads"` // at once
	Bytes   int     `json:"bytes"`   // the working set of a thread, for reads
	Rate    float64 `json:"rate"`    // of Unit, all threads together, median over repetitions
	Unit    string  `json:"unit"`    // "GB/s", "GFLOP/s" or "GOP/s", in powers of ten
	Share   float64 `json:"share"`   // of what the peaks of the same moments allow; 0 for a peak
}

// Kernels measures what the machine can do at all, on one thread and on all: the yardstick for everything else. row is told of each result.
func Kernels(ctx context.Context, threads int, row func(KernelRow)) error {
	const memory, cache, work, repeat = 256 << 20, 1 << 20, 1 << 28, 5
	level := isa.Best()
	k := kernel.For(level)
	buf, err := mem.Alloc(memory * threads)
	if err != nil {
		return err
	}
	defer mem.Free(buf) //nolint:errcheck // nothing depends on it any more
	commit(buf)
	for _, n := range slices.Compact([]int{1, threads}) {
		for _, x := range []struct {
			op, unit string
			bytes    int
			do       func(thread int) int
		}{
			{"read", "GB/s", memory, func(t int) int { k.ReadBandwidth(buf[t*memory:][:memory]); return memory }},
			{"read", "GB/s", cache, func(t int) int {
				for range memory / cache {
					k.ReadBandwidth(buf[t*memory:][:cache])
				}
				return memory
			}},
			{"fma", "GFLOP/s", 0, func(int) int { return 2 * k.PeakFMA(work) }},
			{"vnni", "GOP/s", 0, func(int) int { return 2 * k.PeakVNNI(work) }},
		} {
			var rates []float64
			for range repeat {
				if err := ctx.Err(); err != nil {
					return err
				}
				rates = append(rates, rate(n, x.do))
			}
			row(KernelRow{Op: x.op, Level: level.String(), Threads: n, Bytes: x.bytes, Rate: median(rates) / 1e9, Unit: x.unit})
		}
	}
	return nil
}

// rate is what n threads did in all, by a second.
func rate(n int, do func(thread int) int) float64 {
	did := make([]int, n)
	start := time.Now()
	var wg sync.WaitGroup
	for t := range n {
		wg.Go(func() { did[t] = do(t) })
	}
	wg.Wait()
	total := 0
	for _, d := range did {
		total += d
	}
	return float64(total) / time.Since(start).Seconds()
}
