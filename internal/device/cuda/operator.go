// Package cuda runs whole models (Device) and, by itself, the attention operator (Operator) on NVIDIA GPUs, from a binary without cgo: the driver is loaded at run time
// and the kernels are embedded.
//
// A sparse decode step of attention is one launch, select, whose thread blocks attend to what they have selected, so that one captured graph stays valid while budgets change. Dense attention
// is one launch, whole.
package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// Shape is the geometry of an operator: the cache and the largest step.
type Shape struct {
	Dim     int // channels of a head: 64, 128 or 256
	KVHeads int
	Group   int // query heads that share a KV head: 1 to 8
	Batch   int // sequences of the largest step
	Blocks  int // blocks of attention.BlockTokens tokens in the cache
	Tokens  int // of the longest sequence
	// TokenCodes keeps the paper's INT4 keys as well, which Mode.TokenCodes reads.
	TokenCodes bool
	Layers     int    // 0: 1
	Plain      []bool // by layer, whether it is never sparse and keeps no codes; nil: none is
	// Offload keeps exact keys and values in pinned host memory, where the kernels read what they need of them: all but those of the first Resident layers, which are read whole.
	Offload  bool
	Resident int
}

// Mode is a pipeline as the operator runs it.
type Mode struct {
	Dense  bool    // read everything; nothing else counts
	Keep   float32 // share of the pages that are candidates, per query head or, if Shared, per group
	Pages  int     // but at least this many
	Reach  float32 // share of the way from the middle of a page's bounds to their far end that counts for its score; 1: the paper's upper bound
	Shared bool    // one page list for the group, by the head to which a page matters most
	// Mass is the share of the candidates' estimated mass that survives, and ExactMass of that what is read exactly; the other survivors count with their estimated logit
	// and a 4-bit value. Equal: all is read exactly.
	ExactMass, Mass float32
	PerHead         bool // each head attends to its own survivors only, not to the group's; needs ExactMass = Mass
	TokenCodes      bool // estimate from codes between a token's extremes (the paper's INT4) instead of a channel's over the block
	Tail            bool // what was pruned counts as its estimated mass times the mean value
	DenseBelow      int  // shorter sequences are read whole; 0: all where that is faster, and
	MinContext      int  // those that are shorter than this
}

// Paper is the pipeline of the Twilight paper (arXiv 2502.02770): pages per head, INT4 keys, top-p, exact attention per head.
func Paper(p float32) Mode {
	return Mode{Keep: 0.25, Reach: 1, ExactMass: p, Mass: p, PerHead: true, TokenCodes: true}
}

// Twilight is the house's pipeline: one page list for the group, precision by weight and a tail.
func Twilight(p float32) Mode {
	return Mode{Keep: 0.25, Reach: 0.5, Shared: true, ExactMass: 0.3, Mass: p, Tail: true}
}

// Operator is a cache on a device and the kernels over it, a layer at a time. All methods but Close must be called inside Device.Do of its device.
type Operator struct {
	Shape
	lib    *library
	kernel map[string]string // full names of kernels, by operation
	wholes int               // blocks of whole that the device holds
	ringed int               // and of ringed
	// SelectThreads is the size of thread blocks of sparse steps, 128, 256 or 512 (0: chosen by the number of blocks), and SelectRanks how many share a unit (0: chosen by the number of units).
	SelectThreads, SelectRanks int
	// NoClusters has dense steps done without clusters.
	NoClusters bool
	// Readable has all sparse steps leave in memory what Survivors and Candidates read.
	Readable               bool
	fewRooms, clusterRooms [maxRanks + 1]int // clusters of few, and of cluster, that the device holds at once, by their thread blocks
	fewMost                int               // bytes of dynamic shared memory that few may ask for
	p                      params
	stride                 int
	lens                   []int32 // as SetSequences was told
	layers                 []slabs
	owned                  []driver.Ptr
	pinned                 [][]byte
	hold                   params // the launch's copy: on the heap, and not allocated anew
}

// New allocates an operator's cache and scratch. Tables and lengths are set by SetSequences.
func New(c *driver.Context, dev *driver.Device, s Shape) (*Operator, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	lib, err := load(c, dev)
	if err != nil {
		return nil, err
	}
	o, err := newOperator(c, lib, s)
	if err != nil {
		return nil, errors.Join(err, lib.free(c))
	}
	return o, nil
}

