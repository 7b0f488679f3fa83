//go:build unix

package linear

import (
	"os"
	"syscall"
	"testing"

	"github.com/twilight-go/twilight/internal/mem"
)

// guardedFloats is n floats that end at a page which faults.
func guardedFloats(t testing.TB, n int) []float32 { return mem.Slice[float32](guarded(t, 4*n)) }

// guarded is n bytes, a multiple of 4, that end at a page which faults.
func guarded(t testing.TB, n int) []byte {
	t.Helper()
	page := os.Getpagesize()
	size := (n + page - 1) / page * page
	b, err := syscall.Mmap(-1, 0, size+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mprotect(b[size:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	return b[size-n : size : size]
}
