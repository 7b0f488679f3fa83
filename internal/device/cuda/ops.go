package cuda

import (
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// top is a buffer's first rows as a tensor asks for them.
func (d *Device) top(t device.Tensor) *buffer { return d.buffers[t.Addr] }

// vector is a host vector's copy on the device; the model's vectors live as long as it does.
func (d *Device) vector(c *driver.Context, v []float32) (driver.Ptr, error) {
	if len(v) == 0 {
		return 0, nil
	}
	p, ok := d.vectors[&v[0]]
	if !ok {
		var err error
		if p, err = d.place(c, bytesOf(v)); err != nil {
			return 0, err
		}
		d.vectors[&v[0]] = p
	}
	return p, nil
}

// flush queues what waited for an operation that did not come.
func (d *Device) flush() {
	s := &d.step
	d.settle()
	if a := s.adding; a.dst != nil {
		s.adding.dst = nil
		d.try(func(c *driver.Context) error {
			return d.lib.add(c, d.stream, a.dst.wide, a.src.wide, len(s.plan.Tokens)*a.dst.col)
		})
	}
	for _, t := range s.turns {
		d.try(func(c *driver.Context) error {
			p, err := d.turning(c, t.rope, t.dim)
			if err != nil {
				return err
			}
			p.x[0], p.heads[0], p.rows = t.x.wide, int32(t.x.col/t.dim), int32(len(s.plan.Tokens))
			return d.lib.turn(c, d.stream, &p)
		})
	}
	s.turns = s.turns[:0]
}

// settle queues products that wait, as they are.
func (d *Device) settle() {
	if w := &d.step.waiting; w.op.rows > 0 {
		rows := w.op.rows
		w.op.rows = 0
		d.try(func(c *driver.Context) error { return d.lib.linear(c, d.stream, w.op.x, rows, w.op.out[:w.n]) })
	}
}

// turning are the parameters of a rotation of the step's rows.
func (d *Device) turning(c *driver.Context, r *device.Rope, dim int) (headsParams, error) {
	p, ok := d.angles[r]
	if !ok {
		var err error
		if p, err = d.place(c, bytesOf(r.Freq)); err != nil {
			return headsParams{}, err
		}
		d.angles[r] = p
	}
	return turning(r, p, d.step.view.pos, dim)
}

// widen makes a buffer's float32 form.
func (d *Device) widen(b *buffer, rows int) {
	if !b.isWide {
		d.try(func(c *driver.Context) error { return d.lib.widen(c, d.stream, b.wide, b.half, rows) })
		b.isWide = true
	}
}

// Embed implements device.Device.
func (d *Device) Embed(dst device.Tensor, w device.Weight, ids []int32, scale float32) {
	d.settle()
	b := d.top(dst)
	d.try(func(c *driver.Context) error {
		return d.lib.embed(c, d.stream, b.wide, w.(*weight), d.step.view.ids, len(ids), scale)
	})
	b.isWide, b.isHalf = true, false
}

// Norm implements device.Device.
func (d *Device) Norm(dst, src device.Tensor, weight []float32, eps float32) {
	d.settle()
	to, from, s := d.top(dst), d.top(src), &d.step
	o := normOp{x: from.wide, rows: src.Rows, cols: src.Cols, run: len(weight), eps: eps}
	if s.adding.dst == from {
		o.add, s.adding.dst = s.adding.src.wide, nil
	} else {
		d.flush()
	}
	d.widen(from, src.Rows)
	if to != from && len(weight) == src.Cols {
		to.half.scale = to.scale
		o.h, to.isWide, to.isHalf = to.half, false, true
	} else {
		o.dst, to.isWide, to.isHalf = to.wide, true, false
	}
	d.try(func(c *driver.Context) (err error) {
		if o.weight, err = d.vector(c, weight); err != nil {
			return err
		}
		return d.lib.norm(c, d.stream, &o)
	})
}

// Linear implements device.Device. Products may wait for the Gate or, of many rows, the Add that takes them.
func (d *Device) Linear(x device.Tensor, out []device.Linear) {
	d.flush()
	b := d.top(x)
	if !b.isHalf {
		b.half.scale = b.scale
		d.try(func(c *driver.Context) error { return d.lib.prepare(c, d.stream, b.wide, b.half, x.Rows) })
		b.isHalf = true
	}
	var products [maxProducts]product
	for len(out) > 0 {
		n := min(len(out), maxProducts)
		for i, o := range out[:n] {
			to := d.top(o.Dst)
			to.isWide, to.isHalf = true, false
			products[i] = product{w: o.W.(*weight), dst: to.wide}
			d.try(func(c *driver.Context) (err error) {
				products[i].bias, err = d.vector(c, o.Bias)
				return err
			})
		}
		if w := &d.step.waiting; len(out) == n && (d.lib.takesGated(x.Rows, products[:n]) || n == 1 && d.lib.takesAdded(x.Rows, products[:n])) {
			for i, o := range out {
				w.dst[i] = d.top(o.Dst)
			}
			w.op.x, w.op.rows, w.op.out, w.n = b.half, x.Rows, [2]product(products[:2]), n
			return
		}
		d.try(func(c *driver.Context) error { return d.lib.linear(c, d.stream, b.half, x.Rows, products[:n]) })
		out = out[n:]
	}
}

// Rope implements device.Device. It waits for the Attend that takes the rotated rows in fp16.
func (d *Device) Rope(x device.Tensor, r *device.Rope, dim int, _ []int32) {
	d.settle()
	b := d.top(x)
	d.widen(b, x.Rows)
	d.step.turns = append(d.step.turns, turn{b, r, dim})
}

// Gate implements device.Device.
func (d *Device) Gate(gate, up device.Tensor, act device.Activation) {
	g, u := d.top(gate), d.top(up)
	g.half.scale = g.scale
	if w := &d.step.waiting; w.op.rows == gate.Rows && w.n == 2 && w.dst == [2]*buffer{g, u} {
		if w.op.few() {
			g.half.scale = d.gatedScale
		}
		w.op.act, w.op.dst = act, g.half
		d.try(func(c *driver.Context) error { return d.lib.gated(c, d.stream, &w.op) })
		w.op.rows = 0
		g.isWide, g.isHalf, u.isWide = false, true, false
		return
	}
	d.flush()
	d.widen(g, gate.Rows)
	d.widen(u, up.Rows)
	d.try(func(c *driver.Context) error {
		return d.lib.gate(c, d.stream, g.wide, u.wide, act, g.half, gate.Rows, 0)
	})
	g.isWide, g.isHalf = false, true
}

// Pick implements device.Device. The rows are the plan's.
func (d *Device) Pick(dst, src device.Tensor, rows []int32) {
	d.flush()
	to, from, index := d.top(dst), d.top(src), d.step.view.logits
	to.isWide, to.isHalf = from.isWide, from.isHalf && !from.isWide
	d.try(func(c *driver.Context) error {
		if from.isWide {
			return d.lib.pick(c, d.stream, to.wide, from.wide, index, len(rows), from.col*4)
		}
		to.half.scale = to.scale
		if err := d.lib.pick(c, d.stream, to.half.values, from.half.values, index, len(rows), from.col*2); err != nil {
			return err
		}
		return d.lib.pick(c, d.stream, to.scale, from.half.scale, index, len(rows), 4)
	})
}

// Add implements device.Device. It becomes part of the Linear before it, whose result is then in the sum only, or waits for the Norm of the sum.
func (d *Device) Add(dst, src device.Tensor) {
	to, from := d.top(dst), d.top(src)
	if w := &d.step.waiting; w.op.rows == dst.Rows && w.n == 1 && w.dst[0] == from && to.isWide {
		w.op.out[0].dst, w.op.out[0].add = to.wide, true
		d.settle()
		to.isHalf, from.isWide = false, false
		return
	}
	d.flush()
	d.widen(to, dst.Rows)
	d.widen(from, dst.Rows)
	to.isHalf = false
	d.step.adding.dst, d.step.adding.src = to, from
}
