package cuda

import (
	"fmt"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// Shape implements kvcache.Exact.
func (k *Cache) Shape() kvcache.Shape {
	return kvcache.Shape{Layers: len(k.op.layers), KVHeads: k.op.KVHeads, Dim: k.op.Dim}
}

// ReadRows implements kvcache.Exact.
func (k *Cache) ReadRows(rows []uint16, layer, head int, kind kvcache.Kind, block int32) error {
	return k.rows(layer, head, kind, block, func(c *driver.Context, at driver.Ptr, offloaded []byte) error {
		if offloaded != nil {
			copy(bytesOf(rows), offloaded)
			return nil
		}
		return c.Download(bytesOf(rows), at)
	})
}

// WriteRows implements kvcache.Exact.
func (k *Cache) WriteRows(rows []uint16, layer, head int, kind kvcache.Kind, block int32) error {
	return k.rows(layer, head, kind, block, func(c *driver.Context, at driver.Ptr, offloaded []byte) error {
		if offloaded != nil {
			copy(offloaded, bytesOf(rows))
			return nil
		}
		return c.Upload(at, bytesOf(rows))
	})
}

// rows lets f have the rows of one head in a block, once the device has done what was queued: where they are on it, or the host memory that holds them.
func (k *Cache) rows(layer, head int, kind kvcache.Kind, block int32, f func(c *driver.Context, at driver.Ptr, offloaded []byte) error) error {
	o := k.op
	skip := (int(block)*o.KVHeads + head) * attention.BlockTokens * o.Dim * 2
	return k.dev.gpu.Do(func(c *driver.Context) error {
		if err := c.Wait(k.dev.stream); err != nil {
			return err
		}
		if o.offloaded(layer) {
			return f(c, 0, o.pinned[2*(layer-o.Resident)+int(kind)][skip:]) // as allocLayers takes them
		}
		slab := o.layers[layer].k
		if kind == kvcache.Values {
			slab = o.layers[layer].v
		}
		return f(c, slab+driver.Ptr(skip), nil)
	})
}

// Derive implements kvcache.Exact. It uses the operator's own table, which a device's steps do not.
func (k *Cache) Derive(s *kvcache.Sequence) error {
	o, table := k.op, s.Table()
	if len(table) > o.stride {
		return fmt.Errorf("cuda: a sequence of %d blocks of %d tokens: the cache was made for %d", len(table), attention.BlockTokens, o.stride)
	}
	return k.dev.gpu.Do(func(c *driver.Context) error {
		if err := c.Wait(k.dev.stream); err != nil {
			return err
		}
		if err := c.Upload(o.p.table, bytesOf(table)); err != nil {
			return err
		}
		if err := c.Upload(o.p.lens, bytesOf([]int32{int32(s.Len())})); err != nil {
			return err
		}
		for i := range o.layers {
			o.Layer(i)
			if err := o.encode(c, k.dev.stream, &o.p, 1, len(table)); err != nil {
				return err
			}
		}
		return c.Wait(k.dev.stream)
	})
}

var _ kvcache.Exact = (*Cache)(nil)