// check holds a shape against what the kernels take.
func (s *Shape) check() error {
	if s.Dim != 64 && s.Dim != 128 && s.Dim != 256 || s.Group < 1 || s.Group > maxGroup || s.KVHeads < 1 || s.Batch < 1 || s.Blocks < 1 || s.Tokens < 1 || s.Tokens >= 1<<24 {
		return fmt.Errorf("cuda: attention of %d sequences, %d KV heads, groups of %d, %d channels, %d tokens: expected 64, 128 or 256 channels, groups of at most %d, under 2^24 tokens",
			s.Batch, s.KVHeads, s.Group, s.Dim, s.Tokens, maxGroup)
	}
	if float64(s.Blocks)*float64(s.KVHeads)*attention.BlockTokens >= 1<<31 {
		return fmt.Errorf("cuda: %d blocks of %d KV heads: expected under 2^31 rows", s.Blocks, s.KVHeads)
	}
	return nil
}

// newOperator is New with kernels that are loaded already.
func newOperator(c *driver.Context, lib *library, s Shape) (*Operator, error) {
	o := &Operator{Shape: s, lib: lib, kernel: map[string]string{}}
	o.stride = attention.BlocksOf(s.Tokens)
	if err := o.find(c); err != nil {
		return nil, err
	}
	if err := o.alloc(c); err != nil {
		return nil, errors.Join(err, o.freeMemory(c))
	}
	return o, nil
}

// rings is how much dynamic shared memory a thread block of select has: WarpMemory of kernels/attend.cuh for every warp.
func (o *Operator) rings(threads int) int {
	slots, slot := 768/o.Dim, attention.PageTokens*o.Dim/2+2*o.Dim+8
	if o.Dim > 128 {
		slots = 4
	}
	return threads / 32 * max((slots*slot+127)/128*128, 8192)
}

// wholeRings is how much shared memory a thread block of ringed has: WholeRing of kernels/whole.cuh for each of its four warps.
func (o *Operator) wholeRings() int {
	slots := 4
	if o.Dim > 128 {
		slots = 3
	}
	return 4 * slots * 16 * 2 * 2 * o.Dim
}

func (s *Shape) padded() int { return 1 << bits.Len(uint(s.Group-1)) }

func (o *Operator) find(c *driver.Context) error {
	for _, name := range []string{"append", "parts", "write", "encode", "sums", "whole", "ringed", "cluster"} {
		o.kernel[name] = fmt.Sprintf("%s_%d", name, o.Dim)
	}
	for _, name := range []string{"select", "few"} {
		o.kernel[name] = fmt.Sprintf("%s_%d_%d", name, o.Dim, o.padded())
	}
	o.kernel["copy"] = "copy"
	for _, name := range o.kernel {
		if err := o.lib.find(c, name); err != nil {
			return err
		}
	}
	if err := c.SetAttr(o.lib.fn[o.kernel["select"]], driver.FuncMaxDynamicShared, o.rings(maxThreads)); err != nil {
		return err
	}
	if o.lib.hopper {
		for _, name := range []string{"few", "cluster"} {
			if err := c.SetAttr(o.lib.fn[o.kernel[name]], driver.FuncNonPortableCluster, 1); err != nil {
				return err
			}
		}
		if err := o.findRooms(c); err != nil {
			return err
		}
	}
	if err := c.SetAttr(o.lib.fn[o.kernel["ringed"]], driver.FuncMaxDynamicShared, o.wholeRings()); err != nil {
		return err
	}
	for _, k := range []struct {
		name   string
		shared int
		blocks *int
	}{{"whole", 0, &o.wholes}, {"ringed", o.wholeRings(), &o.ringed}} {
		per, err := c.Occupancy(o.lib.fn[o.kernel[k.name]], 128, k.shared)
		if err != nil {
			return err
		}
		*k.blocks = max(per, 1) * o.lib.dev.Multiprocessor
	}
	return nil
}

// A unit that is read whole is cut into at most maxParts parts: few where there are many units.
func maxParts(units int) int { return min(max(maxItems/units, 4), 128) }

