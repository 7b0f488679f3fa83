package cpu

import (
	"sync/atomic"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu/kernel"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// promptOp is dense causal attention of prompt rows: a KV head and a tile of a segment's rows a task.
type promptOp struct {
	d     *Device
	a     *device.Attention
	cache *kvcache.Host
	items []promptItem
	tmp   []promptTmp // one a worker, taken for the length of a task
}

type promptItem struct {
	s       *device.Segment
	head    int
	row, n  int
	kv      attention.Head
	prefill kernel.Prefill
}

type promptTmp struct {
	busy atomic.Bool
	buf  []float32
}

// tileQueries is how many query rows, heads of a group counted, a tile has: enough that widening keys and values costs little, few enough that their running sums stay in
// the second-level cache.
const tileQueries = 192

// run attends for the segments in prompt mode, whose keys and values are in the cache.
func (o *promptOp) run(a *device.Attention, cache *kvcache.Host) {
	o.a, o.cache = a, cache
	o.items = o.items[:0]
	group := a.Heads / a.KVHeads
	tile := max(tileQueries/group, 1)
	for j := range a.Segments {
		s := &a.Segments[j]
		if s.Mode != device.Prompt {
			continue
		}
		for last := s.N; last > 0; last -= min(tile, last) { // the latest rows see the most, so they go first
			n := min(tile, last)
			for h := range a.KVHeads {
				o.items = append(o.items, promptItem{s: s, head: h, row: last - n, n: n})
			}
		}
	}
	if len(o.items) == 0 {
		return
	}
	if o.tmp == nil {
		o.tmp = make([]promptTmp, o.d.Threads())
	}
	need := kernel.PrefillTmp(tile, group, a.Dim)
	for i := range o.tmp {
		if len(o.tmp[i].buf) < need {
			o.tmp[i].buf = make([]float32, need)
		}
	}
	o.d.pool.Run(len(o.items), o)
}

// Do implements attention.Task.
func (o *promptOp) Do(i int) {
	it, a := &o.items[i], o.a
	tmp := o.take()
	defer tmp.busy.Store(false)
	group, pos, row := a.Heads/a.KVHeads, it.s.Pos+it.row, it.s.Row+it.row
	at := row*a.Q.Cols + it.head*group*a.Dim
	it.kv = o.cache.Head(it.s.Seq, a.Layer, it.head, pos+it.n)
	it.prefill = kernel.Prefill{Dst: a.Out.Data[at:], Q: a.Q.Data[at:], Stride: a.Q.Cols, Head: &it.kv, Pos: pos, Rows: it.n, Group: group, Window: a.Window, Tmp: tmp.buf}
	o.d.kern.Prefill(&it.prefill)
}

// take finds scratch that no other task uses; there is as much as there are workers.
func (o *promptOp) take() *promptTmp {
	for {
		for i := range o.tmp {
			if t := &o.tmp[i]; t.busy.CompareAndSwap(false, true) {
				return t
			}
		}
	}
}
