package cuda

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// These tests hold the kernels against reference_test.go on fresh random data: on a GPU if there is one, else in the emulator of testdata, and then fewer of them.

// emulated says that there is no GPU.
var emulated bool

func TestMain(m *testing.M) {
	d, err := driver.Open(driver.Options{})
	if err == nil {
		err = d.Close()
	}
	if emulated = errors.Is(err, driver.ErrUnavailable); emulated {
		shapes = []Shape{
			{Dim: 64, KVHeads: 1, Group: 3, TokenCodes: true}, {Dim: 128, KVHeads: 2, Group: 1, TokenCodes: true},
			{Dim: 128, KVHeads: 1, Group: 4, TokenCodes: true}, {Dim: 64, KVHeads: 1, Group: 7, TokenCodes: true},
		}
		lengths, long = []int32{1, 17, 777}, []int32{1501}
		if flag.Parse(); testing.Short() {
			shapes = shapes[1:3]
			for _, name := range []string{"paper_all_pages", "shared_pages", "twilight_per_page"} {
				delete(modes, name)
			}
		}
	}
	if err != nil && !emulated {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(built.dir) //nolint:errcheck // a folder of the system's for such things
	os.Exit(code)
}

func gpu(t *testing.T) *driver.Device {
	t.Helper()
	o := driver.Options{}
	if emulated {
		o.Library = emulator(t)
	}
	d, err := driver.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

var built struct {
	sync.Once
	dir, library string
	err          error
}

// emulator builds the library that stands in for the driver, once. TestMain removes it.
func emulator(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("no GPU, and the emulator runs on linux/amd64 only")
	}
	cc, err := exec.LookPath("g++")
	if err != nil {
		t.Skip("no GPU, and no g++ to build the emulator with")
	}
	built.Do(func() {
		// The compiler reads these files, not this process; it looks at them so that go test takes no result from its cache when one has changed.
		for _, pattern := range []string{"kernels/*.cu*", "testdata/*", "driver/testdata/*"} {
			files, _ := filepath.Glob(pattern) //nolint:errcheck // the patterns are well formed
			for _, f := range files {
				if _, err := os.ReadFile(f); err != nil {
					built.err = err
					return
				}
			}
		}
		dir, err := os.MkdirTemp("", "emulator")
		if err != nil {
			built.err = err
			return
		}
		built.dir, built.library = dir, filepath.Join(dir, "libcuda.so")
		object := filepath.Join(dir, "mock.o")
		for _, args := range [][]string{
			{"gcc", "-c", "-O1", "-fPIC", "-DEMULATED", "driver/testdata/mock.c", "-o", object},
			{cc, "-std=c++17", "-O1", "-march=native", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-w", "-Itestdata", "testdata/emulator.cc", object, "-o", built.library},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				built.err = fmt.Errorf("%v: %w\n%s", args, err, out)
				return
			}
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.library
}
