package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The matrix: every registered selector with every estimator and every pruner, all options, over shapes that cross page and block boundaries. A part joins it by
// registering; arguments that are worth trying, or without which it cannot be made, stand here.
var arguments = map[string][]string{
	"streaming":   {"", "sink=0,window=1", "sink=20,window=100"},
	"quest":       {"", "page=8,keep=0.4", "page=32,keep=0.1,shared", "page=64,budget=70", "middle", "keep=0", "middle,channels=16,keep=0.4", "middle,channels=256,shared,least=50", "keep=0.1,least=200", "keep=1"},
	"hip":         {"", "k=64,block=16,sink=3,window=20", "k=40,block=1,sink=0,window=0,shared", "k=7,block=8"},
	"double-p":    {"", "size=8,p=0.7,refine=0", "size=64,p=1,refine=0.9", "size=32,p=0.3,refine=1"},
	"magicpig":    {"bits=4,tables=9,sink=0,window=0", "bits=3,tables=30,sink=20,window=100"},
	"pqcache":     {"", "keep=0.1,parts=8,bits=4,sink=0,recent=0,per-head", "parts=4,bits=8,keep=0.5"},
	"block-range": {"bits=2", "bits=4", "bits=8,biased"},
	"page-range":  {"bits=1", "bits=2", "bits=3", "bits=4", "bits=8"},
	"top-k":       {"k=1", "k=60", "keep=0.1", "k=100000"},
	"top-p":       {"0", "0.5", "0.9", "0.999", "1"},
}

// variants is the texts of every registered part of a stage.
func variants(t *testing.T, stage string, parts map[string]Info) (out []string) {
	for _, name := range names(parts) {
		args, ok := arguments[name]
		if !ok {
			args = []string{""}
		}
		for _, a := range args {
			text := name
			if a != "" {
				text += ":" + a
			}
			part, err := parsePart(text)
			if err == nil {
				_, err = takeReuse(part, func(p Part) (any, error) { return build(parts, p) })
			}
			if err != nil {
				t.Fatalf("%s %s: %v (a part that needs arguments names them in the matrix test)", stage, text, err)
			}
			out = append(out, text)
		}
	}
	return out
}

// firstVariants is the selectors with the first of their arguments.
func firstVariants(t *testing.T) (out []string) {
	for _, v := range variants(t, "selector", selectors) {
		name, _, _ := strings.Cut(v, ":")
		if len(out) == 0 || strings.Split(out[len(out)-1], ":")[0] != name {
			out = append(out, v)
		}
	}
	return out
}

// shape is what a case of the matrix runs over: n are the lengths of its sequences.
type shape struct {
	group, dim int
	n          []int
}

// shapes are all groups and sizes, with lengths around the boundaries.
func shapes() (out []shape) {
	lengths := [][]int{{1, 700}, {15, 256, 2}, {16, 513}, {17, 255}, {257, 1, 31}, {2000}, {511, 512}, {272, 48}, {700, 33}}
	dims, groups := []int{32, 64, 128}, []int{1, 3, 7}
	for i, n := range lengths {
		for j := range dims {
			if testing.Short() && n[0]+n[len(n)-1] > 600 {
				continue
			}
			out = append(out, shape{groups[(i+j)%3], dims[j], n})
		}
	}
	return out
}

// batch is several synthetic heads that attend in one step.
type batch struct {
	shape
	texts  []*text
	q      [][]float32
	prompt [][]float32   // queries of the text's own tokens, [n][group·dim]
	heads  [][]denseHead // by sequence and query head
}

// denseHead is a query head's exact logits, and dense attention by its definition.
type denseHead struct {
	s, out []float64
	lse    float64
}

