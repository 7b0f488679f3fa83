package bench

import (
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/device/cpu/kernel"
	"github.com/twilight-go/twilight/internal/mem"
)

// yardstick measures again and again, between the measurements proper, what the machine can do at that moment; reading memory also empties the caches of
// whatever was measured last.
type yardstick struct {
	kern            kernel.Kernels
	threads         int
	buf             []byte
	read, fma, vnni []float64 // a second, all threads together
}

// How much a sample does on each thread: far more memory than a last-level cache holds, and arithmetic for about a millisecond.
const (
	sampleBytes = 96 << 20
	sampleWork  = 1 << 24
)

func newYardstick(threads int) (*yardstick, error) {
	buf, err := mem.Alloc(sampleBytes * threads)
	if err != nil {
		return nil, err
	}
	commit(buf)
	return &yardstick{kern: kernel.For(isa.Best()), threads: threads, buf: buf}, nil
}

// commit touches every page: untouched memory is all one page of zeros.
func commit(b []byte) {
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
}

func (y *yardstick) close() { mem.Free(y.buf) } //nolint:errcheck // nothing depends on it any more

func (y *yardstick) sample() {
	y.fma = append(y.fma, rate(y.threads, func(int) int { return 2 * y.kern.PeakFMA(sampleWork) }))
	y.vnni = append(y.vnni, rate(y.threads, func(int) int { return 2 * y.kern.PeakVNNI(sampleWork) }))
	y.read = append(y.read, rate(y.threads, func(t int) int { y.kern.ReadBandwidth(y.buf[t*sampleBytes:][:sampleBytes]); return sampleBytes }))
}

// rates are the medians of the samples so far: GB/s, GFLOP/s of float32, GOP/s of bytes.
func (y *yardstick) rates() (read, fma, vnni float64) {
	return median(y.read) / 1e9, median(y.fma) / 1e9, median(y.vnni) / 1e9
}
