package attention

import (
	"math/bits"
	"unsafe"
)

// Masks of lanes are joined and counted four pages a machine word. A word need not be aligned: the machines that Go runs on here read it anywhere.

// fours are the whole words of four masks in m, and the masks beyond.
func fours(m []uint16) (words []uint64, rest []uint16) {
	if len(m) < 4 {
		return nil, m
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(m))), len(m)/4), m[len(m)&^3:]
}

// orMasks adds the lanes of src to dst, which are of one length.
func orMasks(dst, src []uint16) {
	d, dr := fours(dst)
	s, sr := fours(src)
	for i, x := range s {
		d[i] |= x
	}
	for i, x := range sr {
		dr[i] |= x
	}
}

// andMasks leaves in dst only the lanes that src has too; they are of one length.
func andMasks(dst, src []uint16) {
	d, dr := fours(dst)
	s, sr := fours(src)
	for i, x := range s {
		d[i] &= x
	}
	for i, x := range sr {
		dr[i] &= x
	}
}

// dropMasks takes the lanes of src from dst, which are of one length.
func dropMasks(dst, src []uint16) {
	d, dr := fours(dst)
	s, sr := fours(src)
	for i, x := range s {
		d[i] &^= x
	}
	for i, x := range sr {
		dr[i] &^= x
	}
}

// countLanes is the number of lanes in m.
func countLanes(m []uint16) (n int) {
	words, rest := fours(m)
	for _, x := range words {
		n += bits.OnesCount64(x)
	}
	for _, x := range rest {
		n += bits.OnesCount16(x)
	}
	return n
}