func newBatch(s shape) *batch {
	rng := rand.New(rand.NewPCG(uint64(s.group*1000+s.dim), uint64(s.n[0])))
	b := &batch{shape: s}
	for _, n := range s.n {
		x := newText(rng, n, s.dim)
		q := x.queries(rng, s.group)
		heads := make([]denseHead, s.group)
		for g := range heads {
			h := &heads[g]
			h.s = x.logits(q[g*s.dim:][:s.dim])
			h.out, h.lse = x.attend(h.s, x.from(0))
		}
		prompt := make([]float32, n*s.group*s.dim)
		for i := range prompt {
			prompt[i] = float32(rng.NormFloat64() / math.Sqrt(float64(s.dim)))
		}
		b.texts, b.q, b.prompt, b.heads = append(b.texts, x), append(b.q, q), append(b.prompt, prompt), append(b.heads, heads)
	}
	return b
}

// calls lays the sequences out in a cache of their own and makes their calls.
func (b *batch) calls(seed uint64, p *Pipeline, stats func(i int) *Stats) (calls []Call) {
	rng := rand.New(rand.NewPCG(seed, 0))
	for i, x := range b.texts {
		h, names := x.place(rng, p.Planes())
		calls = append(calls, Call{Pipeline: p, Head: h, Planes: names, KVHead: i, Group: b.group, Q: slices.Clone(b.q[i]), Out: make([]float32, b.group*b.dim), Stats: stats(i)})
	}
	b.remember(calls)
	return calls
}

// remember gives each call a memory of its own that has seen the text as a prompt, in two chunks.
func (b *batch) remember(calls []Call) {
	for i := range calls {
		c := &calls[i]
		c.Memory = new(Memory)
		c.Memory.Prepare(c.Pipeline, Shape{Layers: c.Layer + 1, KVHeads: c.KVHead + 1, Group: b.group, Dim: b.dim})
		if c.Pipeline.Observed() == 0 {
			continue
		}
		n, row := b.n[i]-1, b.group*b.dim
		for _, chunk := range [][2]int{{0, n / 2}, {n / 2, n}} {
			o := Observation{Layer: c.Layer, KVHead: c.KVHead, Group: b.group, Head: c.Head, First: chunk[0], Rows: chunk[1] - chunk[0], Q: b.prompt[i][chunk[0]*row:], Stride: row, Kern: Portable{}}
			o.Head.N = chunk[1]
			if o.Rows > 0 {
				c.Pipeline.Observe(c.Memory, o)
			}
		}
	}
}

func runAll(t failer, x *Exec, calls []Call) {
	for _, c := range calls {
		if err := x.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	x.Run()
}

// crowd runs tasks on several goroutines, out of order.
type crowd struct{}

func (crowd) Workers() int { return 3 }

func (crowd) Run(n int, t Task) {
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := n - 1 - w; i >= 0; i -= 3 {
				t.Do(i)
			}
		})
	}
	wg.Wait()
}

func requireSame(t failer, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: output %d is %v, want the same bits as %v", what, i, got[i], want[i])
		}
	}
}

// pairings are specs in which the selector meets every estimator and every pruner; which of the others stands beside takes turns.
func pairings(s string, est, prun []string, turn *int) (specs []string) {
	for i := range max(len(est), len(prun)) {
		*turn++
		e, p := est[(i+*turn/len(est))%len(est)], prun[i%len(prun)]
		if len(est) > len(prun) {
			e, p = est[i%len(est)], prun[(i+*turn/len(prun))%len(prun)]
		}
		if e != "" {
			p = e + "+" + p
		}
		specs = append(specs, s+"+"+p)
	}
	return specs
}

