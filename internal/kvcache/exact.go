package kvcache

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/twilight-go/twilight/attention"
)

// Kind says which of a cache's exact rows are meant.
type Kind int

// The kinds of rows, in the order in which a saved cache has them.
const (
	Keys Kind = iota
	Values
)

// String names the kind, in the plural.
func (k Kind) String() string { return [...]string{"keys", "values"}[k&1] }

// Exact is a cache whose exact keys and values can be reached from this machine's memory: what saving, loading and moving to another device need. Host is one; a device
// that keeps its cache elsewhere copies. The layers and heads of a sequence may be read, or written, concurrently.
type Exact interface {
	// Shape is what the cache was made for; its layers, KV heads and channels count here.
	Shape() Shape
	// ReadRows copies the first len(rows)/Dim fp16 rows of a block to rows.
	ReadRows(rows []uint16, layer, head int, k Kind, block int32) error
	// WriteRows copies rows to the first of a block that has been reserved and not written yet.
	WriteRows(rows []uint16, layer, head int, k Kind, block int32) error
	// Derive makes the planes of a sequence all of whose rows were just written.
	Derive(s *Sequence) error
}

// ErrShape is in the error of a move between caches of different models.
var ErrShape = errors.New("caches of different shapes")

// Move makes to, a sequence of dst, the first n tokens of from, which is one of src: exact keys and values are copied, bit by bit, and the planes that dst keeps are made
// anew. taken, if not nil, is called as soon as from is no longer read. What was cached in to before is dropped. ErrFull, with both numbers, if dst has too few blocks; after an error to is empty. Nothing is remembered of from.Memory:
// what selectors know of it is of src's device.
func Move(dst Exact, to *Sequence, src Exact, from *Sequence, n int, taken func()) (err error) {
	a, b := src.Shape(), dst.Shape()
	if a.Layers != b.Layers || a.KVHeads != b.KVHeads || a.Dim != b.Dim {
		return fmt.Errorf("kvcache: moving a sequence: %w: %d layers of %d KV heads with %d channels, expected %d, %d and %d", ErrShape, a.Layers, a.KVHeads, a.Dim, b.Layers, b.KVHeads, b.Dim)
	}
	if n < 1 || n > from.n || len(from.Tokens) < n {
		return fmt.Errorf("kvcache: moving %d tokens: expected 1 to the %d that are cached", n, from.n)
	}
	to.Release()
	defer func() {
		if err != nil {
			to.Release()
			err = fmt.Errorf("kvcache: moving %d tokens: %w", n, err)
		}
	}()
	if err := to.Reserve(n); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range a.Layers * a.KVHeads {
		g.Go(func() error {
			rows := make([]uint16, attention.BlockTokens*a.Dim)
			return from.spans(n, func(at, m, block int) error {
				for _, k := range []Kind{Keys, Values} {
					if err := src.ReadRows(rows[:m*a.Dim], i/a.KVHeads, i%a.KVHeads, k, int32(block)); err != nil {
						return err
					}
					if err := dst.WriteRows(rows[:m*a.Dim], i/a.KVHeads, i%a.KVHeads, k, to.table[at/attention.BlockTokens]); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	to.Advance(n)
	to.Tokens = append(to.Tokens[:0], from.Tokens[:n]...)
	if taken != nil {
		taken()
	}
	return dst.Derive(to)
}

// spans calls f for each block of the first n tokens, until it fails: m tokens from token at on stand at the start of the block.
func (s *Sequence) spans(n int, f func(at, m, block int) error) error {
	for at := 0; at < n; at += attention.BlockTokens {
		if err := f(at, min(attention.BlockTokens, n-at), int(s.table[at/attention.BlockTokens])); err != nil {
			return err
		}
	}
	return nil
}

// rows is the memory of a block's first n tokens.
func (c *Host) rows(n, layer, head int, k Kind, block int32) []uint16 {
	h := &c.heads[layer*c.shape.KVHeads+head]
	slab := h.k
	if k == Values {
		slab = h.v
	}
	return slab[int(block)*attention.BlockTokens*c.shape.Dim:][:n]
}

// ReadRows implements Exact.
func (c *Host) ReadRows(rows []uint16, layer, head int, k Kind, block int32) error {
	copy(rows, c.rows(len(rows), layer, head, k, block))
	return nil
}

// WriteRows implements Exact.
func (c *Host) WriteRows(rows []uint16, layer, head int, k Kind, block int32) error {
	copy(c.rows(len(rows), layer, head, k, block), rows)
	return nil
}

// Derive implements Exact. Reserve made the planes those of empty blocks.
func (c *Host) Derive(s *Sequence) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range c.heads {
		g.Go(func() error {
			return s.spans(s.n, func(_, n, block int) error {
				c.append(i/c.shape.KVHeads, i%c.shape.KVHeads, int32(block), 0, n)
				return nil
			})
		})
	}
	return g.Wait()
}

var _ Exact = (*Host)(nil)
