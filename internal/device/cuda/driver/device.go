package driver

import (
	"fmt"
	"runtime"
	"sync"
)

// Options say which device is opened.
type Options struct {
	Library string // the driver's library; "" is the system's
	Device  int    // ordinal
}

// Device is one GPU and its context. Close it when done.
type Device struct {
	Name           string
	Major, Minor   int // compute capability
	Multiprocessor int // how many it has
	L2Bytes        int
	SharedBytes    int // of shared memory that a thread block can ask for
	Driver         int // version of CUDA that the driver knows: 13000 is 13.0

	lib    *library
	handle uintptr // of the context
	dev    int32
	ctx    Context
	turn   sync.Mutex // of Do
}

// Open loads the driver and takes a device's primary context. Without a driver the error wraps ErrUnavailable.
func Open(o Options) (*Device, error) {
	lib, err := load(o.Library)
	if err != nil {
		return nil, err
	}
	d := &Device{lib: lib, ctx: Context{lib: lib}}
	if err := d.open(o.Device); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Device) open(ordinal int) error {
	l := d.lib
	if err := l.do(fInit, "starting the driver", 0); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	n, err := value[int32](l, fDeviceCount, "counting devices")
	if err != nil {
		return err
	}
	if ordinal < 0 || ordinal >= int(n) {
		return fmt.Errorf("cuda: device %d: the driver has %d devices", ordinal, n)
	}
	version, err := value[int32](l, fDriverVersion, "reading the driver's version")
	if err != nil {
		return err
	}
	dev, err := value[int32](l, fDeviceGet, "opening the device", uintptr(ordinal))
	if err != nil {
		return err
	}
	d.Driver = int(version)
	for _, a := range []struct {
		to *int
		id int
	}{{&d.Major, attrMajor}, {&d.Minor, attrMinor}, {&d.Multiprocessor, attrMultiprocessors}, {&d.L2Bytes, attrL2Bytes}, {&d.SharedBytes, attrSharedBytes}} {
		x, err := value[int32](l, fDeviceAttribute, "reading a device attribute", uintptr(a.id), uintptr(dev))
		if err != nil {
			return err
		}
		*a.to = int(x)
	}
	name := make([]byte, 128)
	if err := with(name, func(at uintptr) error {
		return l.do(fDeviceName, "reading the device's name", at, uintptr(len(name)), uintptr(dev))
	}); err != nil {
		return err
	}
	for i, c := range name {
		if c == 0 {
			d.Name = string(name[:i])
			break
		}
	}
	d.dev = dev
	d.handle, err = value[uintptr](l, fPrimaryRetain, "taking the device's context", uintptr(dev))
	return err
}

// Do runs f with the device's context current on its thread, and returns f's error. The Context is valid inside f only. Safe for concurrent use: calls run one after another. Not to be called from
// within f, nor after Close. It is the caller's own thread: handing each step to another and waiting for it would wake two threads, which takes long where other processes compete for the processors.
func (d *Device) Do(f func(*Context) error) error {
	d.turn.Lock()
	defer d.turn.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := d.lib.do(fCtxSet, "making the context current", d.handle); err != nil {
		return err
	}
	return f(&d.ctx)
}

// Close gives the context back; all that was made on it is gone. Call it once, after the last Do.
func (d *Device) Close() error {
	return d.lib.do(fPrimaryRelease, "giving the context back", uintptr(d.dev))
}