func TestMatrix(t *testing.T) {
	var specs []string
	sel, est, prun := variants(t, "selector", selectors), append(variants(t, "estimator", estimators), ""), variants(t, "pruner", pruners)
	turn := 0
	for _, s := range sel {
		specs = append(specs, s, "streaming:sink=20,window=300>"+s, s+">quest:keep=0.6+int4+top-p:0.9")
		specs = append(specs, pairings(s, est, prun, &turn)...)
	}
	all := shapes()
	batches := make([]func() *batch, len(all))
	for i, s := range all {
		batches[i] = sync.OnceValue(func() *batch { return newBatch(s) })
	}
	per, every := 1, 1 // shapes a spec: each meets its own, so that every part meets all
	if testing.Short() {
		every = 5
	}
	options := []string{"", ",union", ",exact=0.3", ",tail=mean", ",union,exact=0.5,tail=mean", ",union,tail=mean", ",exact=0.2,tail=mean"}
	at := 0
	for i, spec := range specs {
		if i%every != 0 {
			continue
		}
		t.Run(spec, func(t *testing.T) {
			for k := range per {
				text := spec
				if option := options[(i+k)%len(options)]; option != "" && MustNew(spec).prun != nil {
					if last := spec[strings.LastIndex(spec, "+")+1:]; !strings.Contains(last, ":") {
						option = ":" + option[1:]
					}
					text += option
				}
				if _, err := Parse(text); err != nil && strings.Contains(err.Error(), "does not go with") {
					text = spec
				}
				matrixCase(t, text+"+when:dense-layers=0,min-context=0", batches[at%len(batches)]())
				at++
			}
		})
	}
}

// matrixCase checks everything that holds for any pipeline.
func matrixCase(t *testing.T, spec string, b *batch) {
	p := MustNew(spec)
	own := make([]Stats, len(b.n))
	for i := range own {
		own[i].Measure = true
	}
	x := NewExec(Portable{}, Serial{})
	calls := b.calls(1, p, func(i int) *Stats { return &own[i] })
	runAll(t, x, calls)
	for i := range calls {
		name := fmt.Sprintf("%s: group %d dim %d, sequence %d of lengths %v", spec, b.group, b.dim, i, b.n)
		mass := checkWork(t, name, x.works[i], b.texts[i], b.heads[i])
		checkStats(t, name, x.works[i], &own[i], b.heads[i], mass)
	}
	want := make([][]float32, len(calls))
	for i, c := range calls {
		want[i] = c.Out
	}

	// The same bits in another order, among other sequences, elsewhere in the cache, with several workers and one record of statistics for all.
	var shared Stats
	shared.Measure = true
	moved := b.calls(2, p, func(int) *Stats { return &shared })
	order := slices.Clone(moved)
	slices.Reverse(order)
	runAll(t, NewExec(Portable{}, crowd{}), order)
	for i, c := range moved {
		requireSame(t, spec+", in another batch", c.Out, want[i])
	}
	b.remember(moved)
	for i, c := range moved {
		clear(c.Out)
		runAll(t, x, moved[i:i+1])
		requireSame(t, spec+", alone", c.Out, want[i])
	}
	if keepsAll(p.Spec()) {
		dense := b.calls(3, MustNew("dense"), func(int) *Stats { return nil })
		runAll(t, NewExec(Portable{}, Serial{}), dense)
		for i, c := range dense {
			requireSame(t, spec+", against dense", want[i], c.Out)
		}
	}
}

// keepsAll says whether a spec's survivors are all tokens by definition.
func keepsAll(s Spec) bool {
	full := s.Select.Name == "full" && len(s.Within) == 0 && s.Exact == 0
	switch s.Prune.Name {
	case "":
		return full
	case "top-p":
		return full && len(s.Prune.Args) == 1 && s.Prune.Args[0].Value == "1"
	}
	return false
}

