// Package cpu is the device that computes on this machine's processors: a pool of workers over the quantised products of package linear and the vector kernels of
// package kernel, at the highest instruction-set level that the machine has.
package cpu

import (
	"fmt"
	"runtime"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/device/cpu/kernel"
	"github.com/twilight-go/twilight/internal/device/cpu/linear"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/mem"
)

// Device implements device.Device.
type Device struct {
	pool  *pool
	kern  kernel.Kernels
	exec  *attention.Exec
	level isa.Level

	weights []*weight
	arenas  [][]byte

	// operands of the operation in flight, and its tasks: fields, so that an operation allocates nothing
	lin     linearOp
	rows    rowsOp
	append  appendOp
	prompt  promptOp
	observe observeOp
}

// New starts a device with that many threads; 0 means one a processor.
func New(threads int) (*Device, error) {
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if threads < 1 || threads > 1024 {
		return nil, fmt.Errorf("cpu: %d threads: expected 1 to 1024", threads)
	}
	d := &Device{pool: newPool(threads, idleSpins), level: isa.Best()}
	d.kern = kernel.For(d.level)
	d.exec = attention.NewExec(d.kern, d.pool)
	d.lin.d, d.rows.d, d.append.d, d.prompt.d, d.observe.d = d, d, d, d, d
	return d, nil
}

// Name implements device.Device.
func (*Device) Name() string { return "cpu" }

// Description implements device.Device.
func (d *Device) Description() string {
	return fmt.Sprintf("%s, %d threads", d.level, d.Threads())
}

// Exec is the executor of the device's decode attention, for benchmarks of that alone: between steps it may be given calls of one's own.
func (d *Device) Exec() *attention.Exec { return d.exec }

// Threads is the number of workers, the caller included.
func (d *Device) Threads() int { return d.pool.Workers() }

// Close implements device.Device.
func (d *Device) Close() error {
	d.pool.close()
	var first error
	for _, w := range d.weights {
		if err := w.m.Close(); err != nil && first == nil {
			first = err
		}
	}
	for _, a := range d.arenas {
		if err := mem.Free(a); err != nil && first == nil {
			first = err
		}
	}
	d.weights, d.arenas = nil, nil
	return first
}

// Alloc implements device.Device.
func (d *Device) Alloc(rows, cols int) (device.Tensor, error) {
	a, err := mem.Alloc(rows * cols * 4)
	if err != nil {
		return device.Tensor{}, err
	}
	d.arenas = append(d.arenas, a)
	return device.Tensor{Rows: rows, Cols: cols, Data: mem.Slice[float32](a)}, nil
}

// Room implements device.Device.
func (*Device) Room(s kvcache.Shape, planes []attention.Plane) (device.Room, error) {
	return device.HostRoom(s, planes), nil
}

// Cache implements device.Device.
func (d *Device) Cache(s kvcache.Shape, blocks int, planes []attention.Plane) (device.Cache, error) {
	c, err := kvcache.NewHost(s, blocks, planes)
	if err != nil {
		return nil, err
	}
	c.SetEncoder(d.kern)
	return c, nil
}

// weight is a matrix repacked for the vector units.
type weight struct{ m *linear.Matrix }

// Shape implements device.Weight.
func (w *weight) Shape() (rows, cols int) { return w.m.Rows(), w.m.Cols() }

// Weight implements device.Device.
func (d *Device) Weight(m device.Matrix) (device.Weight, error) {
	p, err := linear.Pack(m.Type, m.Rows, m.Cols, m.Data, d.ranges)
	if err != nil {
		return nil, fmt.Errorf("cpu: weight %s: %w", m.Name, err)
	}
	w := &weight{p}
	d.weights = append(d.weights, w)
	return w, nil
}

// ranges is a linear.Runner over the pool: ranges of [0,n), a few a worker. For loading; it allocates.
func (d *Device) ranges(n int, f func(lo, hi int)) {
	parts := min(n, 4*d.Threads())
	d.pool.Run(parts, rangesTask{n, parts, f})
}

type rangesTask struct {
	n, parts int
	f        func(lo, hi int)
}

func (t rangesTask) Do(i int) { t.f(t.n*i/t.parts, t.n*(i+1)/t.parts) }

// Step implements device.Device.
func (*Device) Step(_ *device.Plan, ops func() error) error { return ops() }

// Read implements device.Device.
func (*Device) Read(dst []float32, src device.Tensor) { copy(dst, src.Data) }
