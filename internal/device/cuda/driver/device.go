package driver

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// Options say which device is opened.
type Options struct {
	Library string // the driver's library; "" is the system's
	Device  int    // ordinal
}

// Device is one GPU and the thread that owns its context. Close it when done.
type Device struct {
	Name           string
	Major, Minor   int // compute capability
	Multiprocessor int // how many it has
	L2Bytes        int
	SharedBytes    int // of shared memory that a thread block can ask for
	Driver         int // version of CUDA that the driver knows: 13000 is 13.0

	lib   *library
	ctx   *Context
	turn  sync.Mutex // of Do
	jobs  chan func(*Context) error
	ended chan error
	done  chan struct{}
}

// Open loads the driver and takes a device's primary context. Without a driver the error wraps ErrUnavailable.
func Open(o Options) (*Device, error) {
	lib, err := load(o.Library)
	if err != nil {
		return nil, err
	}
	d := &Device{lib: lib, jobs: make(chan func(*Context) error), ended: make(chan error), done: make(chan struct{})}
	opened := make(chan error)
	go d.run(o.Device, opened)
	if err := <-opened; err != nil {
		return nil, err
	}
	return d, nil
}

// run is the executor: one locked thread that lives until Close.
func (d *Device) run(ordinal int, opened chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with its goroutine, and the context with the thread's last use
	defer close(d.done)
	release, err := d.open(ordinal)
	opened <- err
	if err != nil {
		return
	}
	for f := range d.jobs {
		d.ended <- f(d.ctx)
	}
	release()
}

func (d *Device) open(ordinal int) (release func(), err error) {
	l := d.lib
	if err := l.do(fInit, "starting the driver", 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	n, err := value[int32](l, fDeviceCount, "counting devices")
	if err != nil {
		return nil, err
	}
	if ordinal < 0 || ordinal >= int(n) {
		return nil, fmt.Errorf("cuda: device %d: the driver has %d devices", ordinal, n)
	}
	version, err := value[int32](l, fDriverVersion, "reading the driver's version")
	if err != nil {
		return nil, err
	}
	dev, err := value[int32](l, fDeviceGet, "opening the device", uintptr(ordinal))
	if err != nil {
		return nil, err
	}
	d.Driver = int(version)
	for _, a := range []struct {
		to *int
		id int
	}{{&d.Major, attrMajor}, {&d.Minor, attrMinor}, {&d.Multiprocessor, attrMultiprocessors}, {&d.L2Bytes, attrL2Bytes}, {&d.SharedBytes, attrSharedBytes}} {
		x, err := value[int32](l, fDeviceAttribute, "reading a device attribute", uintptr(a.id), uintptr(dev))
		if err != nil {
			return nil, err
		}
		*a.to = int(x)
	}
	name := make([]byte, 128)
	if err := with(name, func(at uintptr) error {
		return l.do(fDeviceName, "reading the device's name", at, uintptr(len(name)), uintptr(dev))
	}); err != nil {
		return nil, err
	}
	for i, c := range name {
		if c == 0 {
			d.Name = string(name[:i])
			break
		}
	}
	ctx, err := value[uintptr](l, fPrimaryRetain, "taking the device's context", uintptr(dev))
	if err != nil {
		return nil, err
	}
	if err := l.do(fCtxSet, "making the context current", ctx); err != nil {
		return nil, err
	}
	d.ctx = &Context{lib: l}
	return func() { call(l.fn[fPrimaryRelease], uintptr(dev)) }, nil
}

// Do runs f on the device's thread and returns its error. Give it whole steps: crossing threads costs more than a launch. The Context is valid inside f only. Safe for
// concurrent use: calls run one after another. Not to be called from within f, nor after Close. Should f end its goroutine, the device is lost, and this and later
// calls say so.
func (d *Device) Do(f func(*Context) error) error {
	d.turn.Lock()
	defer d.turn.Unlock()
	select {
	case d.jobs <- f:
	case <-d.done:
		return errLost
	}
	select {
	case err := <-d.ended:
		return err
	case <-d.done:
		return errLost
	}
}

var errLost = errors.New("cuda: the device's thread has ended")

// Close ends the thread and gives the context back; all that was made on it is gone. Call it once, after the last Do.
func (d *Device) Close() error {
	close(d.jobs)
	<-d.done
	return nil
}
