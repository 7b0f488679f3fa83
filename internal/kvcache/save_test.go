package kvcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/twilight-go/twilight/attention"
)

var testPlanes = []attention.Plane{attention.Bounds{Page: 16}, attention.Int4{}, attention.PageRange{Bits: 2}, attention.ValueSum{}}

func newTestHost(t testing.TB, s Shape, blocks int, planes ...attention.Plane) *Host {
	t.Helper()
	c, err := NewHost(s, blocks, planes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// grow appends n tokens with random keys and values, as a device would: in pieces of random length.
func grow(t testing.TB, c *Host, s *Sequence, n int, rng *rand.Rand) {
	t.Helper()
	dim := c.shape.Dim
	for n > 0 {
		m := min(n, 1+rng.IntN(40))
		if err := s.Reserve(m); err != nil {
			t.Fatal(err)
		}
		k, v := make([]float32, m*dim), make([]float32, m*dim)
		for l := range c.shape.Layers {
			for h := range c.shape.KVHeads {
				for i := range k {
					k[i], v[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
				}
				c.Write(s, l, h, s.Len(), m, k, v, dim)
			}
		}
		for range m {
			s.Tokens = append(s.Tokens, rng.Int32N(50000))
		}
		s.Advance(m)
		n -= m
	}
}

// requireSame compares everything that attention reads of two sequences.
func requireSame(t testing.TB, a *Host, s *Sequence, b *Host, r *Sequence) {
	t.Helper()
	if s.Len() != r.Len() {
		t.Fatalf("%d tokens, want %d", r.Len(), s.Len())
	}
	for l := range a.shape.Layers {
		for h := range a.shape.KVHeads {
			x, y := a.Head(s, l, h, s.Len()), b.Head(r, l, h, r.Len())
			for i := range x.Blocks() {
				n := min(attention.BlockTokens, s.Len()-i*attention.BlockTokens) * x.Dim
				if !bytes.Equal(bytesOf(x.Keys(i)[:n]), bytesOf(y.Keys(i)[:n])) || !bytes.Equal(bytesOf(x.Values(i)[:n]), bytesOf(y.Values(i)[:n])) {
					t.Fatalf("layer %d head %d block %d: rows differ", l, h, i)
				}
				for p := range x.Planes {
					if !bytes.Equal(x.Plane(p, i), y.Plane(p, i)) {
						t.Fatalf("layer %d head %d block %d: plane %s differs", l, h, i, a.names[p])
					}
				}
			}
		}
	}
}

func TestSaveLoad(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		shape := Shape{Layers: rapid.IntRange(1, 3).Draw(rt, "layers"), KVHeads: rapid.IntRange(1, 3).Draw(rt, "heads"), Dim: 16 * rapid.IntRange(1, 4).Draw(rt, "dim")}
		if rapid.Bool().Draw(rt, "exact") {
			shape.Exact = make([]bool, shape.Layers)
			shape.Exact[0] = true
		}
		n := rapid.SampledFrom([]int{1, 15, 16, 17, 255, 256, 257, 700}).Draw(rt, "n")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		a := newTestHost(t, shape, 8, testPlanes...)
		s := a.NewSequence()
		grow(t, a, s, n, rng)
		path := filepath.Join(dir, "cache")
		if err := Save(path, a, s, [32]byte{1}); err != nil {
			rt.Fatal(err)
		}
		// The loading cache serves other pipelines, and its sequence held something else.
		b := newTestHost(t, shape, 8, testPlanes...)
		r := b.NewSequence()
		grow(t, b, r, rapid.IntRange(0, 600).Draw(rt, "before"), rng)
		if err := Load(path, b, r, [32]byte{1}); err != nil {
			rt.Fatal(err)
		}
		requireSame(t, a, s, b, r)
		if !bytes.Equal(bytesOf(s.Tokens), bytesOf(r.Tokens)) {
			rt.Fatal("tokens differ")
		}
		// What is appended after loading must find the planes as if nothing had happened.
		more := rapid.IntRange(1, 300).Draw(rt, "more")
		seed := rapid.Uint64().Draw(rt, "seed2")
		grow(t, a, s, more, rand.New(rand.NewPCG(seed, 1)))
		grow(t, b, r, more, rand.New(rand.NewPCG(seed, 1)))
		requireSame(t, a, s, b, r)
		h, err := ReadSaved(path)
		if err != nil || h.Tokens != n || h.Layers != shape.Layers {
			rt.Fatalf("ReadSaved: %+v, %v", h, err)
		}
	})
}

// A moved sequence is the beginning of the one it came from, and goes on by itself.
func TestMove(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		shape := Shape{Layers: rapid.IntRange(1, 3).Draw(rt, "layers"), KVHeads: rapid.IntRange(1, 3).Draw(rt, "heads"), Dim: 16 * rapid.IntRange(1, 4).Draw(rt, "dim")}
		n := rapid.SampledFrom([]int{1, 16, 255, 256, 257, 700}).Draw(rt, "n")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		a, b := newTestHost(t, shape, 8, testPlanes[0]), newTestHost(t, shape, 8, testPlanes...)
		s, r, want := a.NewSequence(), b.NewSequence(), b.NewSequence()
		grow(t, a, s, n, rng)
		grow(t, b, r, rapid.IntRange(0, 600).Draw(rt, "before"), rng)
		m := rapid.IntRange(1, n).Draw(rt, "moved")
		if err := Move(b, r, a, s, m, nil); err != nil {
			rt.Fatal(err)
		}
		if s.Truncate(m); r.Len() != m || !bytes.Equal(bytesOf(s.Tokens), bytesOf(r.Tokens)) {
			rt.Fatalf("%d of %d tokens", r.Len(), m)
		}
		if err := Move(b, want, a, s, m, nil); err != nil { // as many as there are
			rt.Fatal(err)
		}
		requireSame(t, b, want, b, r)
		back := a.NewSequence()
		if err := Move(a, back, b, r, m, nil); err != nil {
			rt.Fatal(err)
		}
		requireSame(t, a, s, a, back)
		if err := Move(a, back, b, r, m+1, nil); err == nil {
			rt.Error("more was moved than there is")
		}
		shape.Layers++
		if err := Move(newTestHost(t, shape, 8), back, b, r, m, nil); !errors.Is(err, ErrShape) {
			rt.Error(err)
		}
		r.Release()
		grow(t, a, s, 5*attention.BlockTokens-m, rng)
		grow(t, b, want, 5*attention.BlockTokens-m, rng)
		if err := Move(b, r, a, s, s.Len(), nil); !errors.Is(err, ErrFull) || r.Len() != 0 {
			rt.Errorf("a move into a full cache: %v", err)
		}
	})
}

