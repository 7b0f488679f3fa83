package driver

import (
	"runtime"
	"unsafe"
)

// Launch says how a kernel runs.
type Launch struct {
	Function Function
	Grid     [3]int // blocks
	Block    int    // threads a block
	Shared   int    // bytes of dynamic shared memory
	Cluster  int    // blocks a cluster along the grid's first dimension; 0 or 1: none
	Early    bool   // may start before the launch ahead of it in the stream has ended; the kernel waits itself for what it reads
	Stream   Stream
}

// launchBlock is what a launch passes by address: the driver's CUlaunchConfig, its attributes and the kernel's parameters. One a context, reused, on the heap.
type launchBlock struct {
	config struct {
		grid   [3]uint32
		block  [3]uint32
		shared uint32
		stream Stream
		attrs  unsafe.Pointer
		count  uint32
	}
	attrs  [2]launchAttribute
	params [1]unsafe.Pointer
}

type launchAttribute struct {
	id    uint32
	_     uint32
	value [16]uint32
}

// set makes the driver's form of a launch.
func (b *launchBlock) set(l *Launch) {
	b.config.grid = [3]uint32{uint32(l.Grid[0]), uint32(max(l.Grid[1], 1)), uint32(max(l.Grid[2], 1))}
	b.config.block = [3]uint32{uint32(l.Block), 1, 1}
	b.config.shared, b.config.stream = uint32(l.Shared), l.Stream
	n := 0
	if l.Cluster > 1 {
		b.attrs[n] = launchAttribute{id: launchClusterDimension, value: [16]uint32{uint32(l.Cluster), 1, 1}}
		n++
	}
	if l.Early {
		b.attrs[n] = launchAttribute{id: launchProgrammatic, value: [16]uint32{1}}
		n++
	}
	b.config.attrs, b.config.count = unsafe.Pointer(&b.attrs), uint32(n)
}

// Launch queues a kernel whose only parameter is the structure at params, which is read before Launch returns.
func (c *Context) Launch(l *Launch, params unsafe.Pointer) error {
	b := &c.block
	b.set(l)
	b.params[0] = params
	err := c.lib.do(fLaunch, "launching a kernel", uintptr(unsafe.Pointer(&b.config)), uintptr(l.Function), uintptr(unsafe.Pointer(&b.params)), 0)
	runtime.KeepAlive(params)
	b.params[0] = nil
	return err
}

// Clusters is how many clusters of a launch the device holds at once.
func (c *Context) Clusters(l *Launch) (int, error) {
	c.block.set(l)
	v, err := value[int32](c.lib, fClusters, "asking for a kernel's clusters", uintptr(l.Function), uintptr(unsafe.Pointer(&c.block.config)))
	return int(v), err
}