// maxItems is how many parts there may be in all, unless more than a quarter as many units need more.
const maxItems = 8192

func (o *Operator) alloc(c *driver.Context) error {
	units, maxBlocks := o.Batch*o.KVHeads, o.stride
	p := &o.p
	*p = params{batch: int32(o.Batch), kvHeads: int32(o.KVHeads), group: int32(o.Group), tableStride: int32(maxBlocks), maxBlocks: int32(maxBlocks),
		scale: float32(math.Log2E / math.Sqrt(float64(o.Dim))), processors: int32(o.lib.dev.Multiprocessor)}
	if err := o.allocLayers(c); err != nil {
		return err
	}
	if err := o.take(c, o.scratch(p)); err != nil {
		return err
	}
	for _, z := range []struct {
		at    driver.Ptr
		bytes int
	}{{p.control, 16}, {p.arrived, units * maxRanks * 4}} {
		if err := c.Fill(z.at, 0, z.bytes, 0); err != nil {
			return err
		}
	}
	return c.Synchronize()
}

// Free gives the memory of an operator of New back, and its kernels. No graph that holds its launches may run after.
func (o *Operator) Free(c *driver.Context) error {
	return errors.Join(o.freeMemory(c), o.lib.free(c))
}

func (o *Operator) freeMemory(c *driver.Context) error {
	var first error
	for _, p := range o.owned {
		if err := c.Free(p); err != nil && first == nil {
			first = err
		}
	}
	for _, b := range o.pinned {
		if err := c.FreeHost(b); err != nil && first == nil {
			first = err
		}
	}
	o.owned, o.pinned = nil, nil
	return first
}

// SetSequences sets block tables and lengths of the step's sequences. A length counts the token that Append adds.
func (o *Operator) SetSequences(c *driver.Context, tables [][]int32, lens []int32) error {
	if len(tables) > o.Batch || len(lens) != len(tables) {
		return fmt.Errorf("cuda: %d tables and %d lengths: expected as many, and at most %d", len(tables), len(lens), o.Batch)
	}
	flat, all, order := make([]int32, o.Batch*o.stride), make([]int32, o.Batch), make([]int32, o.Batch)
	for i, t := range tables {
		blocks := attention.BlocksOf(int(lens[i]))
		if lens[i] < 0 || blocks > len(t) || blocks > o.stride {
			return fmt.Errorf("cuda: sequence %d has %d tokens in %d blocks: expected at most %d tokens", i, lens[i], len(t), min(len(t), o.stride)*attention.BlockTokens)
		}
		for j, b := range t[:blocks] {
			if b < 0 || int(b) >= o.Blocks {
				return fmt.Errorf("cuda: sequence %d: block %d of the table is %d: expected 0 to %d", i, j, b, o.Blocks-1)
			}
		}
		copy(flat[i*o.stride:], t[:blocks])
		all[i] = lens[i]
	}
	longestFirst(order, all, nil)
	o.lens = all
	if err := errors.Join(c.Upload(o.p.table, bytesOf(flat)), c.Upload(o.p.order, bytesOf(order))); err != nil {
		return err
	}
	return c.Upload(o.p.lens, bytesOf(all))
}

// longestFirst sets order to the sequences by their lengths. keys is scratch, which it returns.
func longestFirst(order, lens []int32, keys []int64) []int64 {
	keys = keys[:0]
	for i, n := range lens {
		keys = append(keys, int64(-n)<<32|int64(i))
	}
	slices.Sort(keys)
	for i, k := range keys {
		order[i] = int32(k)
	}
	return keys
}

// Buffers are the addresses of a step's fp16 queries and outputs, [batch][KVHeads·Group][Dim], and of the keys and values that Append takes, [batch][KVHeads][Dim].
func (o *Operator) Buffers() (q, out, newK, newV driver.Ptr) {
	return o.p.q, o.p.out, o.p.newK, o.p.newV
}

func (o *Operator) launch(c *driver.Context, p *params, l driver.Launch, name string) error {
	return launch(o.lib, c, o.kernel[name], l, p)
}