// A step allocates nothing once the scratch has grown.
func TestNoAllocations(t *testing.T) {
	b := newBatch(shape{3, 32, []int{700, 300}})
	for _, sel := range append(variants(t, "selector", selectors), "dense", "streaming>quest") {
		for _, rest := range []string{"", "+int4+top-p:0.9", "+page-range+top-p:0.9,union,tail=mean", "+top-k:k=50,tail=mean", "+block-range+top-p:0.9,union,exact=0.3,tail=mean"} {
			if strings.HasPrefix(sel, "magicpig") { // weighs a token for the head that drew it
				rest = strings.NewReplacer(",union", "", ",exact=0.3", "").Replace(rest)
			}
			spec := sel + rest
			if sel == "dense" && rest != "" {
				continue
			}
			var stats Stats
			x := NewExec(Portable{}, Serial{})
			calls := b.calls(1, MustNew(spec+"+when:dense-layers=0,min-context=0"), func(int) *Stats { return &stats })
			if n := testing.AllocsPerRun(3, func() { runAll(t, x, calls) }); n != 0 {
				t.Errorf("%s: %v allocations a step", spec, n)
			}
		}
	}
}

// A selector within another proposes what both do; the newest page is kept whatever they say.
func TestChain(t *testing.T) {
	b := newBatch(shape{3, 32, []int{700}})
	one := func(spec string) *Work {
		x := NewExec(Portable{}, Serial{})
		runAll(t, x, b.calls(1, MustNew(spec+"+when:dense-layers=0,min-context=0"), func(int) *Stats { return nil }))
		return x.works[0]
	}
	for _, c := range [][2]string{
		{"streaming:sink=20,window=100>full", "streaming:sink=20,window=100"},
		{"full>streaming:sink=20,window=100", "streaming:sink=20,window=100"},
		{"streaming:sink=50,window=90>streaming:sink=20,window=200", "streaming:sink=20,window=90"},
		{"quest:keep=0.5>full>streaming:sink=1,window=1", "streaming:sink=0,window=1"}, // unless Quest takes the first page
	} {
		w, want := one(c[0]), one(c[1])
		if strings.HasPrefix(c[0], "quest") {
			for g := range w.Group {
				for j, p := range w.Pages[:len(w.Pages)-1] {
					if p != 0 || w.keep[g*len(w.Pages)+j]&^1 != 0 {
						t.Errorf("%s: head %d keeps %b of page %d", c[0], g, w.keep[g*len(w.Pages)+j], p)
					}
				}
			}
			continue
		}
		if !slices.Equal(w.Pages, want.Pages) || !slices.Equal(w.keep, want.keep) {
			t.Errorf("%s: pages %v, lanes %b; want %v, %b", c[0], w.Pages, w.keep, want.Pages, want.keep)
		}
		requireSame(t, c[0], w.call.Out, want.call.Out)
	}
}

// Windows of dense attention that start anywhere in a block see exactly their tokens.
func TestWindow(t *testing.T) {
	b := newBatch(shape{3, 32, []int{700}})
	x := NewExec(Portable{}, Serial{})
	for _, first := range []int{0, 1, 15, 16, 255, 256, 257, 511, 600, 699} {
		var stats Stats
		c := b.calls(1, MustNew("full+top-p:0.1"), func(int) *Stats { return &stats })[0]
		c.First, c.Exact = first, true
		runAll(t, x, []Call{c})
		for g := range b.group {
			want, _ := b.texts[0].attend(b.heads[0][g].s, b.texts[0].from(first))
			if d := distance(c.Out[g*b.dim:][:b.dim], want); !(d < 1e-4) {
				t.Errorf("window from %d: head %d is off by %v", first, g, d)
			}
		}
		if stats.Layers[0].Dense != 1 || stats.Summary(b.dim) != (Summary{}) {
			t.Errorf("window from %d: statistics %+v; expected one dense step", first, stats.Layers[0])
		}
	}
}

