package mem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// adviseHuge advises the whole pages inside b. The result is ignored: a kernel without transparent huge pages answers
// EINVAL, and nothing depends on them but speed.
func adviseHuge(b []byte) {
	page := os.Getpagesize()
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & uintptr(page-1))
	if skip < len(b) {
		_ = unix.Madvise(b[skip:], unix.MADV_HUGEPAGE)
	}
}
