package driver

import (
	"encoding/binary"
	"errors"
	"math"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

// mock builds the stand-in library and opens it. It skips where that cannot be.
func mock(t testing.TB) string {
	t.Helper()
	if defaultLibrary == "" || runtime.GOOS == "windows" {
		t.Skip("this build has no support for a CUDA driver, or no way to build the stand-in for one")
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler to build the stand-in driver with")
	}
	lib := filepath.Join(t.TempDir(), "libmock.so")
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-O1", "-o", lib, "testdata/mock.c").CombinedOutput(); err != nil {
		t.Fatalf("building the stand-in driver: %v\n%s", err, out)
	}
	return lib
}

func openMock(t testing.TB) *Device {
	t.Helper()
	d, err := Open(Options{Library: mock(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

type addParams struct {
	at Ptr
	x  float32
	n  int32
}

func TestNoDriver(t *testing.T) {
	_, err := Open(Options{Library: filepath.Join(t.TempDir(), "no-such-library")})
	if !errors.Is(err, ErrUnavailable) {
		t.Fatalf("opening a library that does not exist: %v, expected ErrUnavailable", err)
	}
}

func TestDevice(t *testing.T) {
	lib := mock(t)
	if _, err := Open(Options{Library: lib, Device: 3}); err == nil || !strings.Contains(err.Error(), "device 3: the driver has 1 devices") {
		t.Fatalf("opening device 3 of 1: %v", err)
	}
	d, err := Open(Options{Library: lib})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Name != "Mock GPU" || d.Major != 9 || d.Minor != 0 || d.Multiprocessor != 132 || d.L2Bytes != 50<<20 || d.Driver != 13000 {
		t.Fatalf("device is %s, %d.%d, %d multiprocessors, %d bytes of L2, driver %d", d.Name, d.Major, d.Minor, d.Multiprocessor, d.L2Bytes, d.Driver)
	}
}

// TestLargeHost: much pinned memory is as little.
func TestLargeHost(t *testing.T) {
	d := openMock(t)
	err := d.Do(func(c *Context) error {
		b, err := c.AllocHost(largeHost + 5000)
		if err != nil {
			return err
		}
		if len(b) != largeHost+5000 || b[0] != 0 || c.mapped[&b[0]] != (runtime.GOOS == "linux") {
			t.Errorf("%d bytes, mapped: %v", len(b), c.mapped)
		}
		b[len(b)-1] = 1
		err = c.FreeHost(b)
		if len(c.mapped) != 0 {
			t.Errorf("still mapped: %v", c.mapped)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestErrors(t *testing.T) {
	d := openMock(t)
	err := d.Do(func(c *Context) error {
		_, err := c.Alloc(1 << 40)
		return err
	})
	var e *Error
	if !errors.As(err, &e) || e.Call != "cuMemAlloc_v2" || e.Name != "CUDA_ERROR_OUT_OF_MEMORY" || e.Code != 2 {
		t.Fatalf("got %#v", err)
	}
	if want := "cuda: allocating 1099511627776 bytes: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"; err.Error() != want {
		t.Fatalf("got  %q\nwant %q", err, want)
	}
	err = d.Do(func(c *Context) error {
		m, err := c.Load([]byte("mock image"))
		if err != nil {
			return err
		}
		_, err = c.Function(m, "no_such_kernel")
		return errors.Join(err, c.Unload(m))
	})
	if err == nil || !strings.Contains(err.Error(), "finding kernel no_such_kernel: cuModuleGetFunction: CUDA_ERROR_NOT_FOUND") {
		t.Fatalf("got %v", err)
	}
	for name, f := range map[string]func(*Context) error{
		"an empty image":        func(c *Context) error { _, err := c.Load(nil); return err },
		"no bytes":              func(c *Context) error { _, err := c.Alloc(0); return err },
		"no bytes of host":      func(c *Context) error { _, err := c.AllocHost(-1); return err },
		"an attribute unknown":  func(c *Context) error { return c.SetAttr(1, 77, 1) },
		"a capture that failed": func(c *Context) error { _, err := c.Capture(0, func() error { return errors.New("no") }); return err },
	} {
		if err := d.Do(f); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLaunchAndGraph(t *testing.T) {
	d := openMock(t)
	const n = 1000
	host := make([]byte, 4*n)
	for i := range n {
		binary.LittleEndian.PutUint32(host[4*i:], math.Float32bits(float32(i)))
	}
	err := d.Do(func(c *Context) error {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		m, err := c.Load([]byte("mock image"))
		must(err)
		f, err := c.Function(m, "add")
		must(err)
		must(c.SetAttr(f, FuncMaxDynamicShared, 100000))
		if v, err := c.Attr(f, FuncMaxDynamicShared); err != nil || v != 100000 {
			t.Errorf("attribute is %d (%v)", v, err)
		}
		if v, err := c.Occupancy(f, 256, 0); err != nil || v != 8 {
			t.Errorf("occupancy is %d (%v)", v, err)
		}
		if v, err := c.Clusters(&Launch{Function: f, Grid: [3]int{4}, Block: 256, Cluster: 4}); err != nil || v != 33 {
			t.Errorf("%d clusters of 4 blocks (%v)", v, err)
		}
		if free, all, err := c.Memory(); err != nil || free != 1<<20 || all != 1<<21 {
			t.Errorf("memory is %d of %d (%v)", free, all, err)
		}
		s, err := c.NewStream()
		must(err)
		from, err := c.NewEvent()
		must(err)
		to, err := c.NewEvent()
		must(err)
		a, err := c.Alloc(4 * n)
		must(err)
		b, err := c.Alloc(4 * n)
		must(err)
		pinned, err := c.AllocHost(4 * n)
		must(err)
		must(c.Upload(a, host))
		must(c.Record(from, s))
		l := Launch{Function: f, Grid: [3]int{4}, Block: 256, Cluster: 2, Early: true, Stream: s}
		must(c.Launch(&l, unsafe.Pointer(&addParams{a, 0.5, n})))
		for at, want := range map[FuncAttr]int{20: 2, 21: 1} { // where the stand-in tells of the launch's attributes
			if v, err := c.Attr(f, at); err != nil || v != want {
				t.Errorf("launch attribute is %d (%v), expected %d", v, err, want)
			}
		}
		if err := c.Launch(&Launch{Function: f, Block: 1}, unsafe.Pointer(&addParams{a, 0, 0})); err == nil {
			t.Error("a launch without blocks was accepted")
		}
		g, err := c.Capture(s, func() error {
			for range 3 {
				if err := c.Launch(&l, unsafe.Pointer(&addParams{a, 1, n})); err != nil {
					return err
				}
			}
			return nil
		})
		must(err)
		must(c.Replay(g, s))
		must(c.Replay(g, s))
		must(c.Record(to, s))
		must(c.WaitEvent(to))
		if ms, err := c.Elapsed(from, to); err != nil || ms != 1 {
			t.Errorf("elapsed %v (%v)", ms, err)
		}
		if idle, err := c.Idle(s); err != nil || idle {
			t.Errorf("a busy stream says idle: %v (%v)", idle, err)
		}
		if idle, err := c.Idle(s); err != nil || !idle {
			t.Errorf("an idle stream says busy: %v (%v)", idle, err)
		}
		must(c.Wait(s))
		must(c.Copy(b, a, 4*n, s))
		must(c.DownloadAsync(pinned, b, s))
		must(c.Synchronize())
		must(c.Download(host, b))
		if string(host) != string(pinned) {
			t.Error("pinned and pageable copies differ")
		}
		must(c.Fill(b, 7, 4, s))
		must(c.UploadAsync(a, pinned, s))
		must(c.Download(host[:4], b))
		for i := 1; i < n; i++ {
			if x := math.Float32frombits(binary.LittleEndian.Uint32(host[4*i:])); x != float32(i)+6.5 {
				t.Fatalf("element %d is %g, expected %g", i, x, float32(i)+6.5)
			}
		}
		if string(host[:4]) != "\a\a\a\a" {
			t.Errorf("filled bytes are %q", host[:4])
		}
		return errors.Join(c.FreeHost(pinned), c.Free(a), c.Free(b), c.FreeGraph(g), c.FreeEvent(from), c.FreeEvent(to), c.FreeStream(s), c.Unload(m))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestThread: the context is current on the thread of whoever calls, and calls run one after another.
func TestThread(t *testing.T) {
	d := openMock(t)
	done := make(chan error)
	count := 0
	for range 8 {
		go func() {
			var err error
			for range 50 {
				err = errors.Join(err, d.Do(func(c *Context) error {
					count++
					return c.Synchronize()
				}))
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if count != 400 {
		t.Errorf("%d calls ran, expected 400", count)
	}
}

// TestLost: a function that ends its goroutine leaves the device to others.
func TestLost(t *testing.T) {
	d := openMock(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Do(func(*Context) error { runtime.Goexit(); return nil }) //nolint:errcheck // it does not return
	}()
	<-ended
	if err := d.Do(func(c *Context) error { return c.Synchronize() }); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkLaunch(b *testing.B) {
	d := openMock(b)
	b.ReportAllocs()
	err := d.Do(func(c *Context) error {
		p := &addParams{}
		l := Launch{Function: 3, Grid: [3]int{1}, Block: 32}
		for b.Loop() {
			if err := c.Launch(&l, unsafe.Pointer(p)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
