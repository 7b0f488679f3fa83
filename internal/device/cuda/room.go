package cuda

import (
	"errors"
	"fmt"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/mem"
)

// shapeOf is the operator's geometry for a cache.
func (d *Device) shapeOf(s kvcache.Shape, blocks int, planes []attention.Plane) (Shape, error) {
	shape := Shape{Dim: s.Dim, KVHeads: s.KVHeads, Group: max(s.Group, 1), Batch: min(max(s.Sequences, 1), maxBatch), Blocks: blocks, Tokens: s.Tokens, Layers: s.Layers, Offload: d.offload, Resident: s.Whole}
	if shape.Tokens == 0 {
		shape.Tokens = blocks * attention.BlockTokens
	}
	shape.Plain = make([]bool, s.Layers)
	for i := range shape.Plain {
		shape.Plain[i] = len(planes) == 0 || i < s.Whole || s.Exact != nil && s.Exact[i]
	}
	for _, p := range planes {
		shape.TokenCodes = shape.TokenCodes || p.Name() == (attention.Int4{}).Name()
	}
	return shape, shape.check()
}

// What a cache leaves for what is taken later: recorded graphs, vectors and lists; and what the driver may round each of its pieces of memory up by.
const (
	spareBytes = 256 << 20
	pieceBytes = 2 << 20
)

// Room implements device.Device.
func (d *Device) Room(s kvcache.Shape, planes []attention.Plane) (device.Room, error) {
	shape, err := d.shapeOf(s, 1, planes)
	if err != nil {
		return device.Room{}, err
	}
	return d.room(&shape)
}

func (d *Device) room(shape *Shape) (r device.Room, err error) {
	one, pieces := *shape, 0
	one.Blocks = 1
	var l slabs
	for i := range max(one.Layers, 1) {
		exact, derived := one.exact(&l), one.derived(i, &l)
		if pieces += len(exact) + len(derived); one.offloaded(i) {
			r.HostBlock += int64(total(exact))
		} else {
			r.Block += int64(total(exact))
		}
		r.Block += int64(total(derived))
		r.Step += int64(total(one.counted(&l)))
	}
	k := Cache{dev: d}
	r.Step += int64(total(one.scratch(&params{})) + total(k.needs(&one)) + spareBytes + pieces*pieceBytes)
	if r.HostBlock > 0 {
		r.HostFree = mem.Available()
	}
	err = d.gpu.Do(func(c *driver.Context) error {
		r.Free, err = d.free(c)
		return err
	})
	return r, err
}

// free is how many bytes of the device's memory can be taken still, at least 1: what is free, and within the limit of Options.Memory.
func (d *Device) free(c *driver.Context) (int64, error) {
	n, _, err := c.Memory()
	free := int64(n)
	if d.most > 0 && d.began > 0 {
		free = min(free, d.most-(d.began-free))
	}
	return max(free, 1), err
}

// Cache implements device.Device. It takes the memory of the largest step too, and refuses with both numbers what does not fit.
func (d *Device) Cache(s kvcache.Shape, blocks int, planes []attention.Plane) (device.Cache, error) {
	shape, err := d.shapeOf(s, blocks, planes)
	if err != nil {
		return nil, err
	}
	r, err := d.room(&shape)
	if err != nil {
		return nil, err
	}
	if n := r.Blocks(); blocks > n {
		what, need, free := "the GPU", r.Step+int64(blocks)*r.Block, r.Free
		if need <= free {
			what, need, free = "this machine", int64(blocks)*r.HostBlock, r.HostFree
		}
		return nil, fmt.Errorf("cuda: a cache of %d blocks of %d tokens needs %d MiB on %s, where %d are free: room for %d blocks, which is %d sequences of %d tokens",
			blocks, attention.BlockTokens, need>>20, what, free>>20, n, n/attention.BlocksOf(shape.Tokens), shape.Tokens)
	}
	k := &Cache{dev: d}
	err = d.gpu.Do(func(c *driver.Context) (err error) {
		if k.op, err = newOperator(c, d.lib, shape); err != nil {
			return err
		}
		if err := d.lib.findRows(c, shape.Dim); err != nil {
			return err
		}
		return k.alloc(c)
	})
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	k.Pool = kvcache.NewPool(blocks, k)
	return k, nil
}
