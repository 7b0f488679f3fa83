// Package kvcache owns the pages of the key-value cache: blocks of pages, block tables and reference counts of sequences, the planes of derived data
// beside the keys, and their saving to disk.
package kvcache

import (
	"fmt"
	"sync"

	"github.com/twilight-go/twilight/attention"
)

// Storage is the memory behind a pool's blocks: host slabs, or a device's. The pool calls it; a block is the same number in every layer and head.
type Storage interface {
	// Reset makes a block's planes those of an empty block. Called before the block is first written by its new owner.
	Reset(block int32)
	// Copy copies all of a block's first n tokens and their planes.
	Copy(dst, src int32, n int)
	// Rebuild makes the planes of a block those of its first n tokens, after later ones were dropped.
	Rebuild(block int32, n int)
}

// ErrFull is returned when no block is free.
var ErrFull = fmt.Errorf("kvcache: no free block")

// Pool hands out blocks and counts the references to them. Safe for concurrent use; a Sequence is not.
type Pool struct {
	mu    sync.Mutex
	store Storage
	refs  []int32
	free  []int32 // a stack: the lowest number on top at first, so that a lone sequence lies in one run
}

// NewPool makes a pool of the given number of blocks.
func NewPool(blocks int, s Storage) *Pool {
	p := &Pool{store: s, refs: make([]int32, blocks), free: make([]int32, blocks)}
	for i := range p.free {
		p.free[i] = int32(blocks - 1 - i)
	}
	return p
}

// Free is the number of blocks that nobody holds, and the number of all.
func (p *Pool) Free() (free, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free), len(p.refs)
}

func (p *Pool) take() (int32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		return 0, ErrFull
	}
	b := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.check(p.refs[b] == 0, "block %d was free with %d references", b, p.refs[b])
	p.refs[b] = 1
	p.store.Reset(b)
	return b, nil
}

func (p *Pool) share(blocks []int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range blocks {
		p.check(p.refs[b] > 0, "block %d is shared but nobody holds it", b)
		p.refs[b]++
	}
}

func (p *Pool) drop(blocks []int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(blocks) - 1; i >= 0; i-- {
		b := blocks[i]
		p.check(p.refs[b] > 0, "block %d is released more often than taken", b)
		if p.refs[b]--; p.refs[b] == 0 {
			p.free = append(p.free, b)
		}
	}
}

func (p *Pool) shared(b int32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refs[b] > 1
}

func (p *Pool) check(ok bool, format string, args ...any) {
	if invariants && !ok {
		panic("kvcache: " + fmt.Sprintf(format, args...))
	}
}

// Sequence is the cached tokens of one text: a block table into a pool. Its blocks are valid until Release; a fork's shared blocks live until the last holder releases them.
type Sequence struct {
	pool  *Pool
	table []int32
	n     int
	stale bool // the last block's planes still tell of dropped tokens: it was shared when Truncate cut into it
	// Tokens are the ids whose keys and values are cached, kept by whoever appends; prefix reuse compares them, never a hash alone.
	Tokens []int32
	// Memory is what attention's selectors remember of the sequence. Devices use it; it forks and is cut with the sequence.
	Memory attention.Memory
}

// NewSequence makes an empty sequence. It holds no block yet.
func (p *Pool) NewSequence() *Sequence { return &Sequence{pool: p} }

// Len is the number of cached tokens.
func (s *Sequence) Len() int { return s.n }

// Table is the block table, valid until the sequence next grows or shrinks.
func (s *Sequence) Table() []int32 { return s.table }

