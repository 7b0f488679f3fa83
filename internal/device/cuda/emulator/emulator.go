// Package emulator builds, for tests, a library that stands in for NVIDIA's driver on a machine without a GPU: it runs the kernels themselves, compiled for the host.
package emulator

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// ErrUnavailable is in the error of Build on a machine that cannot have the emulator.
var ErrUnavailable = errors.New("no emulator of a GPU")

// Build compiles the library into a folder and returns its path. sources is the folder of package cuda, from the working folder.
func Build(folder, sources string) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("%w: it runs on linux/amd64 only", ErrUnavailable)
	}
	cc, err := exec.LookPath("g++")
	if err != nil {
		return "", fmt.Errorf("%w: there is no g++ to build it with", ErrUnavailable)
	}
	// The compiler reads these files, not this process; it looks at them so that go test takes no result from its cache when one has changed.
	for _, pattern := range []string{"kernels/*.cu*", "testdata/*", "driver/testdata/*"} {
		files, _ := filepath.Glob(filepath.Join(sources, pattern)) //nolint:errcheck // the patterns are well formed
		for _, f := range files {
			if _, err := os.ReadFile(f); err != nil {
				return "", err
			}
		}
	}
	object, library := filepath.Join(folder, "mock.o"), filepath.Join(folder, "libcuda.so")
	for _, args := range [][]string{
		{"gcc", "-c", "-O1", "-fPIC", "-DEMULATED", "driver/testdata/mock.c", "-o", object},
		{cc, "-std=c++17", "-O1", "-march=native", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-w", "-Itestdata", "testdata/emulator.cc", object, "-o", library},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = sources
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("emulator: %v: %w\n%s", args, err, out)
		}
	}
	return library, nil
}
