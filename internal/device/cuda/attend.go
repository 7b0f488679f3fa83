package cuda

import (
	"fmt"
	"math"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// Attend implements device.Device. Prompt rows are written all at once and attend densely; decode rows of different sequences attend in one launch, those of one
// sequence after each other.
func (d *Device) Attend(a *device.Attention) error {
	d.settle()
	cache := a.Cache.(*Cache)
	turn := d.turned(a)
	cache.op.Layer(a.Layer)
	for j := 0; j < len(a.Segments); {
		n := cache.op.together(a.Segments, j)
		if s := &a.Segments[j]; s.Mode == device.Prompt {
			d.prompt(a, cache, j, turn)
		} else {
			m, err := ModeOf(s.Pipeline)
			if err != nil {
				return err
			}
			if a.Window > 0 || a.Layer < s.Pipeline.Spec().DenseLayers {
				m = Mode{Dense: true}
			}
			for i := range s.N {
				d.decode(a, cache, j, s.Row+i, n, m, reached(a.Segments[j:j+n], i), turn)
			}
		}
		j += n
	}
	out := d.top(a.Out)
	out.half.scale, out.isHalf, out.isWide = d.ones, true, false
	return nil
}

// together is how many segments from j on attend in one launch: decode steps of one row under one pipeline.
func (o *Operator) together(all []device.Segment, j int) int {
	s, n := &all[j], 1
	for s.Mode == device.Decode && s.N == 1 && j+n < len(all) && n < o.Batch {
		if t := &all[j+n]; t.Mode != device.Decode || t.N != 1 || t.Pipeline != s.Pipeline || t.Row != s.Row+n {
			break
		}
		n++
	}
	return n
}

// reached is how many tokens sequences have with row i of a step.
func reached(all []device.Segment, i int) (n int) {
	for k := range all {
		n += all[k].Pos + i + 1
	}
	return n
}

// turned is how the step's queries, keys and values become fp16, the first two rotated: what waited for this Attend.
func (d *Device) turned(a *device.Attention) (p headsParams) {
	s, q, k, v := &d.step, d.top(a.Q), d.top(a.K), d.top(a.V)
	if len(s.turns) != 2 || s.turns[0].x != q || s.turns[1].x != k || s.turns[0].rope != s.turns[1].rope {
		s.fail(fmt.Errorf("cuda: attention of layer %d: expected its queries and keys to have been rotated just before", a.Layer))
		return p
	}
	r := s.turns[0].rope
	s.turns = s.turns[:0]
	d.widen(v, a.V.Rows)
	d.try(func(c *driver.Context) (err error) {
		p, err = d.turning(c, r, a.Dim)
		p.x, p.heads = [3]driver.Ptr{q.wide, k.wide, v.wide}, [3]int32{int32(a.Heads), int32(a.KVHeads), int32(a.KVHeads)}
		return err
	})
	return p
}

// from is a rotation of the rows from one on, with the places of fp16 results for all rows.
func (p headsParams) from(row int, dst [3]driver.Ptr) headsParams {
	p.pos += driver.Ptr(row * 4)
	for i, heads := range p.heads {
		skip := driver.Ptr(row * int(heads*p.dim))
		p.x[i] += 4 * skip
		p.dst[i] = dst[i] + 2*skip
	}
	return p
}

// params are the operator's for sequences from segment j on, whose rows begin at row.
func (d *Device) params(a *device.Attention, cache *Cache, j, row int) params {
	p, view := cache.op.p, &d.step.view
	width := driver.Ptr(a.Heads * a.Dim * 2)
	p.scale = float32(float64(a.Scale) * math.Log2E)
	p.table = view.tables + driver.Ptr(j*cache.op.stride*4)
	p.lens = view.lens + driver.Ptr(row*4)
	p.q = cache.q + driver.Ptr(row)*width
	p.out = d.top(a.Out).half.values + driver.Ptr(row)*width
	p.newK = cache.k + driver.Ptr(row*a.KVHeads*a.Dim*2)
	p.newV = cache.v + driver.Ptr(row*a.KVHeads*a.Dim*2)
	p.window = int32(a.Window)
	return p
}

// prompt writes the rows of a segment into the cache, and has them attend.
func (d *Device) prompt(a *device.Attention, cache *Cache, j int, turn headsParams) {
	s, o := &a.Segments[j], cache.op
	p := d.params(a, cache, j, s.Row)
	from := p
	d.try(func(c *driver.Context) error {
		turn := turn.from(s.Row, [3]driver.Ptr{cache.q, cache.k, cache.v})
		turn.rows = int32(s.N)
		if err := d.lib.turn(c, d.stream, &turn); err != nil {
			return err
		}
		p.position, p.count, p.sequence, p.head = int32(s.Pos), int32(s.N), 0, 0
		p.tokenStride, p.headStride = int32(a.KVHeads*a.Dim), int32(a.Dim)
		if err := o.launch(c, &p, driver.Launch{Grid: [3]int{s.N, a.KVHeads}, Block: a.Dim / 8, Stream: d.stream}, "write"); err != nil {
			return err
		}
		e := p
		e.lens = d.step.view.lens + driver.Ptr((s.Row+s.N-1)*4)
		if err := o.encode(c, d.stream, &e, 1, attention.BlocksOf(s.Pos+s.N)-s.Pos/attention.BlockTokens); err != nil {
			return err
		}
		blocks := o.Blocks
		if o.offloaded(a.Layer) {
			blocks = o.stride
			if err := cache.fetch(c, &from, s.Pos, s.N, a.Window); err != nil {
				return err
			}
		}
		return d.lib.prompt(c, d.stream, &promptOp{q: cache.q, room: d.maxRows, first: s.Row, out: p.out, k: from.k, v: from.v, table: from.table, blocks: blocks,
			rows: s.N, pos: s.Pos, heads: a.Heads, kvHeads: a.KVHeads, dim: a.Dim, window: a.Window, scale: a.Scale})
	})
}

// decode appends one row each to n sequences, which have so many tokens with it, and has them attend.
func (d *Device) decode(a *device.Attention, cache *Cache, j, row, n int, m Mode, tokens int, turn headsParams) {
	o := cache.op
	p := d.params(a, cache, j, row)
	p.batch, p.order = int32(n), 0
	if n > 1 {
		p.order = d.step.view.order + driver.Ptr(row*4)
	}
	p.maxParts, p.ranks = int32(maxParts(n*a.KVHeads)), int32(o.ranks(n))
	d.try(func(c *driver.Context) error {
		if err := o.append(c, d.stream, n, &appendParams{p, turn.from(row, [3]driver.Ptr{cache.q, cache.k, cache.v})}); err != nil {
			return err
		}
		o.hold = p
		return o.attendHeld(c, d.stream, o.decided(m, n, tokens), tokens)
	})
}
