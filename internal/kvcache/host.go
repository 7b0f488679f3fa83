package kvcache

import (
	"fmt"
	"math"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/mem"
)

// Shape is the geometry of a cache.
type Shape struct {
	Layers, KVHeads, Dim int
	// Exact lists, by layer, whether the layer is never sparse (a sliding-window layer): it then keeps no planes. Nil: all keep them.
	Exact []bool
	// What is to be expected, for devices that take memory for the largest step beforehand: query heads a KV head, sequences that decode together, tokens of the
	// longest, layers at the start that no pipeline selects in. A cache in host memory needs none of it.
	Group, Sequences, Tokens, Whole int
}

// Host is a cache in this machine's memory, outside the Go heap: for each layer and KV head one slab of fp16 keys, one of values and one per plane, all indexed by block.
type Host struct {
	*Pool
	shape  Shape
	planes []attention.Plane
	names  []string
	size   []int // bytes a block of each plane
	heads  []hostHead
	arena  []byte
	enc    attention.Encoder
}

type hostHead struct {
	k, v   []uint16
	planes [][]byte
}

// maxBytes is the most that a cache may take: the address space of a process.
const maxBytes = min(1<<47, math.MaxInt)

// NewHost makes a cache of blocks blocks of attention.BlockTokens tokens. Memory is committed as it is first written. It fails if the address space cannot be had.
func NewHost(s Shape, blocks int, planes []attention.Plane) (*Host, error) {
	if s.Layers < 1 || s.KVHeads < 1 || s.Dim < 1 || blocks < 1 || blocks > math.MaxInt32/attention.BlockTokens {
		return nil, fmt.Errorf("kvcache: %d layers, %d KV heads, %d channels, %d blocks: expected each at least 1, and at most %d blocks",
			s.Layers, s.KVHeads, s.Dim, blocks, math.MaxInt32/attention.BlockTokens)
	}
	c := hostOf(s, planes)
	total := float64(blocks) * float64(s.BlockBytes(planes)) // a product that may be beyond an int
	if total > maxBytes {
		return nil, fmt.Errorf("kvcache: %d blocks of %d tokens need %.0f bytes: expected at most %d", blocks, attention.BlockTokens, total, int64(maxBytes))
	}
	var err error
	if c.arena, err = mem.Alloc(int(total)); err != nil {
		return nil, fmt.Errorf("kvcache: reserving %.0f bytes for %d blocks of %d tokens: %w", total, blocks, attention.BlockTokens, err)
	}
	rest := c.arena
	cut := func(n int) []byte {
		b := rest[:n:n]
		rest = rest[n:]
		return b
	}
	kv := attention.BlockTokens * s.Dim * 2 * blocks
	for l := range s.Layers {
		for range s.KVHeads {
			h := hostHead{k: mem.Slice[uint16](cut(kv)), v: mem.Slice[uint16](cut(kv))}
			if c.keepsPlanes(l) {
				for _, n := range c.size {
					h.planes = append(h.planes, cut(n*blocks))
				}
			}
			c.heads = append(c.heads, h)
		}
	}
	c.Pool = NewPool(blocks, c)
	return c, nil
}

// hostOf is a cache without memory.
func hostOf(s Shape, planes []attention.Plane) *Host {
	c := &Host{shape: s, enc: attention.Portable{}}
	for _, p := range planes {
		c.planes = append(c.planes, p)
		c.names = append(c.names, p.Name())
		c.size = append(c.size, (p.BlockBytes(s.Dim)+63)/64*64)
	}
	return c
}

// BlockBytes is what a block takes in a Host of that shape, over all layers and heads.
func (s Shape) BlockBytes(planes []attention.Plane) int {
	exact, derived := hostOf(s, planes).BlockBytes()
	return exact + derived
}

// SetEncoder says who rounds keys and values and fills the planes: at first attention.Portable. To be called before the cache is written.
func (c *Host) SetEncoder(e attention.Encoder) { c.enc = e }

func (c *Host) keepsPlanes(layer int) bool { return c.shape.Exact == nil || !c.shape.Exact[layer] }

