package cpu

import (
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// Attend implements device.Device. Prompt rows are appended all at once and attend tile by tile; decode rows are appended one a sequence and attend together.
func (d *Device) Attend(a *device.Attention) error {
	cache := a.Cache.(*kvcache.Host)
	d.kern.Scale(a.Q.Data, a.Scale)
	d.append.a, d.append.cache = a, cache
	d.append.items = d.append.items[:0]
	steps := 0
	for i := range a.Segments {
		if s := &a.Segments[i]; s.Mode == device.Prompt {
			d.append.add(s, 0, s.N)
		} else {
			steps = max(steps, s.N)
		}
	}
	d.append.run()
	d.prompt.run(a, cache)
	d.observe.run(a, cache)
	for i := range steps {
		d.append.items = d.append.items[:0]
		for j := range a.Segments {
			if s := &a.Segments[j]; s.Mode == device.Decode && i < s.N {
				d.append.add(s, i, 1)
			}
		}
		d.append.run()
		for j := range a.Segments {
			if s := &a.Segments[j]; s.Mode == device.Decode && i < s.N {
				if err := d.call(a, cache, s, i, s.Pipeline, s.Stats); err != nil {
					return err
				}
			}
		}
		d.exec.Run()
	}
	return nil
}

// call queues the decode attention of row i of a segment.
func (d *Device) call(a *device.Attention, cache *kvcache.Host, s *device.Segment, i int, p *attention.Pipeline, stats *attention.Stats) error {
	n, group := s.Pos+i+1, a.Heads/a.KVHeads
	s.Seq.Memory.Prepare(p, cache.AttentionShape(group))
	first := 0
	if a.Window > 0 {
		first = max(0, n-a.Window)
	}
	for h := range a.KVHeads {
		at := h * group * a.Dim
		err := d.exec.Add(attention.Call{Pipeline: p, Layer: a.Layer, KVHead: h, Head: cache.Head(s.Seq, a.Layer, h, n), Planes: cache.PlaneNames(), First: first, Exact: a.Window > 0,
			Group: group, Q: a.Q.Row(s.Row + i)[at:][:group*a.Dim], Out: a.Out.Row(s.Row + i)[at:][:group*a.Dim], Stats: stats, Memory: &s.Seq.Memory})
		if err != nil {
			return err
		}
	}
	return nil
}

// appendOp writes keys and values into the cache: a KV head and some rows of a segment a task, cut where blocks end so that two tasks never share a page.
type appendOp struct {
	d     *Device
	a     *device.Attention
	cache *kvcache.Host
	items []appendItem
}

type appendItem struct {
	s      *device.Segment
	row, n int // rows of the segment
	head   int
}

// add queues rows [row,row+n) of s for every head.
func (o *appendOp) add(s *device.Segment, row, n int) {
	for n > 0 {
		m := min(n, attention.BlockTokens-(s.Pos+row)%attention.BlockTokens)
		for h := range o.a.KVHeads {
			o.items = append(o.items, appendItem{s, row, m, h})
		}
		row, n = row+m, n-m
	}
}

func (o *appendOp) run() { o.d.pool.Run(len(o.items), o) }

// Do implements attention.Task.
func (o *appendOp) Do(i int) {
	it, a := o.items[i], o.a
	at, dim := (it.s.Row+it.row)*a.K.Cols+it.head*a.Dim, a.K.Cols
	o.cache.Write(it.s.Seq, a.Layer, it.head, it.s.Pos+it.row, it.n, a.K.Data[at:], a.V.Data[at:], dim)
}

// observeOp shows the queries of prompt rows to the pipelines that ask for them: a KV head of a segment a task.
type observeOp struct {
	d     *Device
	a     *device.Attention
	cache *kvcache.Host
	items []observeItem
}

type observeItem struct {
	s    *device.Segment
	p    *attention.Pipeline
	head int
}

// run shows the segments in prompt mode, whose keys are in the cache. Sliding-window layers are never sparse, so nobody asks for theirs.
func (o *observeOp) run(a *device.Attention, cache *kvcache.Host) {
	o.a, o.cache, o.items = a, cache, o.items[:0]
	for j := range a.Segments {
		s := &a.Segments[j]
		if s.Mode != device.Prompt || a.Window > 0 {
			continue
		}
		for _, p := range s.Observers {
			s.Seq.Memory.Prepare(p, cache.AttentionShape(a.Heads/a.KVHeads))
			for h := range a.KVHeads {
				o.items = append(o.items, observeItem{s, p, h})
			}
		}
	}
	if len(o.items) > 0 {
		o.d.pool.Run(len(o.items), o)
	}
}

// Do implements attention.Task.
func (o *observeOp) Do(i int) {
	it, a := o.items[i], o.a
	group := a.Heads / a.KVHeads
	it.p.Observe(&it.s.Seq.Memory, attention.Observation{Layer: a.Layer, KVHead: it.head, Group: group, Head: o.cache.Head(it.s.Seq, a.Layer, it.head, it.s.Pos+it.s.N),
		First: it.s.Pos, Rows: it.s.N, Q: a.Q.Data[it.s.Row*a.Q.Cols+it.head*group*a.Dim:], Stride: a.Q.Cols, Kern: o.d.kern})
}
