package cuda

import (
	"fmt"
	"unsafe"

	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/device/cuda/kernels"
)

// library is the compiled kernels on a device. Its methods are called inside Device.Do.
type library struct {
	dev    *driver.Device
	module driver.Module
	// hopper says that the image is Hopper's own: its kernels may start early and run in clusters.
	hopper bool
	fn     map[string]driver.Function
	// block holds the parameters of the launch being queued: on the heap, not allocated anew, and as large as any kernel's.
	block [paramWords]uint64
	// maps are the matrices that kernels of Hopper's have copied in tiles.
	maps map[matrixAt]driver.TensorMap
}

// matrixAt is an fp16 matrix [rows][cols] in device memory, and how many rows a tile of it has.
type matrixAt struct {
	at              driver.Ptr
	rows, cols, box int
}

// paramWords is the size of the largest structure of parameters, in words of 8 bytes.
const paramWords = 64

// useHopper is turned off by tests of the portable image.
var useHopper = true

// load puts the kernels on a device.
func load(c *driver.Context, dev *driver.Device) (*library, error) {
	l := &library{dev: dev, fn: map[string]driver.Function{}, maps: map[matrixAt]driver.TensorMap{}}
	image, err := kernels.Hopper()
	if err != nil {
		return nil, err
	}
	if l.hopper = useHopper && dev.Major == 9 && dev.Minor == 0; l.hopper {
		l.module, err = c.Load(image)
	}
	if !l.hopper || err != nil {
		l.hopper = false
		if image, err = kernels.Portable(); err != nil {
			return nil, err
		}
		if l.module, err = c.Load(image); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// find looks kernels up, so that they can be launched.
func (l *library) find(c *driver.Context, names ...string) error {
	for _, name := range names {
		if _, ok := l.fn[name]; ok {
			continue
		}
		f, err := c.Function(l.module, name)
		if err != nil {
			return err
		}
		l.fn[name] = f
	}
	return nil
}

// findLarge looks up kernels that need so much dynamic shared memory.
func (l *library) findLarge(c *driver.Context, shared int, names ...string) error {
	if err := l.find(c, names...); err != nil {
		return err
	}
	for _, name := range names {
		if err := c.SetAttr(l.fn[name], driver.FuncMaxDynamicShared, shared); err != nil {
			return fmt.Errorf("cuda: kernel %s: %w", name, err)
		}
	}
	return nil
}

// tensorMap is the map of a matrix. It allocates only when it sees a matrix for the first time.
func (l *library) tensorMap(c *driver.Context, m matrixAt) (driver.TensorMap, error) {
	t, ok := l.maps[m]
	if !ok {
		var err error
		if t, err = c.TensorMap(m.at, m.rows, m.cols, m.box); err != nil {
			return t, err
		}
		l.maps[m] = t
	}
	return t, nil
}

// free unloads the kernels. No graph that holds launches of them may run after.
func (l *library) free(c *driver.Context) error { return c.Unload(l.module) }

// launch queues a kernel that find has found; p is its only parameter, read before launch returns. It allocates nothing. Early needs a
// kernel that waits for its predecessor itself; older devices ignore it.
func launch[P any](l *library, c *driver.Context, name string, d driver.Launch, p *P) error {
	const room = paramWords * 8
	if unsafe.Sizeof(*p) > room {
		return fmt.Errorf("cuda: kernel %s: %d bytes of parameters: expected at most %d", name, unsafe.Sizeof(*p), room)
	}
	*(*P)(unsafe.Pointer(&l.block)) = *p
	d.Function = l.fn[name]
	d.Early = d.Early && l.hopper
	if err := c.Launch(&d, unsafe.Pointer(&l.block)); err != nil {
		return fmt.Errorf("cuda: kernel %s: %w", name, err)
	}
	return nil
}
