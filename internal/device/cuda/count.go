package cuda

import (
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// countEvery is of how many steps of a pipeline one is counted, the first to begin with: the counts must be read back layer by layer, which takes as long as a short
// step. Scored texts, many tokens a step, are counted always, and so is the first step of a sequence's statistics, which a short answer would leave empty otherwise.
const countEvery = 8

// counting is the scratch of count.
type counting struct {
	steps  map[*attention.Pipeline]int
	counts []int32
	sums   []float32
	head   attention.Counted
}

// count adds what the step's sparse attention did to the sequences' statistics. Scored texts of several rows are counted by their last row.
func (d *Device) count(p *device.Plan) error {
	k := &d.counting
	var sparse *attention.Pipeline
	always := false
	for i := range p.Segments {
		if seg := &p.Segments[i]; seg.Mode == device.Decode && seg.Stats != nil && !seg.Pipeline.Spec().Dense() {
			sparse, always = seg.Pipeline, always || seg.N > 1 || len(seg.Stats.Layers) == 0
		}
	}
	if sparse == nil {
		return nil
	}
	if k.steps[sparse]++; k.steps[sparse]%countEvery != 1 && !always {
		return nil
	}
	cache := p.Cache.(*Cache)
	return d.gpu.Do(func(c *driver.Context) error {
		if err := c.Wait(d.stream); err != nil {
			return err
		}
		for layer := range cache.op.layers {
			if err := d.countLayer(c, p, cache.op, layer); err != nil {
				return err
			}
		}
		return nil
	})
}

// countLayer reads one layer's counts, launch by launch as Attend made them.
func (d *Device) countLayer(c *driver.Context, p *device.Plan, o *Operator, layer int) error {
	if !o.coded(layer) {
		return nil
	}
	k, slab := &d.counting, &o.layers[layer]
	for j := 0; j < len(p.Segments); {
		n := o.together(p.Segments, j)
		first := &p.Segments[j]
		if first.Mode == device.Decode && first.Pipeline.Sparse(layer, first.Pos+first.N) && j+n == len(p.Segments) { // a later launch has overwritten what earlier ones counted
			units, ranks := n*o.KVHeads, o.ranks(n)
			k.counts, k.sums = room(k.counts, units*maxRanks*2), room(k.sums, units*maxRanks*maxGroup*4)
			if err := c.Download(bytesOf(k.counts), slab.counts); err != nil {
				return err
			}
			if err := c.Download(bytesOf(k.sums), slab.sums); err != nil {
				return err
			}
			for u := range units {
				if seg := &p.Segments[j+u/o.KVHeads]; seg.Stats != nil {
					d.countUnit(o, seg, layer, u, ranks)
				}
			}
		}
		j += n
	}
	return nil
}

// countUnit adds one KV head of one sequence.
func (d *Device) countUnit(o *Operator, seg *device.Segment, layer, u, ranks int) {
	k, head, n := &d.counting, u%o.KVHeads, seg.Pos+seg.N
	counts := k.counts[u*maxRanks*2:]
	if counts[0] < 0 {
		seg.Stats.CountDense(layer, head, o.Group)
		return
	}
	h := &k.head
	h.Candidates, h.Own = room(h.Candidates, o.Group), room(h.Own, o.Group)
	clear(h.Candidates)
	clear(h.Own)
	h.N, h.Union, h.Body = n, 0, 0
	most := 0
	for r := range ranks {
		h.Union += int(counts[2*r])
		h.Body += int(counts[2*r+1])
		for g := range o.Group {
			s := k.sums[((u*maxRanks+r)*maxGroup+g)*4:]
			h.Own[g] += int(s[2])
			h.Candidates[g] += int(s[3])
			most = max(most, h.Candidates[g])
		}
	}
	if m, err := ModeOf(seg.Pipeline); err == nil {
		h.Bytes = o.Read(m, n, most, h.Union, h.Body)
	}
	seg.Stats.Count(layer, head, h)
}

// room is a slice of n elements, s's if it has them.
func room[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
