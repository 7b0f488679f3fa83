package cpu

import (
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu/linear"
)

// linearOp is the products of one x: every output's rows cut into tasks of about equal bytes.
type linearOp struct {
	d     *Device
	x     device.Tensor
	act   linear.Activations
	out   []device.Linear
	items []linearItem
	stage int
}

type linearItem struct{ out, lo, hi int }

// taskBytes is the least that a task of a product reads: below it, sharing costs more than it gains.
const taskBytes = 32 << 10

// quantRows is how many rows of activations a task quantises.
const quantRows = 16

// Linear implements device.Device.
func (d *Device) Linear(x device.Tensor, out []device.Linear) {
	o := &d.lin
	o.x, o.out = x, out
	planes := 1
	if out[0].Fine {
		planes = 2
	}
	o.act.Reset(x.Data, x.Rows, x.Cols, planes)
	o.stage = 0
	d.pool.Run((x.Rows+quantRows-1)/quantRows, o)
	o.stage = 1
	o.split()
	d.pool.Run(len(o.items), o)
}

// split cuts the outputs so that each worker gets several tasks, of whole tiles.
func (o *linearOp) split() {
	total := 0
	for _, l := range o.out {
		total += l.W.(*weight).m.Bytes()
	}
	per := max(total/(8*o.d.Threads()), taskBytes)
	o.items = o.items[:0]
	for i, l := range o.out {
		m := l.W.(*weight).m
		rows := m.Rows()
		step := max(per*rows/m.Bytes()/linear.RowTile, 1) * linear.RowTile
		for r := 0; r < rows; r += step {
			o.items = append(o.items, linearItem{i, r, min(r+step, rows)})
		}
	}
}

// Do implements attention.Task.
func (o *linearOp) Do(i int) {
	if o.stage == 0 {
		o.act.QuantizeRows(i*quantRows, min((i+1)*quantRows, o.x.Rows))
		return
	}
	it := o.items[i]
	l := &o.out[it.out]
	l.W.(*weight).m.Mul(l.Dst.Data, l.Dst.Cols, &o.act, it.lo, it.hi)
	if l.Bias == nil {
		return
	}
	for r := range o.x.Rows {
		o.d.kern.Add(l.Dst.Data[r*l.Dst.Cols+it.lo:][:it.hi-it.lo], l.Bias[it.lo:it.hi])
	}
}
