//go:build windows && (amd64 || arm64) && !nocuda

package driver

import (
	"fmt"
	"syscall"
)

const defaultLibrary = "nvcuda.dll"

func open(path string) (uintptr, error) {
	h, err := syscall.LoadLibrary(path)
	if err != nil {
		return 0, fmt.Errorf("cuda: loading %s: %w: %v", path, ErrUnavailable, err)
	}
	return uintptr(h), nil
}

func symbol(lib uintptr, name string) (uintptr, error) {
	return syscall.GetProcAddress(syscall.Handle(lib), name)
}

func call(fn uintptr, args ...uintptr) int32 {
	r, _, _ := syscall.SyscallN(fn, args...)
	return int32(r)
}
