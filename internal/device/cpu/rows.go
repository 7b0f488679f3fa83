package cpu

import (
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu/kernel"
)

// rowsOp is an operation that treats rows one by one: a few rows a task.
type rowsOp struct {
	d        *Device
	kind     rowsKind
	dst, src device.Tensor
	vec      []float32
	eps      float32
	rope     *device.Rope
	table    []float32
	pos      []int32
	dim      int
	act      kernel.Activation
	per      int
}

type rowsKind int

const (
	normRows rowsKind = iota
	ropeRows
	gateRows
	addRows
)

// rowElements is about how many elements a task treats.
const rowElements = 1 << 14

func (d *Device) eachRow(cols, rows int) {
	o := &d.rows
	o.per = max(rowElements/cols, 1)
	d.pool.Run((rows+o.per-1)/o.per, o)
}

// Norm implements device.Device.
func (d *Device) Norm(dst, src device.Tensor, weight []float32, eps float32) {
	o := &d.rows
	o.kind, o.dst, o.src, o.vec, o.eps = normRows, dst, src, weight, eps
	d.eachRow(src.Cols, src.Rows)
}

// Rope implements device.Device.
func (d *Device) Rope(x device.Tensor, r *device.Rope, dim int, pos []int32) {
	o, last := &d.rows, int32(0)
	for _, p := range pos {
		last = max(last, p)
	}
	o.kind, o.dst, o.rope, o.dim, o.pos, o.table = ropeRows, x, r, dim, pos, r.Table(int(last)+1)
	d.eachRow(x.Cols, x.Rows)
}

// Gate implements device.Device.
func (d *Device) Gate(gate, up device.Tensor, act device.Activation) {
	o := &d.rows
	o.kind, o.dst, o.src, o.act = gateRows, gate, up, kernel.SiLU
	if act == device.GELU {
		o.act = kernel.GELU
	}
	d.eachRow(gate.Cols, gate.Rows)
}

// Add implements device.Device.
func (d *Device) Add(dst, src device.Tensor) {
	o := &d.rows
	o.kind, o.dst, o.src = addRows, dst, src
	d.eachRow(dst.Cols, dst.Rows)
}

// Do implements attention.Task.
func (o *rowsOp) Do(i int) {
	lo, hi := i*o.per, min((i+1)*o.per, o.dst.Rows)
	k, cols := o.d.kern, o.dst.Cols
	dst := o.dst.Data[lo*cols : hi*cols]
	switch o.kind {
	case normRows:
		k.RMSNorm(dst, o.src.Data[lo*cols:hi*cols], o.vec, o.eps)
	case ropeRows:
		half := len(o.rope.Freq)
		for r := lo; r < hi; r++ {
			angles := o.table[int(o.pos[r])*2*half:]
			k.Rope(o.dst.Row(r), o.dim, angles[:half], angles[half:2*half], !o.rope.Interleaved)
		}
	case gateRows:
		k.Gate(dst, dst, o.src.Data[lo*cols:hi*cols], o.act)
	case addRows:
		k.Add(dst, o.src.Data[lo*cols:hi*cols])
	}
}

// Embed implements device.Device.
func (d *Device) Embed(dst device.Tensor, w device.Weight, ids []int32, scale float32) {
	for i, id := range ids {
		row := dst.Row(i)
		w.(*weight).m.Row(int(id), row)
		if scale != 1 {
			d.kern.Scale(row, scale)
		}
	}
}

// Pick implements device.Device.
func (*Device) Pick(dst, src device.Tensor, rows []int32) {
	for i, r := range rows {
		copy(dst.Row(i), src.Row(int(r)))
	}
}
