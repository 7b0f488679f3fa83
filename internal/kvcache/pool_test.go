package kvcache

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"pgregory.net/rapid"
)

const blockTokens = attention.BlockTokens

// poolShape has a layer that keeps no planes.
var poolShape = Shape{Layers: 2, KVHeads: 2, Dim: 4, Exact: []bool{false, true}}

func poolPlanes() []attention.Plane {
	return []attention.Plane{attention.Bounds{Page: 16}, attention.Bounds{Page: 64}, attention.Int4{}, attention.PageRange{Bits: 4}, attention.PageRange{Bits: 3}, attention.ValueSum{}}
}

func newPoolHost(t interface{ Fatal(...any) }, blocks int) *Host {
	c, err := NewHost(poolShape, blocks, poolPlanes())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// vector is the key (part 0) or value (part 1) of a token, the same whenever it is asked for.
func vector(token int32, layer, head, part int) []float32 {
	rng := rand.New(rand.NewPCG(uint64(token), uint64(layer<<8|head<<4|part)))
	x := make([]float32, poolShape.Dim)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// write stores tokens at positions pos… in pieces of at most chunk.
func write(c *Host, s *Sequence, pos int, tokens []int32, chunk int) {
	const stride = 7 // more than a row: as heads lie in a tensor
	for l := range poolShape.Layers {
		for h := range poolShape.KVHeads {
			for i := 0; i < len(tokens); i += chunk {
				n := min(chunk, len(tokens)-i)
				k, v := make([]float32, n*stride), make([]float32, n*stride)
				for j := range n {
					copy(k[j*stride:], vector(tokens[i+j], l, h, 0))
					copy(v[j*stride:], vector(tokens[i+j], l, h, 1))
				}
				c.Write(s, l, h, pos+i, n, k, v, stride)
			}
		}
	}
}

// requireContents holds a sequence against one that is written at once into a cache of its own.
func requireContents(t interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}, c *Host, s *Sequence, tokens []int32) {
	t.Helper()
	if s.Len() != len(tokens) {
		t.Fatalf("the sequence has %d tokens, want %d", s.Len(), len(tokens))
	}
	fresh := newPoolHost(t, max(1, len(s.Table())))
	defer fresh.Close()
	want := fresh.NewSequence()
	if err := want.Reserve(len(tokens)); err != nil {
		t.Fatal(err)
	}
	write(fresh, want, 0, tokens, len(tokens)+1)
	want.Advance(len(tokens))
	for l := range poolShape.Layers {
		for h := range poolShape.KVHeads {
			a, b := c.Head(s, l, h, s.Len()), fresh.Head(want, l, h, s.Len())
			for i := range a.Blocks() {
				n := min(blockTokens, s.Len()-i*blockTokens) * poolShape.Dim
				if !slices.Equal(a.Keys(i)[:n], b.Keys(i)[:n]) || !slices.Equal(a.Values(i)[:n], b.Values(i)[:n]) {
					t.Fatalf("layer %d head %d block %d of %d tokens: keys or values differ from those written at once", l, h, i, s.Len())
				}
				if len(a.Planes) != len(b.Planes) || poolShape.Exact[l] != (len(a.Planes) == 0) {
					t.Fatalf("layer %d has %d planes", l, len(a.Planes))
				}
				for p := range a.Planes {
					if stale := s.stale && i == s.Len()/blockTokens; !stale && !bytes.Equal(a.Plane(p, i), b.Plane(p, i)) {
						t.Fatalf("layer %d head %d block %d of %d tokens: plane %s differs from that written at once", l, h, i, s.Len(), c.PlaneNames()[p])
					}
				}
			}
		}
	}
}

// requireRefs checks that every block is held exactly as often as tables name it, and that the rest is free, once each.
func requireRefs(t interface {
	Helper()
	Fatalf(string, ...any)
}, p *Pool, live []*Sequence) {
	t.Helper()
	refs := make([]int32, len(p.refs))
	for _, s := range live {
		for _, b := range s.table {
			refs[b]++
		}
	}
	if !slices.Equal(refs, p.refs) {
		t.Fatalf("references %v, but the tables hold %v", p.refs, refs)
	}
	free := slices.Clone(p.free)
	slices.Sort(free)
	for b, n := range refs {
		if n == 0 {
			if len(free) == 0 || free[0] != int32(b) {
				t.Fatalf("block %d is held by nobody and not free", b)
			}
			free = free[1:]
		}
	}
	if len(free) > 0 {
		t.Fatalf("blocks %v are free and held, or free twice", free)
	}
}

// Any history of appends, forks, truncations, failed steps and releases leaves what writing the tokens at once would.
func TestSequencesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blocks := rapid.IntRange(1, 8).Draw(t, "blocks")
		c := newPoolHost(t, blocks)
		defer c.Close()
		var live []*Sequence
		var model [][]int32
		next := int32(0)
		pick := func() int { return rapid.IntRange(0, len(live)-1).Draw(t, "sequence") }
		length := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(0, 600))
		appendTo := func(i, n int, advance bool) {
			s := live[i]
			tokens := make([]int32, n)
			for j := range tokens {
				next++
				tokens[j] = next
			}
			table, stale, free := slices.Clone(s.table), s.stale, slices.Clone(c.free)
			err := s.Reserve(n)
			if err != nil {
				slices.Sort(free)
				now := slices.Clone(c.free)
				slices.Sort(now)
				if !errors.Is(err, ErrFull) || !slices.Equal(s.table, table) || s.stale && !stale || !slices.Equal(free, now) {
					t.Fatalf("%v: table %v before and %v after, free %v and %v", err, table, s.table, free, now)
				}
				return
			}
			write(c, s, s.Len(), tokens, rapid.IntRange(1, 100).Draw(t, "chunk"))
			if !advance {
				s.Abandon()
				return
			}
			s.Advance(n)
			if n > 0 && s.stale {
				t.Fatal("planes were written on top of stale ones")
			}
			s.Tokens = append(s.Tokens, tokens...)
			model[i] = append(model[i], tokens...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"new": func(t *rapid.T) {
				if len(live) < 5 {
					live, model = append(live, c.NewSequence()), append(model, nil)
				}
			},
			"append": func(t *rapid.T) {
				if len(live) > 0 {
					appendTo(pick(), length.Draw(t, "tokens"), true)
				}
			},
			"fail": func(t *rapid.T) {
				if len(live) > 0 {
					appendTo(pick(), length.Draw(t, "tokens"), false)
				}
			},
			"fork": func(t *rapid.T) {
				if len(live) > 0 && len(live) < 6 {
					i := pick()
					live, model = append(live, live[i].Fork()), append(model, slices.Clone(model[i]))
				}
			},
			"copy": func(t *rapid.T) {
				if len(live) > 0 && len(live) < 6 {
					i := pick()
					n := rapid.IntRange(0, len(model[i])).Draw(t, "tokens")
					switch s, err := live[i].Copy(n); {
					case err == nil:
						live, model = append(live, s), append(model, slices.Clone(model[i][:n]))
					case !errors.Is(err, ErrFull):
						t.Fatal(err)
					}
				}
			},
			"truncate": func(t *rapid.T) {
				if len(live) > 0 {
					i := pick()
					n := rapid.IntRange(0, len(model[i])+3).Draw(t, "to")
					live[i].Truncate(n)
					model[i] = model[i][:min(n, len(model[i]))]
				}
			},
			"release": func(t *rapid.T) {
				if len(live) > 0 {
					i := pick()
					live[i].Release()
					if rapid.Bool().Draw(t, "forget") {
						live, model = slices.Delete(live, i, i+1), slices.Delete(model, i, i+1)
					} else {
						model[i] = nil
					}
				}
			},
			"": func(t *rapid.T) {
				requireRefs(t, c.Pool, live)
				for i, s := range live {
					if !slices.Equal(s.Tokens, model[i]) {
						t.Fatalf("tokens %v, want %v", s.Tokens, model[i])
					}
				}
				if len(live) > 0 {
					i := rapid.IntRange(0, len(live)-1).Draw(t, "checked")
					requireContents(t, c, live[i], model[i])
				}
			},
		})
		for i, s := range live {
			requireContents(t, c, s, model[i])
			s.Release()
		}
		if free, all := c.Free(); free != all || all != blocks {
			t.Fatalf("%d of %d blocks are free in the end", free, all)
		}
	})
}

