package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// randomCapture has keys that some queries look for, so that little holds most of the mass.
func randomCapture(seed uint64, dim, group, kvHeads, layers, window int, contexts ...int) *Capture {
	rng := rand.New(rand.NewPCG(seed, 3))
	c := &Capture{Model: "random", Dim: dim, Group: group, KVHeads: kvHeads, Contexts: contexts, Window: window}
	for i := range layers * kvHeads {
		h := CapturedHead{Layer: 2 + i/kvHeads, Head: i % kvHeads}
		q := make([]float32, len(contexts)*window*group*dim)
		for j := range q {
			q[j] = float32(rng.NormFloat64())
			h.q = append(h.q, tensor.F32ToF16(q[j]))
		}
		for range c.Tokens() {
			at, sought := rng.IntN(len(q)/dim)*dim, rng.IntN(20) == 0
			for d := range dim {
				x := float32(rng.NormFloat64())
				if sought {
					x += q[at+d]
				}
				h.k, h.v = append(h.k, tensor.F32ToF16(x)), append(h.v, tensor.F32ToF16(float32(rng.NormFloat64())))
			}
		}
		c.Heads = append(c.Heads, h)
	}
	return c
}

// A file keeps everything, keys and values up to half a step between the extremes of a channel over a block.
func TestCaptureFile(t *testing.T) {
	want := randomCapture(4, 64, 3, 2, 2, 5, 40, 300)
	h := &want.Heads[1]
	for i := range h.k[:attention.BlockTokens] {
		h.k[i*64+7] = tensor.F32ToF16(-2.5) // a channel that never changes
	}
	path := filepath.Join(t.TempDir(), "x.cap")
	if err := want.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadCapture(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Model != want.Model || got.Dim != 64 || got.Group != 3 || got.KVHeads != 2 || got.Window != 5 || !slices.Equal(got.Contexts, want.Contexts) || len(got.Heads) != 4 || !slices.Equal(got.layers(), []int{2, 3}) {
		t.Fatalf("another header: %s, %d channels, groups of %d, %d KV heads, %v, %d positions, %d heads", got.Model, got.Dim, got.Group, got.KVHeads, got.Contexts, got.Window, len(got.Heads))
	}
	for i := range want.Heads {
		a, b := &want.Heads[i], &got.Heads[i]
		if a.Layer != b.Layer || a.Head != b.Head || !slices.Equal(a.q, b.q) || len(b.k) != len(a.k) || len(b.v) != len(a.v) {
			t.Fatalf("head %d: layer %d, KV head %d, %d queries, %d keys", i, b.Layer, b.Head, len(b.q), len(b.k))
		}
		for _, rows := range [][2][]uint16{{a.k, b.k}, {a.v, b.v}} {
			for at := 0; at < 300; at += attention.BlockTokens {
				for c := range 64 {
					low, high, worst := math.Inf(1), math.Inf(-1), 0.0
					for r := at; r < min(300, at+attention.BlockTokens); r++ {
						x, y := float64(tensor.F16ToF32(rows[0][r*64+c])), float64(tensor.F16ToF32(rows[1][r*64+c]))
						low, high, worst = min(low, x), max(high, x), max(worst, math.Abs(x-y))
					}
					if limit := (high-low)/510 + max(math.Abs(high), math.Abs(low))/1024; worst > limit { // and rounding to fp16
						t.Fatalf("head %d, channel %d from token %d: off by %g, expected at most %g", i, c, at, worst, limit)
					}
				}
			}
		}
	}
	if x := tensor.F16ToF32(got.Heads[1].k[7]); x != -2.5 {
		t.Errorf("a constant channel is %g, expected -2.5", x)
	}
}

// sealed is a file with a checksum that is right.
func sealed(body []byte) []byte {
	return binary.LittleEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
}

func TestCaptureRefuses(t *testing.T) {
	var file bytes.Buffer
	if _, err := randomCapture(4, 64, 1, 1, 1, 2, 20).WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	good := file.Bytes()[:file.Len()-4]
	number := func(at int, n uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[8+4*at:], n); return sealed(b) }
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"empty":                {func([]byte) []byte { return nil }, "begins with"},
		"another kind":         {func(b []byte) []byte { b[0] = 'X'; return sealed(b) }, "begins with"},
		"damaged":              {func(b []byte) []byte { x := sealed(b); x[100] ^= 1; return x }, "checksum"},
		"cut short":            {func(b []byte) []byte { return sealed(b)[:len(b)-9] }, "checksum"},
		"only a magic":         {func(b []byte) []byte { return sealed(b[:8]) }, "0 channels"},
		"no channels":          {number(0, 0), "0 channels"},
		"vast channels":        {number(0, 1<<31), "channels"},
		"many heads":           {number(3, 4000), "bytes of heads"},
		"no positions":         {number(5, 0), "0 positions"},
		"contexts that fall":   {func(b []byte) []byte { return number(7, 1)(slices.Insert(number(4, 2)(b), 8+4*8, 0, 0, 0, 0)) }, "contexts"},
		"a context too long":   {number(7, 1<<25), "contexts"},
		"more than its header": {func(b []byte) []byte { return sealed(append(b, 0)) }, "bytes of heads"},
	} {
		_, err := ParseCapture(c.change(slices.Clone(good)))
		if !errors.Is(err, ErrCapture) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an error about %q", name, err, c.want)
		}
	}
	if _, err := ReadCapture(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file was read")
	}
}

