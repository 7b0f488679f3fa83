// Package mem owns memory outside the Go heap: anonymous mappings for weights, caches and scratch space, and read-only
// mappings of files. The garbage collector neither scans nor moves it, so a cache of many gigabytes costs no pause.
//
// Lifetime: whoever calls Alloc or Map owns the result and ends it with Free or Unmap; using any slice of it afterwards
// is a fault that no recover catches.
package mem

import (
	"fmt"
	"math"
	"os"
	"unsafe"
)

const (
	hugePage      = 2 << 20 // the page size that MADV_HUGEPAGE aims at
	hugeThreshold = 4 << 20 // from here on, an allocation is aligned and advised for huge pages
)

// Alloc returns n bytes of zeroed anonymous memory, aligned to a page, to a 2 MiB huge page where n is 4 MiB or more.
// Pages are committed when first touched, so untouched memory costs address space only. n = 0 gives an empty slice.
// End it with Free, given the very slice that Alloc returned.
func Alloc(n int) ([]byte, error) {
	if n < 0 || n > math.MaxInt-2*hugePage {
		return nil, fmt.Errorf("mem: cannot allocate %d bytes", n)
	}
	if n == 0 {
		return nil, nil
	}
	b, err := alloc(n)
	if err != nil {
		return nil, fmt.Errorf("mem: allocating %d bytes: %w", n, err)
	}
	return b, nil
}

// Free ends memory of Alloc. It takes the slice that Alloc returned, whole; an empty slice is a no-op.
func Free(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := free(b); err != nil {
		return fmt.Errorf("mem: freeing %d bytes: %w", len(b), err)
	}
	return nil
}

// Map maps the file at path into memory for reading; a write through the result is a fault. An empty file gives an
// empty slice. The file must not shrink while it is mapped. End it with Unmap.
func Map(path string) ([]byte, error) {
	b, err := openMap(path)
	if err != nil {
		return nil, fmt.Errorf("mem: mapping a file: %w", err)
	}
	return b, nil
}

func openMap(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // a mapping outlives its descriptor
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file (%s)", path, st.Mode().Type())
	case st.Size() == 0:
		return nil, nil
	case st.Size() > math.MaxInt:
		return nil, fmt.Errorf("%s has %d bytes, more than this machine can address", path, st.Size())
	}
	b, err := mapFile(f, int(st.Size()))
	if err != nil {
		return nil, &os.PathError{Op: "map", Path: path, Err: err}
	}
	return b, nil
}

// Unmap ends a mapping of Map. It takes the slice that Map returned, whole; an empty slice is a no-op.
func Unmap(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := unmap(b); err != nil {
		return fmt.Errorf("mem: unmapping %d bytes: %w", len(b), err)
	}
	return nil
}

// AdviseHuge asks the system to back b by huge pages, which is worth 20–40 % of read bandwidth on weights and caches.
// It is advice: systems without it, and parts of b outside whole pages, are left as they are.
func AdviseHuge(b []byte) {
	if len(b) >= hugePage {
		adviseHuge(b)
	}
}

// Element is a type that a byte slice can be viewed as.
type Element interface {
	~uint8 | ~int8 | ~uint16 | ~int16 | ~uint32 | ~int32 | ~float32 | ~uint64 | ~int64 | ~float64
}

// Slice views b as elements of T without copying, in the machine's byte order; bytes that do not fill a last element are
// left out. b must be aligned for T, as memory of Alloc is: another alignment is a programming error, and panics.
func Slice[T Element](b []byte) []T {
	var zero T
	size := unsafe.Sizeof(zero)
	n := uintptr(len(b)) / size
	if n == 0 {
		return nil
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%unsafe.Alignof(zero) != 0 {
		panic(fmt.Sprintf("mem: slice at %p is not aligned to the %d bytes of its element type", p, unsafe.Alignof(zero)))
	}
	return unsafe.Slice((*T)(p), n)
}

// Aligned reports whether Slice[T] may view b; bytes from files may lie anywhere.
func Aligned[T Element](b []byte) bool {
	var zero T
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%unsafe.Alignof(zero) == 0
}
