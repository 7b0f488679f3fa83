package cuda

import (
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// slabs is one layer's memory: the cache, and what its last sparse step counted.
type slabs struct {
	k, v, ranges, bounds, keyCodes, valueCodes, valueScale, valueSum, tokenCodes, tokenScale driver.Ptr
	counts, sums                                                                             driver.Ptr
}

// need is a piece of memory and where its address goes.
type need struct {
	at    *driver.Ptr
	bytes int
}

// exactSlabs is how many pieces exact lists.
const exactSlabs = 2

// exact is what a layer's exact keys and values need.
func (s *Shape) exact(l *slabs) []need {
	bytes := s.Blocks * s.blockBytes()
	return []need{{&l.k, bytes}, {&l.v, bytes}}
}

// blockBytes is what the exact keys of a block take in a layer, and the values.
func (s *Shape) blockBytes() int { return s.KVHeads * attention.BlockTokens * s.Dim * 2 }

// derived is what a layer's codes and metadata need; nothing in a layer that keeps none.
func (s *Shape) derived(i int, l *slabs) []need {
	if !s.coded(i) {
		return nil
	}
	bh := s.Blocks * s.KVHeads
	rows := bh * attention.BlockTokens
	list := []need{{&l.ranges, bh * s.Dim * 4}, {&l.bounds, bh * attention.BlockPages * s.Dim}, {&l.keyCodes, rows * s.Dim / 2}, {&l.valueCodes, rows * s.Dim / 2},
		{&l.valueScale, rows * s.Dim / 8}, {&l.valueSum, bh * s.Dim * 8}}
	if s.TokenCodes {
		list = append(list, need{&l.tokenCodes, rows * s.Dim / 2}, need{&l.tokenScale, rows * 4})
	}
	return list
}

// counted is what a layer's statistics need.
func (s *Shape) counted(l *slabs) []need {
	units := s.Batch * s.KVHeads
	return []need{{&l.counts, units * maxRanks * 8}, {&l.sums, units * maxRanks * maxGroup * 16}}
}

// items is how many the queue of work holds.
func (s *Shape) items() int { return max(maxItems, 4*s.Batch*s.KVHeads) }

// scratch is what the largest step needs besides.
func (s *Shape) scratch(p *params) []need {
	units, blocks := s.Batch*s.KVHeads, attention.BlocksOf(s.Tokens)
	rows, items, queries := blocks*attention.BlockTokens, s.items(), units*s.Group*s.Dim*2
	return []need{{&p.table, s.Batch * blocks * 4}, {&p.lens, s.Batch * 4}, {&p.order, s.Batch * 4},
		{&p.q, queries}, {&p.out, queries}, {&p.bases, units * blocks * maxGroup * 8}, {&p.scores, units * s.padded() * blocks * attention.BlockPages * 4},
		{&p.pages, units * blocks * attention.BlockPages}, {&p.candidates, units * blocks * attention.BlockPages * 4},
		{&p.logits, units * rows * s.padded() * 2}, {&p.list, units * rows * 4}, {&p.listParts, units * maxRanks * maxWarps * 16}, {&p.reference, units * maxGroup * 4}, {&p.control, 16}, {&p.partial, items * maxGroup * s.Dim * 4}, {&p.partialTop, items * maxGroup * 8},
		{&p.arrived, units * maxRanks * 4}, {&p.newK, units * s.Dim * 2}, {&p.newV, units * s.Dim * 2}}
}

// coded says whether a layer keeps codes.
func (s *Shape) coded(layer int) bool { return s.Plain == nil || !s.Plain[layer] }

// offloaded says whether a layer's exact keys and values are in host memory.
func (s *Shape) offloaded(layer int) bool { return s.Offload && layer >= s.Resident }

// Bytes is what the cache takes on the device, and in host memory if exact rows are there.
func (s *Shape) Bytes() (device, host int) {
	var l slabs
	for i := range max(s.Layers, 1) {
		if exact := total(s.exact(&l)); s.offloaded(i) {
			host += exact
		} else {
			device += exact
		}
		device += total(s.derived(i, &l)) + total(s.counted(&l))
	}
	return device, host
}

// take allocates device memory that Free gives back.
func (o *Operator) take(c *driver.Context, list []need) error {
	for _, a := range list {
		p, err := c.Alloc(a.bytes)
		if err != nil {
			return err
		}
		*a.at = p
		o.owned = append(o.owned, p)
	}
	return nil
}

// pin allocates host memory that the device reads in place.
func (o *Operator) pin(c *driver.Context, list []need) error {
	for _, a := range list {
		b, err := c.AllocHost(a.bytes)
		if err != nil {
			return err
		}
		*a.at = driver.Ptr(unsafe.Pointer(&b[0]))
		o.pinned = append(o.pinned, b)
	}
	return nil
}

// allocLayers makes the layers' memory.
func (o *Operator) allocLayers(c *driver.Context) error {
	o.layers = make([]slabs, max(o.Layers, 1))
	for i := range o.layers {
		l, exact := &o.layers[i], o.take
		if o.offloaded(i) {
			exact = o.pin
		}
		if err := exact(c, o.exact(l)); err != nil {
			return err
		}
		if err := o.take(c, append(o.derived(i, l), o.counted(l)...)); err != nil {
			return err
		}
	}
	o.Layer(0)
	return nil
}

// Layer makes a layer the one that later calls are about; 0 at first.
func (o *Operator) Layer(i int) {
	l, p := &o.layers[i], &o.p
	p.k, p.v, p.ranges, p.bounds, p.keyCodes, p.valueCodes = l.k, l.v, l.ranges, l.bounds, l.keyCodes, l.valueCodes
	p.valueScale, p.valueSum, p.tokenCodes, p.tokenScale, p.counts, p.sums = l.valueScale, l.valueSum, l.tokenCodes, l.tokenScale, l.counts, l.sums
}
