package cuda

import (
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// countEvery is of how many steps of a pipeline one is counted, the first to begin with: reading the counts back takes time. Scored texts, many tokens a step, are
// counted always, and so is the first step of a sequence's statistics, which a short answer would leave empty otherwise; but only if it is the first of at least every
// eighth sequence of the step: in a large batch somebody begins in nearly every step.
const countEvery = 8

// counting is the scratch of count.
type counting struct {
	steps  map[*attention.Pipeline]int
	pinned []byte // by layer that keeps codes: what slabs.counts and slabs.sums of the units in use are
	counts []int32
	sums   []float32
	head   attention.Counted
	// The segments to count: those of the step's last launch, because a later launch overwrites what an earlier one counted.
	first, n int
}

// countBytes and sumBytes are what a unit's counts and sums take.
const countBytes, sumBytes = maxRanks * 8, maxRanks * maxGroup * 16

// count adds what the step's sparse attention did to the sequences' statistics. Scored texts of several rows are counted by their last row.
func (d *Device) count(p *device.Plan) error {
	k := &d.counting
	var sparse *attention.Pipeline
	always, first := false, 0
	for i := range p.Segments {
		if seg := &p.Segments[i]; seg.Mode == device.Decode && seg.Stats != nil && !seg.Pipeline.Spec().Dense() {
			sparse, always = seg.Pipeline, always || seg.N > 1
			if len(seg.Stats.Layers) == 0 {
				first++
			}
		}
	}
	if sparse == nil {
		return nil
	}
	if k.steps[sparse]++; k.steps[sparse]%countEvery != 1 && !always && (first == 0 || first*countEvery < len(p.Segments)) {
		return nil
	}
	o := p.Cache.(*Cache).op
	for k.first = 0; ; k.first += k.n {
		if k.n = o.together(p.Segments, k.first); k.first+k.n == len(p.Segments) {
			break
		}
	}
	if last := &p.Segments[k.first]; last.Mode != device.Decode || last.Pipeline.Spec().Dense() {
		return nil
	}
	return d.gpu.Do(d.step.jobs.count)
}

// countStep is count on the driver's thread. All layers are queued before any is waited for.
func (d *Device) countStep(c *driver.Context) error {
	k, p := &d.counting, d.step.plan
	o := p.Cache.(*Cache).op
	units := k.n * o.KVHeads
	each := units * (countBytes + sumBytes)
	if need := each * len(o.layers); need > len(k.pinned) {
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
	from := p.Segments[k.first].Pipeline.Spec().DenseLayers
	for layer := from; layer < len(o.layers); layer++ {
		if slab, at := &o.layers[layer], k.pinned[layer*each:][:each]; o.coded(layer) {
			if err := c.DownloadAsync(at[:units*countBytes], slab.counts, d.stream); err != nil {
				return err
			}
			if err := c.DownloadAsync(at[units*countBytes:], slab.sums, d.stream); err != nil {
				return err
			}
		}
	}
	if err := c.Wait(d.stream); err != nil {
		return err
	}
	ranks := o.ranks(k.n)
	for layer := from; layer < len(o.layers); layer++ {
		if !o.coded(layer) {
			continue
		}
		at := unsafe.Pointer(&k.pinned[layer*each])
		k.counts, k.sums = unsafe.Slice((*int32)(at), units*countBytes/4), unsafe.Slice((*float32)(unsafe.Add(at, units*countBytes)), units*sumBytes/4)
		for u := range units {
			if seg := &p.Segments[k.first+u/o.KVHeads]; seg.Stats != nil {
				d.countUnit(o, seg, layer, u, ranks)
			}
		}
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
