package driver

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"github.com/twilight-go/twilight/internal/mem"
)

// Context is a device's context as seen inside Do. All handles belong to it and live until they are freed or the device closes.
type Context struct {
	lib    *library
	block  launchBlock
	matrix mapBlock
	mapped map[*byte]bool // of AllocHost's: who maps the memory itself
}

// Handles. Ptr is an address on the device.
type (
	Ptr      uintptr
	Module   uintptr
	Function uintptr
	Stream   uintptr
	Event    uintptr
	Graph    uintptr // an instantiated graph
)

// Load loads a compiled image: machine code, or PTX as text (which the driver compiles, some hundred milliseconds the first time).
func (c *Context) Load(image []byte) (Module, error) {
	if len(image) == 0 {
		return 0, fmt.Errorf("cuda: loading a module: the image is empty")
	}
	image = append(image[:len(image):len(image)], 0) // PTX ends with a zero
	var m Module
	err := with(image, func(at uintptr) (err error) {
		m, err = value[Module](c.lib, fModuleLoad, fmt.Sprintf("loading a module of %d bytes", len(image)-1), at)
		return err
	})
	return m, err
}

// Unload drops a module and its functions.
func (c *Context) Unload(m Module) error {
	return c.lib.do(fModuleUnload, "unloading a module", uintptr(m))
}

// Function finds a kernel of a module by its unmangled name.
func (c *Context) Function(m Module, name string) (Function, error) {
	var f Function
	err := with(append([]byte(name), 0), func(at uintptr) (err error) {
		f, err = value[Function](c.lib, fModuleFunction, "finding kernel "+name, uintptr(m), at)
		return err
	})
	return f, err
}

// SetAttr sets an attribute of a kernel.
func (c *Context) SetAttr(f Function, a FuncAttr, v int) error {
	return c.lib.do(fFuncSetAttribute, fmt.Sprintf("setting attribute %d of a kernel to %d", a, v), uintptr(f), uintptr(a), uintptr(v))
}

// Attr reads an attribute of a kernel.
func (c *Context) Attr(f Function, a FuncAttr) (int, error) {
	v, err := value[int32](c.lib, fFuncGetAttribute, fmt.Sprintf("reading attribute %d of a kernel", a), uintptr(a), uintptr(f))
	return int(v), err
}

// Occupancy is how many blocks of a kernel one multiprocessor holds at once.
func (c *Context) Occupancy(f Function, threads, shared int) (int, error) {
	v, err := value[int32](c.lib, fOccupancy, "asking for a kernel's occupancy", uintptr(f), uintptr(threads), uintptr(shared))
	return int(v), err
}

// Memory is the device's free and total bytes.
func (c *Context) Memory() (free, total int, err error) {
	v := &c.lib.out
	err = c.lib.do(fMemInfo, "asking for free memory", uintptr(unsafe.Pointer(&v[0])), uintptr(unsafe.Pointer(&v[1])))
	return int(v[0]), int(v[1]), err
}

// Alloc takes device memory, contents undefined, aligned to 256 bytes.
func (c *Context) Alloc(bytes int) (Ptr, error) {
	if bytes <= 0 {
		return 0, fmt.Errorf("cuda: allocating %d bytes: expected at least 1", bytes)
	}
	return value[Ptr](c.lib, fMemAlloc, fmt.Sprintf("allocating %d bytes", bytes), uintptr(bytes))
}

// Free gives device memory back.
func (c *Context) Free(p Ptr) error { return c.lib.do(fMemFree, "freeing device memory", uintptr(p)) }

// AllocHost takes host memory that the device reaches directly; copies from and to it are several times faster than from the Go heap.
func (c *Context) AllocHost(bytes int) ([]byte, error) {
	if bytes <= 0 {
		return nil, fmt.Errorf("cuda: allocating %d bytes of pinned memory: expected at least 1", bytes)
	}
	if bytes >= largeHost && runtime.GOOS == "linux" { // elsewhere the device may know registered memory by another address
		if b, err := c.mapHost(bytes); err == nil {
			return b, nil
		}
	}
	p, err := value[unsafe.Pointer](c.lib, fMemHostAlloc, fmt.Sprintf("allocating %d bytes of pinned memory", bytes), uintptr(bytes), 0)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), bytes), nil
}

// largeHost is the bytes from which on memory for the device to read in place is mapped here.
const largeHost = 64 << 20

// mapHost maps memory, touches it from all processors and has it pinned then. An H200's host took 0.04 s a GiB for that in huge pages, and 0.4 to 0.6 s for the driver's own.
func (c *Context) mapHost(bytes int) ([]byte, error) {
	b, err := mem.Alloc(bytes)
	if err != nil {
		return nil, err
	}
	const page = 4096
	share := (bytes/runtime.GOMAXPROCS(0)/page + 1) * page
	var all sync.WaitGroup
	for part := range slices.Chunk(b, share) {
		all.Go(func() {
			for i := 0; i < len(part); i += page {
				part[i] = 0
			}
		})
	}
	all.Wait()
	const portable, onDevice = 1, 2
	if err := c.lib.do(fHostRegister, fmt.Sprintf("pinning %d bytes", bytes), uintptr(unsafe.Pointer(&b[0])), uintptr(bytes), portable|onDevice); err != nil {
		return nil, errors.Join(err, mem.Free(b))
	}
	if c.mapped == nil {
		c.mapped = map[*byte]bool{}
	}
	c.mapped[&b[0]] = true
	return b, nil
}

// FreeHost gives back what AllocHost returned.
func (c *Context) FreeHost(b []byte) error {
	if c.mapped[&b[0]] {
		delete(c.mapped, &b[0])
		return errors.Join(c.lib.do(fHostUnregister, "releasing pinned memory", uintptr(unsafe.Pointer(&b[0]))), mem.Free(b))
	}
	return c.lib.do(fMemFreeHost, "freeing pinned memory", uintptr(unsafe.Pointer(&b[0])))
}