// A block that was shared when it was cut into, and no longer is, is repaired before it is written.
func TestTruncateShared(t *testing.T) {
	c := newPoolHost(t, 3)
	defer c.Close()
	tokens := make([]int32, 30)
	for i := range tokens {
		tokens[i] = int32(i)
	}
	a := c.NewSequence()
	if err := a.Reserve(20); err != nil {
		t.Fatal(err)
	}
	write(c, a, 0, tokens[:20], 20)
	a.Advance(20)
	b := a.Fork()
	a.Truncate(10)
	b.Release()
	if err := a.Reserve(5); err != nil {
		t.Fatal(err)
	}
	write(c, a, 10, tokens[20:25], 5)
	a.Advance(5)
	if a.stale {
		t.Error("planes were written on top of stale ones")
	}
	requireContents(t, c, a, append(slices.Clone(tokens[:10]), tokens[20:25]...))
}

func TestFull(t *testing.T) {
	c := newPoolHost(t, 2)
	defer c.Close()
	s := c.NewSequence()
	if err := s.Reserve(300); err != nil {
		t.Fatal(err)
	}
	s.Advance(300)
	err := s.Reserve(213)
	want := "kvcache: no free block: 300 cached tokens and 213 more need 3 blocks of 256 tokens, the cache has 2, of which 0 are free"
	if !errors.Is(err, ErrFull) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := s.Reserve(212); err != nil {
		t.Error(err)
	}
}