// Reserve makes room for n more tokens: takes the blocks, and copies the last one if it is partly filled and shared with a fork. After it the next n tokens may be
// written at positions Len()…; ErrFull, with both numbers, if the pool has too few blocks, and then the sequence is as before.
func (s *Sequence) Reserve(n int) error {
	need := attention.BlocksOf(s.n + n)
	had := len(s.table)
	var replaced int32 = -1
	if i, tail := s.n/attention.BlockTokens, s.n%attention.BlockTokens; n > 0 && tail > 0 {
		if s.pool.shared(s.table[i]) {
			b, err := s.pool.take()
			if err != nil {
				return s.full(n, need)
			}
			s.pool.store.Copy(b, s.table[i], tail)
			replaced, s.table[i] = s.table[i], b
		} else if s.stale {
			s.pool.store.Rebuild(s.table[i], tail)
			s.stale = false
		}
	}
	for len(s.table) < need {
		b, err := s.pool.take()
		if err != nil {
			s.pool.drop(s.table[had:])
			s.table = s.table[:had]
			if replaced >= 0 {
				i := s.n / attention.BlockTokens
				s.pool.drop(s.table[i : i+1])
				s.table[i] = replaced
			}
			return s.full(n, need)
		}
		s.table = append(s.table, b)
	}
	if replaced >= 0 {
		s.pool.drop([]int32{replaced})
		s.stale = false
	}
	return nil
}

func (s *Sequence) full(n, need int) error {
	free, all := s.pool.Free()
	return fmt.Errorf("%w: %d cached tokens and %d more need %d blocks of %d tokens, the cache has %d, of which %d are free",
		ErrFull, s.n, n, need, attention.BlockTokens, all, free)
}

// Advance says that the n tokens reserved last were written in every layer.
func (s *Sequence) Advance(n int) {
	s.pool.check(attention.BlocksOf(s.n+n) <= len(s.table), "advance by %d beyond the reserved blocks", n)
	s.n += n
}

// Truncate drops all tokens from n on. The planes of what is left are right again after the next Reserve.
func (s *Sequence) Truncate(n int) {
	if n < s.n {
		s.cut(n)
	}
}

// Abandon drops what was reserved, and perhaps written, after the last Advance: for a step that failed.
func (s *Sequence) Abandon() { s.cut(s.n) }

func (s *Sequence) cut(n int) {
	keep := attention.BlocksOf(n)
	s.pool.drop(s.table[keep:])
	s.table = s.table[:keep]
	s.n, s.stale = n, false
	s.Tokens = s.Tokens[:min(n, len(s.Tokens))]
	s.Memory.Truncate(n)
	if r := n % attention.BlockTokens; r > 0 {
		if s.stale = s.pool.shared(s.table[keep-1]); !s.stale {
			s.pool.store.Rebuild(s.table[keep-1], r)
		}
	}
}

// Fork makes a sequence of the same tokens that shares every block; whichever of the two next writes into the last block copies it first. Not
// between a Reserve and its Advance.
func (s *Sequence) Fork() *Sequence {
	held := attention.BlocksOf(s.n) // what is reserved beyond belongs to s alone
	f := &Sequence{pool: s.pool, table: append([]int32(nil), s.table[:held]...), n: s.n, stale: s.stale, Tokens: append([]int32(nil), s.Tokens...), Memory: s.Memory.Fork(s.n)}
	s.pool.share(f.table)
	return f
}

// Copy makes a sequence of the first n tokens in blocks of its own. ErrFull, with both numbers, if the pool has too few. A fork is as good and costs nothing, except
// to who measures how many sequences fare beside each other: forks find each other's blocks in the processor's caches.
func (s *Sequence) Copy(n int) (*Sequence, error) {
	c := s.pool.NewSequence()
	if err := c.Reserve(n); err != nil {
		return nil, err
	}
	for i, b := range c.table {
		s.pool.store.Copy(b, s.table[i], min(attention.BlockTokens, n-i*attention.BlockTokens))
	}
	c.Advance(n)
	c.Tokens, c.Memory = append(c.Tokens, s.Tokens[:n]...), s.Memory.Fork(s.n)
	c.Memory.Truncate(n)
	return c, nil
}

// Release gives the blocks back. The sequence is then empty and may be used again.
func (s *Sequence) Release() {
	s.pool.drop(s.table)
	s.table, s.n, s.stale, s.Tokens = s.table[:0], 0, false, s.Tokens[:0]
	s.Memory.Truncate(0)
}
