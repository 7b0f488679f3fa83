package cuda

import (
	"unsafe"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// lists is where List puts what it finds: device.Top by row.
type lists struct {
	at   driver.Ptr
	host []byte // pinned
}

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
		return d.lib.argmax(c, d.stream, d.step.view.chosen, b.wide, src.Rows, src.Cols)
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

// chosen is Chosen on the driver's thread. It goes through pinned memory, beside the step's state.
func (d *Device) chosen(c *driver.Context) error {
	s := &d.step
	at := s.host[s.view.chosen-s.at:][:len(s.jobs.found)*4]
	if err := c.DownloadAsync(at, s.view.chosen, d.stream); err != nil {
		return err
	}
	err := c.Wait(d.stream)
	copy(bytesOf(s.jobs.found), at)
	return err
}

// List implements device.Chooser.
func (d *Device) List(src device.Tensor) {
	d.flush()
	b := d.top(src)
	d.try(func(c *driver.Context) (err error) {
		if n := b.rows * topBytes; n > len(d.lists.host) {
			if d.lists.host != nil {
				err = c.FreeHost(d.lists.host)
			}
			if d.lists.host = nil; err != nil {
				return err
			}
			if d.lists.at, err = d.alloc(c, n); err != nil {
				return err
			}
			if d.lists.host, err = c.AllocHost(n); err != nil {
				return err
			}
		}
		return d.lib.top(c, d.stream, d.lists.at, b.wide, src.Rows, src.Cols)
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

// listed is Listed on the driver's thread.
func (d *Device) listed(c *driver.Context) error {
	dst := d.step.jobs.tops
	at := d.lists.host[:len(dst)*topBytes]
	if err := c.DownloadAsync(at, d.lists.at, d.stream); err != nil {
		return err
	}
	err := c.Wait(d.stream)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), len(at)), at)
	return err
}

// Row implements device.Chooser. It fails as Read does.
func (d *Device) Row(dst []float32, src device.Tensor, row int) {
	d.read(dst, d.top(src).wide+driver.Ptr(row*src.Cols*4))
}
