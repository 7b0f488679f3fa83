package cuda

import (
	"errors"
	"fmt"
	"slices"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// Device implements device.Device: whole models on one GPU. The operations of a step only queue kernels, and the first error of any
// of them is what the step returns.
type Device struct {
	gpu     *driver.Device
	lib     *library
	stream  driver.Stream
	offload bool
	most    int64 // bytes that may be taken; 0: all
	began   int64 // bytes that were free when it was opened

	buffers    map[uintptr]*buffer
	ones       driver.Ptr                  // scales of rows that need none
	gatedScale driver.Ptr                  // of rows of gates
	vectors    map[*float32]driver.Ptr     // norm weights and biases, taken in when first seen
	angles     map[*device.Rope]driver.Ptr // frequencies, float64
	owned      []driver.Ptr
	maxRows    int

	step     step
	lists    []byte // pinned: where List puts what it finds, device.Top by row
	counting counting
}

// buffer is an activation tensor in the two forms that kernels take it in. One of them at least is up to date.
type buffer struct {
	wide      driver.Ptr // float32 [rows][cols]
	half      halves     // fp16 with scales; scale is ones where the values need none
	scale     driver.Ptr // the buffer's own scales
	isWide    bool
	isHalf    bool
	rows, col int
}

// Options for Open.
type Options struct {
	// Offload keeps exact keys and values in pinned host memory; codes and metadata stay on the GPU.
	Offload bool
	// Memory is how many bytes of the GPU's memory may be taken, as if it had no more; 0: what is free. The driver's own context and kernels do not count.
	Memory int64
	// Library is the driver's library; "" is the system's.
	Library string
}

// Open starts the first GPU. Without a driver or a GPU the error wraps driver.ErrUnavailable.
func Open(o Options) (_ *Device, err error) {
	gpu, err := driver.Open(driver.Options{Library: o.Library})
	if err != nil {
		return nil, err
	}
	d := &Device{gpu: gpu, offload: o.Offload, most: o.Memory, buffers: map[uintptr]*buffer{}, vectors: map[*float32]driver.Ptr{}, angles: map[*device.Rope]driver.Ptr{}}
	d.step.graphs, d.counting.steps = map[string]*recording{}, map[*attention.Pipeline]int{}
	d.step.jobs = jobs{step: d.run, chosen: d.chosen, listed: d.listed, count: d.countStep, wait: func(c *driver.Context) error { return c.Wait(d.stream) }}
	err = gpu.Do(func(c *driver.Context) (err error) {
		if d.lib, err = load(c, gpu); err != nil {
			return err
		}
		if d.stream, err = c.NewStream(); err != nil {
			return err
		}
		if d.step.waiting.op.over, err = d.place(c, make([]byte, 4)); err != nil {
			return err
		}
		if err = d.lib.findLinear(c); err == nil {
			d.began, err = d.free(c)
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, gpu.Close())
	}
	return d, nil
}

// Name implements device.Device.
func (*Device) Name() string { return "cuda" }

// Description implements device.Device.
func (d *Device) Description() string { return d.gpu.Name }

// Close implements device.Device.
func (d *Device) Close() error {
	err := d.gpu.Do(func(c *driver.Context) error {
		errs := []error{c.Wait(d.stream)}
		for _, g := range d.step.graphs {
			if g.ready {
				errs = append(errs, c.FreeGraph(g.graph))
			}
		}
		for _, p := range d.owned {
			errs = append(errs, c.Free(p))
		}
		for _, b := range [][]byte{d.step.host, d.lists, d.counting.pinned} {
			if b != nil {
				errs = append(errs, c.FreeHost(b))
			}
		}
		return errors.Join(append(errs, d.lib.free(c), c.FreeStream(d.stream))...)
	})
	return errors.Join(err, d.gpu.Close())
}

// alloc takes memory until the device closes. Called inside Do.
func (d *Device) alloc(c *driver.Context, bytes int) (driver.Ptr, error) {
	p, err := c.Alloc(bytes)
	if err == nil {
		d.owned = append(d.owned, p)
	}
	return p, err
}

// place uploads data that stays until the device closes.
func (d *Device) place(c *driver.Context, data []byte) (driver.Ptr, error) {
	p, err := d.alloc(c, len(data))
	if err != nil {
		return 0, err
	}
	return p, c.Upload(p, data)
}

// Weight implements device.Device: it packs the matrix for the tensor cores.
func (d *Device) Weight(m device.Matrix) (device.Weight, error) {
	image, w, err := packWeight(m)
	if err != nil {
		return nil, err
	}
	err = d.gpu.Do(func(c *driver.Context) (err error) {
		w.data, err = d.place(c, image)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cuda: weight %s: %w", m.Name, err)
	}
	return w, nil
}

// padding is the rows that products may read beyond the last.
const padding = 64

// Alloc implements device.Device.
func (d *Device) Alloc(rows, cols int) (device.Tensor, error) {
	padded := ceil(rows, padding) * padding
	b := &buffer{rows: rows, col: cols}
	err := d.gpu.Do(func(c *driver.Context) (err error) {
		if rows > d.maxRows {
			if d.ones, err = d.place(c, bytesOf(slices.Repeat([]float32{1}, padded))); err != nil {
				return err
			}
			if d.gatedScale, err = d.place(c, bytesOf(slices.Repeat([]float32{gatedParts}, padded))); err != nil {
				return err
			}
			d.maxRows = rows
		}
		if b.wide, err = d.alloc(c, rows*cols*4); err != nil {
			return err
		}
		if b.half.values, err = d.alloc(c, padded*cols*2); err != nil {
			return err
		}
		b.scale, err = d.alloc(c, padded*4)
		return err
	})
	if err != nil {
		return device.Tensor{}, err
	}
	b.half.scale, b.half.rows, b.half.cols = b.scale, padded, cols
	d.buffers[uintptr(b.wide)] = b
	return device.Tensor{Rows: rows, Cols: cols, Addr: uintptr(b.wide)}, nil
}

// PromptRows is how many rows of a prompt a step had best read, where a row's activations are so many values: thousands, so that products and attention fill the device, such
// that attention's thread blocks end together, and no more than take a sixteenth of the free memory. Package model asks.
func (d *Device) PromptRows(values, heads int) int {
	const least, usual, most = 512, 2048, 6144
	room := least
	err := d.gpu.Do(func(c *driver.Context) error {
		free, err := d.free(c)
		room = max(least, min(most, int(free)/16/(values*6)/wideColumns*wideColumns))
		return err
	})
	if err != nil {
		d.step.fail(err) // the next step's error, too
	}
	best, share := min(room, usual), 0.0
	for rows := usual; rows <= room; rows += wideColumns {
		blocks := rows / flashRows * heads
		if x := float64(blocks) / float64(d.lib.turns(blocks)*d.lib.dev.Multiprocessor); x >= share {
			best, share = rows, x
		}
	}
	return best
}

// Takes reports whether the device runs a pipeline; the error says what of it that it does not.
func (d *Device) Takes(p *attention.Pipeline) error {
	_, err := ModeOf(p)
	return err
}

// Adapts says that min-context=auto is settled step by step, by how much there is to select from: nobody has to measure beforehand.
func (*Device) Adapts() {}

// maxBatch is the most sequences that attend in one launch; larger steps take several.
const maxBatch = 256

// Read implements device.Device. A failure shows as rows that are not numbers, and in the error of the next step.
func (d *Device) Read(dst []float32, src device.Tensor) {
	d.read(dst, d.top(src).wide)
}

func (d *Device) read(dst []float32, from driver.Ptr) {
	err := d.gpu.Do(func(c *driver.Context) error {
		if err := c.Wait(d.stream); err != nil {
			return err
		}
		return c.Download(bytesOf(dst), from)
	})
	if err != nil {
		for i := range dst {
			dst[i] = nan
		}
		d.step.fail(err)
	}
}
