//go:build linux && (amd64 || arm64) && !nocuda

package driver

import (
	"fmt"

	"github.com/ebitengine/purego"
)

const defaultLibrary = "libcuda.so.1"

func open(path string) (uintptr, error) {
	h, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return 0, fmt.Errorf("cuda: loading %s: %w: %v", path, ErrUnavailable, err)
	}
	return h, nil
}

func symbol(lib uintptr, name string) (uintptr, error) { return purego.Dlsym(lib, name) }

func call(fn uintptr, args ...uintptr) int32 {
	r, _, _ := purego.SyscallN(fn, args...)
	return int32(r)
}