// Values beyond fp16 saturate; infinities too.
func TestWriteSaturates(t *testing.T) {
	c := newPoolHost(t, 1)
	defer c.Close()
	s := c.NewSequence()
	if err := s.Reserve(1); err != nil {
		t.Fatal(err)
	}
	x := []float32{1e9, -1e9, float32(math.Inf(1)), 1}
	c.Write(s, 0, 0, 0, 1, x, x, 4)
	h := c.Head(s, 0, 0, 1)
	if want := []uint16{0x7bff, 0xfbff, 0x7bff, 0x3c00}; !slices.Equal(h.Keys(0)[:4], want) || !slices.Equal(h.Values(0)[:4], want) {
		t.Errorf("keys %x, values %x, want %x", h.Keys(0)[:4], h.Values(0)[:4], want)
	}
}

func TestBlockBytes(t *testing.T) {
	c := newPoolHost(t, 3)
	defer c.Close()
	exact, planes := c.BlockBytes()
	perHead := 0
	for _, p := range poolPlanes() {
		perHead += (p.BlockBytes(poolShape.Dim) + 63) / 64 * 64
	}
	if exact != 2*2*blockTokens*4*4 || planes != 2*perHead || len(c.arena) < 3*(exact+planes) {
		t.Errorf("a block is %d and %d bytes, the arena %d", exact, planes, len(c.arena))
	}
}

func TestShapeErrors(t *testing.T) {
	for _, s := range []Shape{{}, {Layers: 1, KVHeads: 1}, {Layers: -1, KVHeads: 1, Dim: 4}} {
		if _, err := NewHost(s, 1, nil); err == nil {
			t.Errorf("%+v made a cache", s)
		}
	}
	for _, blocks := range []int{0, -1, 1 << 24} {
		if _, err := NewHost(poolShape, blocks, nil); err == nil {
			t.Errorf("%d blocks made a cache", blocks)
		}
	}
	if _, err := NewHost(Shape{Layers: 1 << 10, KVHeads: 1 << 20, Dim: 1 << 20}, 1<<22, nil); err == nil {
		t.Error("a cache beyond any address space was made")
	}
}

// Sequences of several goroutines share one pool: what each writes is what it reads, and nothing leaks.
func TestConcurrentSequences(t *testing.T) {
	c := newPoolHost(t, 24)
	defer c.Close()
	base := c.NewSequence()
	if err := base.Reserve(100); err != nil {
		t.Fatal(err)
	}
	tokens := make([]int32, 100)
	for i := range tokens {
		tokens[i] = int32(i)
	}
	write(c, base, 0, tokens, 100)
	base.Advance(100)
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for w := range 4 {
		forks := []*Sequence{base.Fork(), base.Fork()}
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 9))
			for round := range 12 {
				for _, s := range forks {
					n := 1 + rng.IntN(300)
					if err := s.Reserve(n); errors.Is(err, ErrFull) {
						s.Truncate(50)
						continue
					} else if err != nil {
						errs <- err
						return
					}
					mine := make([]int32, n)
					for i := range mine {
						mine[i] = int32(w*1000 + round)
					}
					pos := s.Len()
					write(c, s, pos, mine, 64)
					s.Advance(n)
					h := c.Head(s, 0, 1, s.Len())
					want := vector(mine[0], 0, 1, 0)[0]
					row := int(h.Row(pos+n-1)) * poolShape.Dim
					var got [1]uint16
					attention.Portable{}.Halves(got[:], []float32{want})
					if h.K[row] != got[0] {
						errs <- fmt.Errorf("worker %d reads %x, wrote %x", w, h.K[row], got[0])
						return
					}
				}
				forks[1].Release()
				forks[1] = forks[0].Fork()
			}
			for _, s := range forks {
				s.Release()
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	requireContents(t, c, base, tokens)
	base.Release()
	if free, all := c.Free(); free != all {
		t.Errorf("%d of %d blocks are free in the end", free, all)
	}
}
