package cuda

import (
	"errors"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// Cache implements device.Cache and kvcache.Storage: the operator's slabs under a pool of blocks.
type Cache struct {
	*kvcache.Pool
	dev  *Device
	op   *Operator
	lone driver.Ptr // a block's number and how many tokens it has, for Rebuild
	q    driver.Ptr // fp16 rows of the step: queries, new keys and values
	k, v driver.Ptr
	near nearby
}

// nearby is a copy of one sequence's exact keys and values of one layer on the device, for prompts over a cache in host memory: every head and every tile of rows reads them.
type nearby struct{ k, v, table driver.Ptr } // blocks in order; table: 0, 1, …

// needs is what a step's rows need.
func (k *Cache) needs(s *Shape) []need {
	rows, blocks := k.dev.maxRows, attention.BlocksOf(s.Tokens)
	list := []need{{&k.lone, 16}, {&k.q, rows * s.KVHeads * s.Group * s.Dim * 2}, {&k.k, rows * s.KVHeads * s.Dim * 2}, {&k.v, rows * s.KVHeads * s.Dim * 2}}
	if s.Offload {
		n := blocks * s.blockBytes()
		list = append(list, need{&k.near.k, n}, need{&k.near.v, n}, need{&k.near.table, blocks * 4})
	}
	return list
}

// alloc takes what a step's rows need. Called inside Do.
func (k *Cache) alloc(c *driver.Context) error {
	o := k.op
	if err := o.take(c, k.needs(&o.Shape)); err != nil || !o.Offload {
		return err
	}
	order := make([]int32, o.stride)
	for i := range order {
		order[i] = int32(i)
	}
	return c.Upload(k.near.table, bytesOf(order))
}

// fetch makes p read the nearby copy instead of host memory, in which rows [pos,pos+n) of a prompt are already.
func (k *Cache) fetch(c *driver.Context, p *params, pos, n, window int) error {
	first, lib, bytes := 0, k.dev.lib, k.op.blockBytes()
	if window > 0 {
		first = max(0, pos+1-window) / attention.BlockTokens
	}
	blocks, skip := attention.BlocksOf(pos+n)-first, driver.Ptr(first*bytes)
	table := p.table + driver.Ptr(first*4)
	if err := errors.Join(lib.pick(c, k.dev.stream, k.near.k+skip, p.k, table, blocks, bytes), lib.pick(c, k.dev.stream, k.near.v+skip, p.v, table, blocks, bytes)); err != nil {
		return err
	}
	p.k, p.v, p.table = k.near.k, k.near.v, k.near.table
	return nil
}

// Close implements device.Cache.
func (k *Cache) Close() error {
	if k.op == nil {
		return nil
	}
	o := k.op
	k.op = nil
	return k.dev.gpu.Do(func(c *driver.Context) error {
		return errors.Join(c.Wait(k.dev.stream), k.dev.forget(c), o.freeMemory(c))
	})
}

// BlockBytes implements device.Cache.
func (k *Cache) BlockBytes() (exact, planes int) {
	one := k.op.Shape
	one.Blocks = 1
	for i := range max(one.Layers, 1) {
		var l slabs
		exact += total(one.exact(&l))
		planes += total(one.derived(i, &l))
	}
	return exact, planes
}

// Reset implements kvcache.Storage: nothing of an empty block is ever read.
func (*Cache) Reset(int32) {}

// Copy implements kvcache.Storage. What is derived of a block is copied if all of it is; if not it is made anew, from the sum that the block begins with.
func (k *Cache) Copy(dst, src int32, n int) {
	k.each(func(c *driver.Context, l *slabs, bytes []need) error {
		for i, b := range bytes {
			if *b.at == 0 || i >= exactSlabs && b.at != &l.valueSum && n < attention.BlockTokens {
				continue
			}
			each := driver.Ptr(b.bytes)
			if err := c.Copy(*b.at+driver.Ptr(dst)*each, *b.at+driver.Ptr(src)*each, b.bytes, k.dev.stream); err != nil {
				return err
			}
		}
		return nil
	})
	if n < attention.BlockTokens {
		k.Rebuild(dst, n)
	}
}

// Rebuild implements kvcache.Storage.
func (k *Cache) Rebuild(block int32, n int) {
	k.each(func(c *driver.Context, l *slabs, _ []need) error {
		if l == &k.op.layers[0] {
			if err := errors.Join(c.Wait(k.dev.stream), c.Upload(k.lone, bytesOf([]int32{block, int32(n)}))); err != nil {
				return err
			}
		}
		p := k.op.p
		p.table, p.lens, p.position, p.flags = k.lone, k.lone+4, 0, flagLone
		return k.op.encode(c, k.dev.stream, &p, 1, 1)
	})
}

// each runs f for every layer, with the sizes of one block of its slabs. A failure is the next step's.
func (k *Cache) each(f func(c *driver.Context, l *slabs, block []need) error) {
	one := k.op.Shape
	one.Blocks = 1
	err := k.dev.gpu.Do(func(c *driver.Context) error {
		for i := range k.op.layers {
			l := &k.op.layers[i]
			k.op.Layer(i)
			if err := f(c, l, append(one.exact(l), one.derived(i, l)...)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		k.dev.step.fail(err)
	}
}

// total is how many bytes a list needs.
func total(list []need) (n int) {
	for _, x := range list {
		n += x.bytes
	}
	return n
}

var _ kvcache.Storage = (*Cache)(nil)
