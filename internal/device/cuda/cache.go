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
}

// alloc takes what a step's rows need. Called on the device's thread.
func (k *Cache) alloc(c *driver.Context) error {
	o, rows := k.op, k.dev.maxRows
	return o.take(c, []need{{&k.lone, 16}, {&k.q, rows * o.KVHeads * o.Group * o.Dim * 2}, {&k.k, rows * o.KVHeads * o.Dim * 2}, {&k.v, rows * o.KVHeads * o.Dim * 2}})
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

// Copy implements kvcache.Storage.
func (k *Cache) Copy(dst, src int32, n int) {
	k.each(func(c *driver.Context, l *slabs, bytes []need) error {
		for _, b := range bytes {
			if *b.at == 0 {
				continue
			}
			each := driver.Ptr(b.bytes)
			if err := c.Copy(*b.at+driver.Ptr(dst)*each, *b.at+driver.Ptr(src)*each, b.bytes, k.dev.stream); err != nil {
				return err
			}
		}
		return nil
	})
	k.Rebuild(dst, n)
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

// blocksOf is how many blocks hold n tokens.
func blocksOf(n int) int { return (n + attention.BlockTokens - 1) / attention.BlockTokens }