// Upload copies to the device and waits. The driver's copy alone returns once it has read src, which may be before the device has it; and streams of NewStream do not wait for it.
func (c *Context) Upload(dst Ptr, src []byte) error {
	if len(src) == 0 {
		return nil
	}
	return with(src, func(at uintptr) error {
		if err := c.lib.do(fCopyToDevice, fmt.Sprintf("copying %d bytes to the device", len(src)), uintptr(dst), at, uintptr(len(src))); err != nil {
			return err
		}
		return c.Wait(0)
	})
}

// Download copies from the device and waits.
func (c *Context) Download(dst []byte, src Ptr) error {
	if len(dst) == 0 {
		return nil
	}
	return with(dst, func(at uintptr) error {
		return c.lib.do(fCopyToHost, fmt.Sprintf("copying %d bytes from the device", len(dst)), at, uintptr(src), uintptr(len(dst)))
	})
}

// UploadAsync copies pinned memory to the device in stream order; src must stay untouched until then.
func (c *Context) UploadAsync(dst Ptr, src []byte, s Stream) error {
	return c.lib.do(fCopyToDeviceAsync, "queueing a copy to the device", uintptr(dst), uintptr(unsafe.Pointer(&src[0])), uintptr(len(src)), uintptr(s))
}

// DownloadAsync copies to pinned memory in stream order.
func (c *Context) DownloadAsync(dst []byte, src Ptr, s Stream) error {
	return c.lib.do(fCopyToHostAsync, "queueing a copy from the device", uintptr(unsafe.Pointer(&dst[0])), uintptr(src), uintptr(len(dst)), uintptr(s))
}

// Copy copies within the device in stream order.
func (c *Context) Copy(dst, src Ptr, bytes int, s Stream) error {
	return c.lib.do(fCopyAsync, fmt.Sprintf("queueing a copy of %d bytes within the device", bytes), uintptr(dst), uintptr(src), uintptr(bytes), uintptr(s))
}

// Fill sets bytes in stream order.
func (c *Context) Fill(dst Ptr, b byte, bytes int, s Stream) error {
	return c.lib.do(fSetAsync, fmt.Sprintf("filling %d bytes", bytes), uintptr(dst), uintptr(b), uintptr(bytes), uintptr(s))
}

// Synchronize waits for all that was queued.
func (c *Context) Synchronize() error { return c.lib.do(fCtxSync, "waiting for the device") }

// NewStream makes a stream that does not wait for the default one.
func (c *Context) NewStream() (Stream, error) {
	const nonBlocking = 1
	return value[Stream](c.lib, fStreamCreate, "making a stream", nonBlocking)
}

// FreeStream drops a stream once its work is done.
func (c *Context) FreeStream(s Stream) error {
	return c.lib.do(fStreamDestroy, "freeing a stream", uintptr(s))
}

// Wait waits for a stream.
func (c *Context) Wait(s Stream) error {
	return c.lib.do(fStreamSync, "waiting for a stream", uintptr(s))
}

// Idle reports whether all of a stream's work is done.
func (c *Context) Idle(s Stream) (bool, error) {
	err := c.lib.do(fStreamQuery, "asking whether a stream is done", uintptr(s))
	var e *Error
	if errors.As(err, &e) && e.Code == errNotReady {
		return false, nil
	}
	return err == nil, err
}

// NewEvent makes an event that takes the time.
func (c *Context) NewEvent() (Event, error) {
	return value[Event](c.lib, fEventCreate, "making an event", 0)
}

// FreeEvent drops an event.
func (c *Context) FreeEvent(e Event) error {
	return c.lib.do(fEventDestroy, "freeing an event", uintptr(e))
}

// Record queues an event.
func (c *Context) Record(e Event, s Stream) error {
	return c.lib.do(fEventRecord, "recording an event", uintptr(e), uintptr(s))
}

// WaitEvent waits for an event.
func (c *Context) WaitEvent(e Event) error {
	return c.lib.do(fEventSync, "waiting for an event", uintptr(e))
}

// Elapsed is the milliseconds between two recorded events.
func (c *Context) Elapsed(from, to Event) (float32, error) {
	return value[float32](c.lib, fEventElapsed, "reading the time between events", uintptr(from), uintptr(to))
}

// Capture records what f queues on s into a graph, instead of running it. f must not synchronise nor allocate.
func (c *Context) Capture(s Stream, f func() error) (Graph, error) {
	if err := c.lib.do(fBeginCapture, "beginning a graph", uintptr(s), captureThreadLocal); err != nil {
		return 0, err
	}
	failed := f()
	c.lib.out[0] = 0
	err := c.lib.do(fEndCapture, "ending a graph", uintptr(s), uintptr(unsafe.Pointer(&c.lib.out)))
	g := uintptr(c.lib.out[0])
	var exec Graph
	if failed == nil && err == nil {
		exec, err = value[Graph](c.lib, fGraphInstantiate, "instantiating a graph", g, 0)
	}
	if g != 0 {
		err = errors.Join(err, c.lib.do(fGraphDestroy, "dropping a captured graph", g))
	}
	return exec, errors.Join(failed, err)
}

// Replay queues a graph.
func (c *Context) Replay(g Graph, s Stream) error {
	return c.lib.do(fGraphLaunch, "launching a graph", uintptr(g), uintptr(s))
}

// FreeGraph drops a graph once its replays are done.
func (c *Context) FreeGraph(g Graph) error {
	return c.lib.do(fGraphExecDestroy, "freeing a graph", uintptr(g))
}