// saved is the file of a small cache, and the cache.
func saved(t testing.TB) ([]byte, *Host) {
	t.Helper()
	c := newTestHost(t, Shape{Layers: 2, KVHeads: 2, Dim: 16}, 4, testPlanes...)
	s := c.NewSequence()
	grow(t, c, s, 70, rand.New(rand.NewPCG(1, 2)))
	path := filepath.Join(t.TempDir(), "cache")
	if err := Save(path, c, s, [32]byte{7}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s.Release()
	return data, c
}

func loadBytes(t testing.TB, c *Host, data []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := c.NewSequence()
	err := Load(path, c, s, [32]byte{7})
	free, all := c.Free()
	if err != nil && (s.Len() != 0 || free != all) {
		t.Fatalf("after %v: %d tokens, %d of %d blocks free", err, s.Len(), free, all)
	}
	s.Release()
	return err
}

func TestLoadDamaged(t *testing.T) {
	good, c := saved(t)
	if err := loadBytes(t, c, good); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(good); n += 1 + n/16 {
		if err := loadBytes(t, c, good[:n]); err == nil {
			t.Fatalf("a file cut to %d of %d bytes was loaded", n, len(good))
		}
	}
	if err := loadBytes(t, c, append(bytes.Clone(good), 0)); !errors.Is(err, ErrSaved) {
		t.Fatalf("a longer file: %v", err)
	}
	// Every byte is under a checksum, except the padding between sections.
	h, err := ParseSaved(good, int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	l, _ := h.layout()
	covered := func(i uint64) bool {
		switch {
		case i < savedHeader:
			return true
		case i < l.tokens:
			return i >= l.sums && i < l.sums+4*uint64(2*len(c.heads)+1)
		case i < l.rows:
			return i < l.tokens+4*uint64(h.Tokens)
		}
		return (i-l.rows)%l.row < uint64(h.Tokens*h.Dim*2)
	}
	for i := range good {
		if i > 300 && i%37 != 0 {
			continue
		}
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if err := loadBytes(t, c, bad); errors.Is(err, ErrSaved) != covered(uint64(i)) {
			t.Fatalf("byte %d of %d flipped: %v", i, len(good), err)
		}
	}
}

// reseal makes the header's checksum right again, so that the fields behind it are judged.
func reseal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[savedHeader-4:], crc32.Checksum(b[:savedHeader-4], castagnoli))
	return b
}