// Layers and contexts that a spec leaves dense are dense, bit for bit, and are counted as such.
func TestWhen(t *testing.T) {
	b := newBatch(shape{3, 32, []int{300}})
	x := NewExec(Portable{}, Serial{})
	want := b.calls(1, MustNew("dense"), func(int) *Stats { return nil })[0]
	runAll(t, x, []Call{want})
	p := MustNew("streaming:sink=1,window=16+when:dense-layers=1,min-context=300")
	for _, c := range []struct {
		layer, n int
		dense    bool
	}{{0, 300, true}, {1, 300, false}, {1, 299, true}, {7, 300, false}} {
		var stats Stats
		call := b.calls(1, p, func(int) *Stats { return &stats })[0]
		call.Layer, call.Head.N = c.layer, c.n
		runAll(t, x, []Call{call})
		if got := stats.Layers[c.layer].Dense == 1; got != c.dense || p.Sparse(c.layer, c.n) == c.dense {
			t.Errorf("layer %d of %d tokens: dense is %v, want %v", c.layer, c.n, got, c.dense)
		}
		if c.dense && c.n == 300 {
			requireSame(t, "dense layer", call.Out, want.Out)
		}
	}
}

// Damaged keys and queries end as numbers or NaN, never in a panic, and never beside the candidates.
func TestNonFinite(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 12))
	x := newText(rng, 500, 32)
	for i := range 30 {
		x.kh[rng.IntN(len(x.kh))] = []uint16{nan16, 0x7c00, 0xfc00}[i%3]
	}
	clean := x.queries(rng, 3)
	est, prun, turn := append(variants(t, "estimator", estimators), ""), variants(t, "pruner", pruners), 0
	for _, bad := range []float32{0, float32(math.NaN()), float32(math.Inf(1)), 3e38} {
		q := slices.Clone(clean)
		q[5] += bad
		for i := range q {
			if q[i] != q[i] {
				q[i] = bad
			}
		}
		for _, s := range firstVariants(t) {
			for _, spec := range pairings(s, est, prun, &turn) {
				pl := MustNew(spec + "+when:dense-layers=0,min-context=0")
				h, names := x.place(rng, pl.Planes())
				exec := NewExec(Portable{}, Serial{})
				m := new(Memory)
				m.Prepare(pl, Shape{1, 1, 3, 32})
				runAll(t, exec, []Call{{Pipeline: pl, Head: h, Planes: names, Group: 3, Q: q, Out: make([]float32, 3*32), Memory: m}})
				w := exec.works[0]
				for i, keep := range w.keep[:len(w.Pages)*3] {
					if keep&^w.cand[i] != 0 {
						t.Fatalf("%s with %v in the query: survivors beside the candidates", pl.Spec(), bad)
					}
				}
			}
		}
	}
}

func TestAddErrors(t *testing.T) {
	x := NewExec(Portable{}, Serial{})
	p := MustNew("quest")
	for _, c := range []struct {
		call Call
		want string
	}{
		{Call{Pipeline: p, Layer: 3, Group: 33}, "attention: layer 3: 33 query heads share a KV head, at most 32 can"},
		{Call{Pipeline: p, Layer: 3, Group: 0}, "attention: layer 3: 0 query heads share a KV head, at most 32 can"},
		{Call{Pipeline: p, Group: 1, Planes: []string{"int4"}}, "attention: quest reads bounds:16, which this cache does not keep (it keeps [int4])"},
	} {
		if err := x.Add(c.call); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	x.Run() // nothing was added
}

// One executor serves caches that keep the same planes in different places.
func TestRebinding(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 13))
	x := newText(rng, 300, 32)
	q := x.queries(rng, 1)
	p := MustNew("quest:keep=0.5+int4+top-p:0.9+when:dense-layers=0,min-context=0")
	exec := NewExec(Portable{}, Serial{})
	var first []float32
	for _, planes := range [][]Plane{{Bounds{16}, Int4{}}, {Int4{}, ValueSum{}, Bounds{16}}, {Bounds{8}, Bounds{16}, Int4{}}} {
		h, names := x.place(rng, planes)
		out := make([]float32, 32)
		runAll(t, exec, []Call{{Pipeline: p, Head: h, Planes: names, Group: 1, Q: q, Out: out}})
		if first == nil {
			first = out
		}
		requireSame(t, fmt.Sprint(names), out, first)
	}
}
