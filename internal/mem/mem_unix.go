//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd || solaris

package mem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alloc maps anonymous memory. Large requests reserve one huge page more and give the misaligned ends back, because
// not every kernel aligns a large mapping, and one that straddles huge pages by 4 KiB gets none at its ends.
func alloc(n int) ([]byte, error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANON
	if n < hugeThreshold {
		p, err := unix.MmapPtr(-1, 0, nil, uintptr(n), prot, flags)
		if err != nil {
			return nil, err
		}
		return unsafe.Slice((*byte)(p), n), nil
	}
	size := pageRound(n)
	p, err := unix.MmapPtr(-1, 0, nil, size+hugePage, prot, flags)
	if err != nil {
		return nil, err
	}
	head := -uintptr(p) % hugePage
	base := unsafe.Add(p, head)
	if head > 0 {
		err = unix.MunmapPtr(p, head)
	}
	if tail := uintptr(hugePage) - head; err == nil && tail > 0 {
		err = unix.MunmapPtr(unsafe.Add(base, size), tail)
	}
	if err != nil {
		return nil, err
	}
	b := unsafe.Slice((*byte)(base), n)
	adviseHuge(b)
	return b, nil
}

// free unmaps exactly the pages that alloc kept.
func free(b []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), pageRound(len(b)))
}

func mapFile(f *os.File, n int) ([]byte, error) {
	p, err := unix.MmapPtr(int(f.Fd()), 0, nil, uintptr(n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), n), nil
}

func unmap(b []byte) error { return free(b) }

func pageRound(n int) uintptr {
	page := uintptr(os.Getpagesize())
	return (uintptr(n) + page - 1) &^ (page - 1)
}