// Write queues the copying of a prompt's rows into the cache: count tokens of a sequence from position on, for heads [head,head+heads). Token t of head h is at
// k[t·tokenStride+h·headStride:], in halves. Encode must follow.
func (o *Operator) Write(c *driver.Context, s driver.Stream, sequence, position, count, head, heads int, k, v driver.Ptr, tokenStride, headStride int) error {
	p := o.p
	p.newK, p.newV = k, v
	p.sequence, p.position, p.count, p.head = int32(sequence), int32(position), int32(count), int32(head)
	p.tokenStride, p.headStride = int32(tokenStride), int32(headStride)
	return o.launch(c, &p, driver.Launch{Grid: [3]int{count, heads}, Block: o.Dim / 8, Stream: s}, "write")
}

// Encode queues the making of all derived data of the first batch sequences.
func (o *Operator) Encode(c *driver.Context, s driver.Stream, batch int) error {
	return o.encode(c, s, &o.p, batch, o.stride)
}

// encode makes the derived data of sequences from the block of p.position on, in at most that many blocks. Layers without codes have none.
func (o *Operator) encode(c *driver.Context, s driver.Stream, p *params, batch, blocks int) error {
	if p.keyCodes == 0 {
		return nil
	}
	if err := o.launch(c, p, driver.Launch{Grid: [3]int{blocks, o.KVHeads, batch}, Block: 256, Stream: s}, "encode"); err != nil {
		return err
	}
	return o.launch(c, p, driver.Launch{Grid: [3]int{batch * o.KVHeads}, Block: o.Dim, Stream: s}, "sums")
}

// Append queues the adding of one token to each of the first batch sequences, at their lengths minus one.
func (o *Operator) Append(c *driver.Context, s driver.Stream, batch int) error {
	return o.append(c, s, batch, &appendParams{params: o.p})
}

// append is Append of what the parameters say. Few units have several thread blocks each where there are codes to make.
func (o *Operator) append(c *driver.Context, s driver.Stream, batch int, p *appendParams) error {
	units := batch * o.KVHeads
	l, name := driver.Launch{Grid: [3]int{units}, Block: 256, Stream: s, Early: true}, "append"
	if p.keyCodes != 0 && units <= 2*o.lib.dev.Multiprocessor {
		l.Grid[0], l.Block, name = units*appendParts, 128, "parts"
	}
	return launch(o.lib, c, o.kernel[name], l, p)
}

// Select queues the first of the Stages of a sparse step, for measuring; 0 is all of them.
func (o *Operator) Select(c *driver.Context, s driver.Stream, first, batch int, m Mode, stages int) error {
	if err := o.prepare(first, batch, m); err != nil {
		return err
	}
	tokens := o.held(first, batch)
	if m = o.decided(m, batch, tokens); m.Dense {
		return nil
	}
	o.hold.stages = int32(stages)
	return o.selectSurvivors(c, s, m, tokens)
}

// Attend queues the attention of sequences [first,first+batch) in the mode. It allocates nothing and can be captured; a mode that leaves it open whether selecting pays is decided
// by the lengths of now.
func (o *Operator) Attend(c *driver.Context, s driver.Stream, first, batch int, m Mode) error {
	if err := o.prepare(first, batch, m); err != nil {
		return err
	}
	tokens := o.held(first, batch)
	return o.attendHeld(c, s, o.decided(m, batch, tokens), tokens)
}

// attendHeld is Attend of the sequences that o.hold says, which have so many tokens together.
func (o *Operator) attendHeld(c *driver.Context, s driver.Stream, m Mode, tokens int) error {
	p := &o.hold
	if m.Dense {
		units := int(p.batch) * o.KVHeads
		if ranks, parts := o.clusters(units, tokens); ranks > 0 {
			p.ranks, p.parts = int32(ranks), int32(parts)
			return o.launch(c, p, o.clusterLaunch(units, parts, ranks, s), "cluster")
		}
		l, name := driver.Launch{Grid: [3]int{o.wholes}, Block: 128, Stream: s, Early: true}, "whole"
		if o.throughRings(units) {
			l.Grid[0], l.Shared, name = o.ringed, o.wholeRings(), "ringed"
		}
		p.attenders = int32(l.Grid[0])
		return o.launch(c, p, l, name)
	}
	return o.selectSurvivors(c, s, m, tokens)
}