func TestLoadRefuses(t *testing.T) {
	good, c := saved(t)
	for _, x := range []struct {
		name string
		edit func(b []byte)
		want string
	}{
		{"version", func(b []byte) { b[8] = 9 }, "it has version 9, expected 1"},
		{"type", func(b []byte) { b[12] = 3 }, "rows of type 3, expected 1"},
		{"model", func(b []byte) { b[16] = 8 }, "saved from another model: fingerprint 08"},
		{"no layers", func(b []byte) { binary.LittleEndian.PutUint32(b[48:], 0) }, "0 layers, expected 1 to 65536"},
		{"heads", func(b []byte) { binary.LittleEndian.PutUint32(b[52:], 1<<31) }, "2147483648 KV heads, expected"},
		{"dim", func(b []byte) { binary.LittleEndian.PutUint32(b[56:], 17) }, "does not agree with"},
		{"tokens", func(b []byte) { binary.LittleEndian.PutUint64(b[60:], 1<<63) }, "9223372036854775808 tokens, expected 1 to"},
		{"bytes", func(b []byte) { binary.LittleEndian.PutUint64(b[68:], 1<<63) }, "does not agree with"},
		{"overflow", func(b []byte) {
			for _, at := range []int{48, 52, 56} {
				binary.LittleEndian.PutUint32(b[at:], 1<<16)
			}
			binary.LittleEndian.PutUint64(b[60:], 1<<30)
		}, "does not agree with"},
		{"text", func(b []byte) { copy(b, "{}") }, `it begins with "{}`},
	} {
		t.Run(x.name, func(t *testing.T) {
			bad := bytes.Clone(good)
			x.edit(bad)
			err := loadBytes(t, c, reseal(bad))
			if !errors.Is(err, ErrSaved) || !strings.Contains(err.Error(), x.want) {
				t.Fatalf("%v, want %q", err, x.want)
			}
		})
	}
	other := newTestHost(t, Shape{Layers: 2, KVHeads: 1, Dim: 32}, 4)
	if err := loadBytes(t, other, good); !errors.Is(err, ErrSaved) || !strings.Contains(err.Error(), "2 layers of 2 KV heads with 16 channels, expected 2, 1 and 32") {
		t.Fatal(err)
	}
	small := newTestHost(t, Shape{Layers: 2, KVHeads: 2, Dim: 16}, 1)
	s := small.NewSequence()
	grow(t, small, s, 1, rand.New(rand.NewPCG(3, 4)))
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, small, small.NewSequence(), [32]byte{7}); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if err := Load(filepath.Join(t.TempDir(), "absent"), small, s, [32]byte{7}); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestSaveAtomic(t *testing.T) {
	good, c := saved(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "cache")
	if err := Save(path, c, c.NewSequence(), [32]byte{}); err == nil {
		t.Fatal("an empty sequence was saved")
	}
	if err := writeAtomically(path, func(f *os.File) error {
		f.Write(good)
		return errors.New("disk full")
	}); err == nil {
		t.Fatal("no error")
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func FuzzParseSaved(f *testing.F) {
	good, _ := saved(f)
	f.Add(good[:savedHeader], int64(len(good)))
	f.Add([]byte(savedMagic), int64(8))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		if len(data) >= savedHeader {
			data = reseal(bytes.Clone(data))
		}
		h, err := ParseSaved(data, size)
		if err != nil {
			if !errors.Is(err, ErrSaved) || h != (SavedHeader{}) {
				t.Fatalf("%+v, %v", h, err)
			}
			return
		}
		l, ok := h.layout()
		if !ok || int64(l.total) != size || !bytes.Equal(h.append(nil), data[:savedHeader]) {
			t.Fatalf("%+v for %x of %d bytes", h, data, size)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	c := newTestHost(b, Shape{Layers: 30, KVHeads: 3, Dim: 64}, 16, testPlanes[0], attention.PageRange{Bits: 4})
	s := c.NewSequence()
	grow(b, c, s, 4096, rand.New(rand.NewPCG(1, 2)))
	path := filepath.Join(b.TempDir(), "cache")
	if err := Save(path, c, s, [32]byte{}); err != nil {
		b.Fatal(err)
	}
	st, _ := os.Stat(path)
	b.SetBytes(st.Size())
	for b.Loop() {
		if err := Load(path, c, s, [32]byte{}); err != nil {
			b.Fatal(err)
		}
	}
}