func FuzzParseCapture(f *testing.F) {
	var file bytes.Buffer
	if _, err := randomCapture(4, 64, 1, 1, 1, 2, 20).WriteTo(&file); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes()[:file.Len()-4])
	f.Add([]byte(captureMagic))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := ParseCapture(sealed(slices.Clone(body))) // with the right checksum: the header is what is tested
		if err != nil {
			return
		}
		for i := range c.Heads {
			h := &c.Heads[i]
			if len(h.k) != c.Tokens()*c.Dim || len(h.v) != len(h.k) || len(h.q) != len(c.Contexts)*c.Window*c.Group*c.Dim {
				t.Fatalf("head %d has %d keys, %d values and %d queries: %d tokens of %d channels", i, len(h.k), len(h.v), len(h.q), c.Tokens(), c.Dim)
			}
		}
	})
}

// What is captured is what the model attended to: with it, attention by definition gives what the operator gives.
func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, testmodel.Config{Seed: 5}); err != nil {
		t.Fatal(err)
	}
	b := Attention{Model: path, Text: strings.Repeat("A text that has to be repeated. ", 60), Contexts: []int{100, 300}, Steps: 3, Threads: 1}
	whole, err := b.Record(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.Contexts) != 2 || whole.Window != 3 || whole.Tokens() != 300 || len(whole.Heads) != len(whole.layers())*whole.KVHeads {
		t.Fatalf("contexts %v, %d positions, %d heads of layers %v", whole.Contexts, whole.Window, len(whole.Heads), whole.layers())
	}
	layer := whole.Heads[0].Layer
	one, err := b.Record(t.Context(), []int{layer})
	if err != nil {
		t.Fatal(err)
	}
	for i := range one.Heads {
		x, y := &whole.Heads[i], &one.Heads[i]
		if y.Layer != layer || len(y.k) != 300*one.Dim || !slices.Equal(x.q, y.q) || !slices.Equal(x.k, y.k) || !slices.Equal(x.v, y.v) {
			t.Errorf("KV head %d of layer %d is another when later layers are not run", i, layer)
		}
	}
	s, err := openSource(t.Context(), &b, []*attention.Pipeline{attention.MustNew("dense")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := newLineup([]*Capture{one}, ViewGQA, 300, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = s.replay(t.Context(), 297, 300, func(i int) error {
		if i != 0 {
			return nil
		}
		o := newHostOperator(s.rec.Exec(), attention.MustNew("dense"), viewOf(ViewGQA, one.Group), &s.rec.step)
		if _, err := o.run(&s.rec.step, []int{layer}, nil, nil); err != nil {
			return err
		}
		for h := range one.KVHeads {
			for g := range one.Group {
				if l.length(0) != 298 {
					t.Fatalf("%d tokens in sight, expected 298", l.length(0))
				}
				_, want := l.exact(0, h, g)
				if e := apart(o.out[(h*one.Group+g)*one.Dim:][:one.Dim], want); e > 2e-3 {
					t.Errorf("KV head %d, query head %d: the capture gives another output, off by %g", h, g, e)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]int{{-1}, {2, 1}, {99}} {
		if _, err := b.Record(t.Context(), bad); err == nil {
			t.Errorf("layers %v were captured", bad)
		}
	}
	b.Contexts = []int{3}
	if _, err := b.Record(t.Context(), nil); err == nil {
		t.Error("a context without room was captured")
	}
}

func TestLineup(t *testing.T) {
	a, b := randomCapture(1, 64, 4, 2, 3, 8, 100, 200), randomCapture(2, 64, 4, 2, 2, 8, 200)
	l, err := newLineup([]*Capture{a, b}, ViewGQA, 200, 0, 0)
	if err != nil || l.kvHeads != 2 || l.group != 4 {
		t.Fatalf("%d KV heads, groups of %d, %v", l.kvHeads, l.group, err)
	}
	// As the model has them, the KV heads of a sequence are those of one layer, and layers take turns.
	for s := range 12 {
		text := []*Capture{a, b}[s%2]
		for h := range 2 {
			if x := l.head(s, h); x != &text.Heads[s/2%(len(text.Heads)/2)*2+h] {
				t.Errorf("sequence %d, KV head %d: layer %d, head %d", s, h, x.Layer, x.Head)
			}
		}
		if n := l.length(s); n != 200-8+s/2*7%8+1 {
			t.Errorf("sequence %d has %d tokens", s, n)
		}
	}
	// Stacked: no two heads of a sequence ask the same of the same keys.
	for _, view := range []string{ViewGQA, ViewMHA} {
		if l, err = newLineup([]*Capture{a}, view, 200, 24, 12); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for h := range l.kvHeads {
			for g := range l.group {
				seen[fmt.Sprint(l.query(1, h, g))] = true
			}
		}
		if len(seen) != 24 {
			t.Errorf("%s: %d different queries, expected 24", view, len(seen))
		}
	}
	other := randomCapture(3, 128, 4, 2, 1, 8, 200)
	for name, err := range map[string]error{
		"a context that none has": errorOf(newLineup([]*Capture{a, b}, ViewGQA, 300, 0, 0)),
		"two head sizes":          errorOf(newLineup([]*Capture{a, other}, ViewGQA, 200, 8, 2)),
		"unequal groups":          errorOf(newLineup([]*Capture{a}, ViewGQA, 200, 9, 2)),
		"groups beyond the model": errorOf(newLineup([]*Capture{a}, ViewGQA, 200, 16, 2)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func errorOf(_ *lineup, err error) error { return err }