// blockBytes is the size of a block of one KV head of a layer.
func (c *Host) blockBytes(layer int) int {
	n := attention.BlockTokens * c.shape.Dim * 4
	if c.keepsPlanes(layer) {
		for _, b := range c.size {
			n += b
		}
	}
	return n
}

// Shape is what the cache was made for.
func (c *Host) Shape() Shape { return c.shape }

// AttentionShape is the cache's geometry for a model with that many query heads a KV head.
func (c *Host) AttentionShape(group int) attention.Shape {
	return attention.Shape{Layers: c.shape.Layers, KVHeads: c.shape.KVHeads, Group: group, Dim: c.shape.Dim}
}

// PlaneNames names the planes of Head in order.
func (c *Host) PlaneNames() []string { return c.names }

// BlockBytes is what one block costs over all layers and heads: exact keys and values, and planes.
func (c *Host) BlockBytes() (exact, planes int) {
	for l := range c.shape.Layers {
		exact += c.shape.KVHeads * attention.BlockTokens * c.shape.Dim * 4
		planes += c.shape.KVHeads * (c.blockBytes(l) - attention.BlockTokens*c.shape.Dim*4)
	}
	return exact, planes
}

// Close frees the memory. No Head of the cache may be used after it.
func (c *Host) Close() error {
	a := c.arena
	c.arena, c.heads = nil, nil
	if a == nil {
		return nil
	}
	return mem.Free(a)
}

// Head views the first n tokens of a sequence of this cache. Layers that keep no planes answer with none.
func (c *Host) Head(s *Sequence, layer, head, n int) attention.Head {
	h := &c.heads[layer*c.shape.KVHeads+head]
	return attention.Head{Dim: c.shape.Dim, N: n, Table: s.table, K: h.k, V: h.v, Planes: h.planes, PlaneSize: c.size}
}

// Write stores the keys and values of n tokens of one layer and KV head at positions pos… of a sequence, rounded to fp16 (saturating), and brings the planes up to date. Token i
// is at k[i*stride:]. Reserve must have made the room. Different layers and heads may be written concurrently.
func (c *Host) Write(s *Sequence, layer, head, pos, n int, k, v []float32, stride int) {
	h, dim := &c.heads[layer*c.shape.KVHeads+head], c.shape.Dim
	for i := 0; i < n; {
		block, from := s.table[(pos+i)/attention.BlockTokens], (pos+i)%attention.BlockTokens
		m := min(n-i, attention.BlockTokens-from)
		base := int(block) * attention.BlockTokens * dim
		for j := range m {
			at := base + (from+j)*dim
			c.enc.Halves(h.k[at:at+dim], k[(i+j)*stride:][:dim])
			c.enc.Halves(h.v[at:at+dim], v[(i+j)*stride:][:dim])
		}
		c.append(layer, head, block, from, from+m)
		i += m
	}
}

func (c *Host) append(layer, head int, block int32, from, to int) {
	h := &c.heads[layer*c.shape.KVHeads+head]
	n := attention.BlockTokens * c.shape.Dim
	base := int(block) * n
	rows := attention.Rows{Layer: layer, KVHead: head, K: h.k[base : base+n], V: h.v[base : base+n], Dim: c.shape.Dim, From: from, To: to, Enc: c.enc}
	for p, slab := range h.planes {
		size := c.size[p]
		c.planes[p].Append(slab[int(block)*size:][:size], rows)
	}
}

// Reset implements Storage.
func (c *Host) Reset(block int32) {
	for i := range c.heads {
		for p, slab := range c.heads[i].planes {
			clear(slab[int(block)*c.size[p]:][:c.size[p]])
		}
	}
}

// Copy implements Storage.
func (c *Host) Copy(dst, src int32, n int) {
	words, size := n*c.shape.Dim, attention.BlockTokens*c.shape.Dim
	for i := range c.heads {
		h := &c.heads[i]
		copy(h.k[int(dst)*size:][:words], h.k[int(src)*size:])
		copy(h.v[int(dst)*size:][:words], h.v[int(src)*size:])
	}
	c.Rebuild(dst, n)
}

// Rebuild implements Storage.
func (c *Host) Rebuild(block int32, n int) {
	c.Reset(block)
	for i := range c.heads {
		c.append(i/c.shape.KVHeads, i%c.shape.KVHeads, block, 0, n)
	}
}
