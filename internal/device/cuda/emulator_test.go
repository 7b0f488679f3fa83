package cuda

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/device/cuda/emulator"
)

// These tests hold the kernels against reference_test.go on fresh random data: on a GPU if there is one, else in the emulator of testdata.

// emulated says that there is no GPU; quick, that cases are few and small but launch every kernel still: in the emulator, and with -short on a GPU, as suits a sanitizer.
var emulated, quick bool

func TestMain(m *testing.M) {
	d, err := driver.Open(driver.Options{})
	if err == nil {
		err = d.Close()
	}
	flag.Parse()
	emulated = errors.Is(err, driver.ErrUnavailable)
	if quick = emulated || testing.Short(); quick {
		shapes = []Shape{
			{Dim: 64, KVHeads: 1, Group: 3, TokenCodes: true}, {Dim: 128, KVHeads: 2, Group: 1, TokenCodes: true},
			{Dim: 128, KVHeads: 1, Group: 4, TokenCodes: true}, {Dim: 64, KVHeads: 1, Group: 7, TokenCodes: true},
		}
		lengths, long = []int32{1, 17, 272, 777}, []int32{1501}
		if !emulated {
			shapes = append(shapes, Shape{Dim: 64, KVHeads: 2, Group: 2, TokenCodes: true}, Shape{Dim: 128, KVHeads: 1, Group: 6, TokenCodes: true})
		} else if testing.Short() {
			shapes = shapes[1:3]
		}
		if testing.Short() {
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

// gpu opens the GPU or the emulator until the test ends.
func gpu(t testing.TB) *driver.Device {
	t.Helper()
	o := driver.Options{}
	if emulated {
		o.Library = emulatorLibrary(t)
	}
	d, err := driver.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// measuredGPU is gpu for a benchmark, which the emulator has nothing to say about.
func measuredGPU(b *testing.B) *driver.Device {
	b.Helper()
	if emulated {
		b.Skip("no GPU")
	}
	return gpu(b)
}

var built struct {
	sync.Once
	dir, library string
	err          error
}

// emulatorLibrary builds the library that stands in for the driver, once. TestMain removes it.
func emulatorLibrary(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "emulator"); built.err == nil {
			built.library, built.err = emulator.Build(built.dir, ".")
		}
	})
	if errors.Is(built.err, emulator.ErrUnavailable) {
		t.Skip("no GPU, and ", built.err)
	}
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.library
}
