package cuda

import (
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// countFew is of how many sequences at most, decoding together, the first step of a new one's statistics is counted in all layers: in larger batches somebody begins in nearly every step.
const countFew = 8

// counting is the scratch of count. A step's sparse attention is counted in one layer, another one every time, and added to the statistics while the next step runs: reading
// back takes time. Scored texts, many tokens a step, are counted in all layers at once, and so is the first step of a sequence's statistics, which a short answer would leave empty
// otherwise.
type counting struct {
	steps  map[*attention.Pipeline]int
	pinned []byte // by counted layer: what slabs.counts and slabs.sums of the units in use are
	counts []int32
	sums   []float32
	head   attention.Counted
	op     *Operator
	// The segments to count: those of the step's last launch, because a later launch overwrites what an earlier one counted. Their statistics wait for a step that has them, too.
	first   int
	waiting []counted
	layers  []int // those that are counted
}

// counted is what is counted of a segment.
type counted struct {
	stats    *attention.Stats
	pipeline *attention.Pipeline
	tokens   int
}

// countBytes and sumBytes are what a unit's counts and sums take.
const countBytes, sumBytes = maxRanks * 8, maxRanks * maxGroup * 16

// count begins to count what the step's sparse attention did. Scored texts of several rows are counted by their last row.
func (d *Device) count(p *device.Plan) error {
	k := &d.counting
	var sparse *attention.Pipeline
	all := false
	for i := range p.Segments {
		if seg := &p.Segments[i]; seg.Mode == device.Decode && seg.Stats != nil && !seg.Pipeline.Spec().Dense() {
			sparse, all = seg.Pipeline, all || seg.N > 1 || len(seg.Stats.Layers) == 0 && len(p.Segments) <= countFew
		}
	}
	k.waiting = k.waiting[:0]
	if sparse == nil {
		return nil
	}
	k.op = p.Cache.(*Cache).op
	n := 0
	for k.first = 0; ; k.first += n {
		if n = k.op.together(p.Segments, k.first); k.first+n == len(p.Segments) {
			break
		}
	}
	last := p.Segments[k.first:]
	if last[0].Mode != device.Decode || last[0].Pipeline.Spec().Dense() {
		return nil
	}
	for i := range last {
		k.waiting = append(k.waiting, counted{last[i].Stats, last[i].Pipeline, last[i].Pos + last[i].N})
	}
	k.layers = k.layers[:0]
	for layer := last[0].Pipeline.Spec().DenseLayers; layer < len(k.op.layers); layer++ {
		if k.op.coded(layer) {
			k.layers = append(k.layers, layer)
		}
	}
	if k.steps[sparse]++; !all && len(k.layers) > 0 {
		k.layers = append(k.layers[:0], k.layers[k.steps[sparse]%len(k.layers)])
	}
	err := d.gpu.Do(d.step.jobs.count)
	if err == nil && all {
		if err = d.gpu.Do(d.step.jobs.wait); err == nil {
			d.counted(p)
		}
	}
	return err
}

// countStep queues, inside Do, the reading back of all layers that are counted.
func (d *Device) countStep(c *driver.Context) error {
	k := &d.counting
	units := len(k.waiting) * k.op.KVHeads
	each := units * (countBytes + sumBytes)
	if need := each * len(k.layers); need > len(k.pinned) {
		if k.pinned != nil {
			if err := c.FreeHost(k.pinned); err != nil {
				return err
			}
		}
		var err error
		if k.pinned, err = c.AllocHost(need + need/2); err != nil {
			k.pinned = nil
			return err
		}
	}
	for i, layer := range k.layers {
		slab, at := &k.op.layers[layer], k.pinned[i*each:][:each]
		if err := c.DownloadAsync(at[:units*countBytes], slab.counts, d.stream); err != nil {
			return err
		}
		if err := c.DownloadAsync(at[units*countBytes:], slab.sums, d.stream); err != nil {
			return err
		}
	}
	return nil
}

// counted adds what was read back to the statistics of those sequences that the step has as well: nobody else looks at them now.
func (d *Device) counted(p *device.Plan) {
	k := &d.counting
	for i := range k.waiting {
		w := &k.waiting[i]
		if at := k.first + i; at >= len(p.Segments) || p.Segments[at].Stats != w.stats || w.stats == nil || p.Segments[at].Pipeline != w.pipeline {
			continue
		}
		units, ranks := len(k.waiting)*k.op.KVHeads, k.op.ranks(len(k.waiting))
		for j, layer := range k.layers {
			at := unsafe.Pointer(&k.pinned[j*units*(countBytes+sumBytes)])
			k.counts, k.sums = unsafe.Slice((*int32)(at), units*countBytes/4), unsafe.Slice((*float32)(unsafe.Add(at, units*countBytes)), units*sumBytes/4)
			for head := range k.op.KVHeads {
				d.countUnit(w, layer, head, i*k.op.KVHeads+head, ranks)
			}
		}
	}
	k.waiting = k.waiting[:0]
}

// countUnit adds unit u, one KV head of one sequence.
func (d *Device) countUnit(w *counted, layer, head, u, ranks int) {
	k, n := &d.counting, w.tokens
	o := k.op
	counts := k.counts[u*maxRanks*2:]
	if counts[0] < 0 {
		w.stats.CountDense(layer, head, o.Group)
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
	if m, err := ModeOf(w.pipeline); err == nil {
		h.Bytes = o.Read(m, n, most, h.Union, h.Body)
	}
	w.stats.Count(layer, head, h)
}

// room is a slice of n elements, s's if it has them.
func room[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
