//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || solaris || windows)

package mem

import (
	"io"
	"os"
	"unsafe"
)

// alloc uses the Go heap where no mapping calls are known. The slice of uint64 aligns it for every element type.
func alloc(n int) ([]byte, error) {
	words := make([]uint64, (n+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), n), nil
}

func free([]byte) error { return nil }

func mapFile(f *os.File, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(f, b)
	return b, err
}

func unmap([]byte) error { return nil }
