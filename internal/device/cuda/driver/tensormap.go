package driver

import (
	"fmt"
	"unsafe"
)

// TensorMap describes a matrix to the unit of a device that copies tiles between its memory and the shared memory of a thread block. It is part of a kernel's parameters.
type TensorMap [16]uint64

// MapPanel is how many columns the copied tiles have.
const MapPanel = 64

// mapBlock is what making a map passes by address. One a context, reused, on the heap.
type mapBlock struct {
	dims, strides [2]uint64
	box, steps    [2]uint32
	room          [24]uint64 // the map, at a multiple of 64 bytes
}

// TensorMap describes a matrix of fp16 [rows][cols], rows a multiple of 16 bytes, that is copied in tiles of boxRows rows, at most 256, and MapPanel columns. In shared memory
// the chunks of a tile's rows stand as kernels/hopper.cuh says.
func (c *Context) TensorMap(base Ptr, rows, cols, boxRows int) (TensorMap, error) {
	const fp16, swizzle128, promote256 = 6, 3, 3 // the driver's CU_TENSOR_MAP constants
	b := &c.matrix
	b.dims, b.strides, b.box, b.steps = [2]uint64{uint64(cols), uint64(rows)}, [2]uint64{uint64(cols) * 2}, [2]uint32{MapPanel, uint32(boxRows)}, [2]uint32{1, 1}
	skip := -uintptr(unsafe.Pointer(&b.room)) % 64 / 8
	err := c.lib.do(fTensorMap, fmt.Sprintf("describing a matrix of %d × %d in tiles of %d rows", rows, cols, boxRows), uintptr(unsafe.Pointer(&b.room[skip])), fp16, 2, uintptr(base),
		uintptr(unsafe.Pointer(&b.dims)), uintptr(unsafe.Pointer(&b.strides)), uintptr(unsafe.Pointer(&b.box)), uintptr(unsafe.Pointer(&b.steps)), 0, swizzle128, promote256, 0)
	return TensorMap(b.room[skip:][:16]), err
}
