package cuda

import (
	"unsafe"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

const topBytes = int(unsafe.Sizeof(device.Top{}))

// topParams is TopParams of kernels/top.cuh, field by field; device.Top is its TopList.
type topParams struct {
	src, dst   driver.Ptr
	columns, _ int32
}

// top queues the listing of the most likely tokens of each row of src, float32 [rows][cols]; dst is device.Top [rows].
func (l *library) top(c *driver.Context, s driver.Stream, dst, src driver.Ptr, rows, cols int) error {
	return launch(l, c, "top_tokens", driver.Launch{Grid: [3]int{rows}, Block: 1024, Stream: s, Early: true}, &topParams{src: src, dst: dst, columns: int32(cols)})
}

// Choose implements device.Chooser.
func (d *Device) Choose(src device.Tensor) {
	d.flush()
	b := d.top(src)
	d.try(func(c *driver.Context) error {
		return d.lib.argmax(c, d.stream, inPlace(d.step.chosen), b.wide, src.Rows, src.Cols)
	})
}

// Chosen implements device.Chooser.
func (d *Device) Chosen(dst []int32) {
	s := &d.step
	s.jobs.found = dst
	if err := d.gpu.Do(s.jobs.chosen); err != nil {
		s.fail(err)
	}
}

// chosen is Chosen inside Do.
func (d *Device) chosen(c *driver.Context) error {
	err := c.Wait(d.stream)
	copy(bytesOf(d.step.jobs.found), d.step.chosen)
	return err
}

// inPlace is where the device reaches pinned memory. What it writes there is to be read after it was waited for.
func inPlace(pinned []byte) driver.Ptr { return driver.Ptr(unsafe.Pointer(&pinned[0])) }

// List implements device.Chooser.
func (d *Device) List(src device.Tensor) {
	d.flush()
	b := d.top(src)
	d.try(func(c *driver.Context) (err error) {
		if n := b.rows * topBytes; n > len(d.lists) {
			if d.lists != nil {
				err = c.FreeHost(d.lists)
			}
			if d.lists = nil; err != nil {
				return err
			}
			if d.lists, err = c.AllocHost(n); err != nil {
				return err
			}
		}
		return d.lib.top(c, d.stream, inPlace(d.lists), b.wide, src.Rows, src.Cols)
	})
}

// Listed implements device.Chooser. After a failure the lists are empty.
func (d *Device) Listed(dst []device.Top) {
	s := &d.step
	s.jobs.tops = dst
	if err := d.gpu.Do(s.jobs.listed); err != nil {
		for i := range dst {
			dst[i].Count = 0
		}
		s.fail(err)
	}
}

// listed is Listed inside Do.
func (d *Device) listed(c *driver.Context) error {
	dst := d.step.jobs.tops
	err := c.Wait(d.stream)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), len(dst)*topBytes), d.lists)
	return err
}

// Row implements device.Chooser. It fails as Read does.
func (d *Device) Row(dst []float32, src device.Tensor, row int) {
	d.read(dst, d.top(src).wide+driver.Ptr(row*src.Cols*4))
}