// prepare sets the launch's parameters to those of sequences [first,first+batch).
func (o *Operator) prepare(first, batch int, m Mode) error {
	if m.PerHead && m.ExactMass != m.Mass || m.TokenCodes && !o.TokenCodes {
		return fmt.Errorf("cuda: attention mode %+v: per-head survivors are read exactly, and codes by token must be kept to be read", m)
	}
	if first < 0 || batch < 1 || first+batch > o.Batch {
		return fmt.Errorf("cuda: attention of sequences %d to %d: expected within 0 to %d", first, first+batch-1, o.Batch-1)
	}
	p := &o.hold
	*p = o.p
	p.maxParts, p.ranks = int32(maxParts(batch*o.KVHeads)), int32(o.ranks(batch))
	if batch < o.Batch {
		p.order = 0
	}
	skip := driver.Ptr(first)
	p.batch = int32(batch)
	p.table += skip * driver.Ptr(o.stride*4)
	p.lens += skip * 4
	p.q += skip * driver.Ptr(o.KVHeads*o.Group*o.Dim*2)
	p.out += skip * driver.Ptr(o.KVHeads*o.Group*o.Dim*2)
	return nil
}

// throughRings says whether whole sequences of so many units are read through rings: that pays for wide rows, one query head each, or where there are too few units to fill the device with
// loads. Measured on an H100.
func (o *Operator) throughRings(units int) bool { return o.Dim >= 128 && (o.Group == 1 || units <= 8) }

// ranks is how many thread blocks share a unit in a sparse step: as many as find room for all units at once, or the last would run alone.
func (o *Operator) ranks(batch int) int {
	if o.SelectRanks != 0 && o.lib.hopper {
		return o.SelectRanks
	}
	r := maxRanks
	for ; r > 1 && batch*o.KVHeads > o.fewRooms[r]; r-- {
	}
	return r
}

// maxThreads is the size of the largest thread block of select.
const maxThreads = 512

// threads is the size of a thread block of select: the largest, where each has a multiprocessor for itself.
func (o *Operator) threads(blocks int) int {
	if o.SelectThreads != 0 {
		return o.SelectThreads
	}
	if blocks <= o.lib.dev.Multiprocessor {
		return maxThreads
	}
	return maxThreads / 2
}

// selectSurvivors queues a sparse step of the sequences that o.hold says, which have so many tokens together.
func (o *Operator) selectSurvivors(c *driver.Context, s driver.Stream, m Mode, tokens int) error {
	p := &o.hold
	units := int(p.batch) * o.KVHeads
	for _, f := range []struct {
		on   bool
		flag int32
	}{{m.PerHead, flagPerHead}, {m.Shared, flagShared}, {m.TokenCodes, flagTokenCodes}, {m.Tail, flagTail}, {m.Keep >= 1, flagEveryPage}} {
		if f.on {
			p.flags |= f.flag
		}
	}
	p.keep, p.reach, p.budget, p.exactMass, p.mass, p.denseBelow = m.Keep, m.Reach, int32(m.Pages), m.ExactMass, m.Mass, int32(m.DenseBelow)
	if m.DenseBelow == 0 {
		p.denseBelow = int32(m.MinContext)
	}
	if ranks := int(p.ranks); ranks > 1 {
		l := o.fewLaunch(units, o.fewThreads(tokens/int(p.batch), ranks), ranks, s)
		if near := o.fewShared(ranks, l.Block, true); near <= o.fewMost && !o.Readable {
			l.Shared, p.flags = near, p.flags|flagNear
		}
		return o.launch(c, p, l, "few")
	}
	threads := o.threads(units)
	return o.launch(c, p, driver.Launch{Grid: [3]int{units}, Block: threads, Shared: o.rings(threads), Stream: s, Early: true}, "select")
}

// Copy queues a plain copy of bytes within the device, the yardstick of what its memory can do.
func (o *Operator) Copy(c *driver.Context, s driver.Stream, dst, src driver.Ptr, bytes int) error {
	p := params{out: dst, partial: src, count: int32(bytes / 16)}
	return o.launch(c, &p, driver.Launch{Grid: [3]int{o.lib.dev.Multiprocessor * 4}, Block: 512, Stream: s}, "copy")
}

func bytesOf[T int8 | int16 | uint16 | int32 | uint32 | float32 | float64](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}
