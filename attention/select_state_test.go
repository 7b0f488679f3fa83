package attention

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// play is a sequence that passes through the layers of a made-up model, with one KV head a layer and the same keys in all.
type play struct {
	text *text
	head Head
	pipe *Pipeline
	exec *Exec
	mem  Memory
}

const playLayers, playGroup, playDim = 4, 3, 32

func newPlay(spec string) *play {
	rng := rand.New(rand.NewPCG(21, 21))
	p := &play{text: newText(rng, 420, playDim), pipe: MustNew(spec + "+when:dense-layers=0,min-context=0"), exec: NewExec(Portable{}, Serial{})}
	p.head, _ = p.text.place(rng, nil)
	return p
}

// fresh is the same text without memory.
func (p *play) fresh() *play { return &play{text: p.text, head: p.head, pipe: p.pipe, exec: p.exec} }

// fork parts at n tokens.
func (p *play) fork(n int) *play {
	f := p.fresh()
	f.mem = p.mem.Fork(n)
	return f
}

// query is the group's queries of a layer at a position.
func (p *play) query(layer, at int) []float32 {
	return p.text.queries(rand.New(rand.NewPCG(uint64(layer), uint64(at))), playGroup)
}

func (p *play) shape() Shape {
	return Shape{Layers: playLayers, KVHeads: 1, Group: playGroup, Dim: playDim}
}

// observe reads tokens [from,to) as a prompt.
func (p *play) observe(from, to int) {
	p.mem.Prepare(p.pipe, p.shape())
	for ; from < to; from += 50 {
		rows := min(50, to-from)
		for l := range playLayers {
			var q []float32
			for i := range rows {
				q = append(q, p.query(l, from+i)...)
			}
			o := Observation{Layer: l, Group: playGroup, Head: p.head, First: from, Rows: rows, Q: q, Stride: playGroup * playDim, Kern: Portable{}}
			o.Head.N = from + rows
			p.pipe.Observe(&p.mem, o)
		}
	}
}

// decode decodes the token after each of the lengths [from,to), all of them in a layer before the next layer, and returns what came out, [layer][step].
func (p *play) decode(t failer, from, to int) (out [][][]float32) {
	p.mem.Prepare(p.pipe, p.shape())
	for l := range playLayers {
		var steps [][]float32
		for n := from + 1; n <= to; n++ {
			c := Call{Pipeline: p.pipe, Layer: l, Head: p.head, Group: playGroup, Q: p.query(l, n-1), Out: make([]float32, playGroup*playDim), Memory: &p.mem}
			c.Head.N = n
			runAll(t, p.exec, []Call{c})
			steps = append(steps, c.Out)
		}
		out = append(out, steps)
	}
	return out
}

func requireSteps(t failer, what string, got, want [][][]float32) {
	t.Helper()
	for l := range want {
		for i := range want[l] {
			requireSame(t, what, got[l][i], want[l][i])
		}
	}
}

// stateful is the specs whose memory is tried; each looks at no more than 20 queries of a prompt.
var stateful = []string{"tidal:budget=40,select=1", "tidal:budget=40,select=0/2>h2o:budget=60,observe=20", "h2o:budget=40,observe=20", "h2o:keep=0.2,observe=0", "snapkv:budget=60,window=20", "snapkv:keep=0.1,window=7>tidal:budget=30"}

// A fork goes its own way: neither it nor what it was forked from notices what the other does.
func TestStateFork(t *testing.T) {
	for _, spec := range stateful {
		t.Run(spec, func(t *testing.T) {
			base := newPlay(spec)
			rapid.Check(t, func(t *rapid.T) {
				prompt := rapid.IntRange(1, 300).Draw(t, "prompt")
				at := prompt + rapid.IntRange(0, 20).Draw(t, "decoded")
				end := at + rapid.IntRange(1, 20).Draw(t, "more")
				want := base.fresh()
				want.observe(0, prompt)
				want.decode(t, prompt, at)
				p := base.fresh()
				p.observe(0, prompt)
				p.decode(t, prompt, at)
				f, other := p.fork(at), p.fork(at)
				if rapid.Bool().Draw(t, "the fork goes first") {
					p, f = f, p
				}
				p.observe(at, at+60) // another text, as far as memory goes
				p.decode(t, at+60, at+70)
				p.mem.Truncate(prompt / 2)
				steps := want.decode(t, at, end)
				requireSteps(t, "beside a fork", f.decode(t, at, end), steps)
				requireSteps(t, "beside two forks", other.decode(t, at, end), steps)
			})
		})
	}
}

// What was cut off leaves no trace: decoded tokens are forgotten back to the prompt, and a prompt that grows again by more than is remembered of one is as if read at once.
func TestStateTruncate(t *testing.T) {
	for _, spec := range stateful {
		t.Run(spec, func(t *testing.T) {
			base := newPlay(spec)
			rapid.Check(t, func(t *rapid.T) {
				prompt := rapid.IntRange(1, 300).Draw(t, "prompt")
				end := prompt + rapid.IntRange(0, 20).Draw(t, "decoded")
				p, want := base.fresh(), base.fresh()
				p.observe(0, prompt)
				p.decode(t, prompt, end)
				at := rapid.IntRange(prompt, end).Draw(t, "cut")
				p.mem.Truncate(at)
				want.observe(0, prompt)
				requireSteps(t, "cut after the prompt", p.decode(t, at, at+10), want.decode(t, at, at+10))

				if spec == "h2o:keep=0.2,observe=0" {
					return // sums of all queries cannot be cut
				}
				at = rapid.IntRange(0, prompt).Draw(t, "cut of the prompt")
				again := at + rapid.IntRange(20, 80).Draw(t, "new prompt")
				p.mem.Truncate(at)
				p.observe(at, again)
				want = base.fresh()
				want.observe(0, again)
				requireSteps(t, "cut within the prompt", p.decode(t, again, again+10), want.decode(t, again, again+10))
			})
		})
	}
}

// Rows that pass a layer together are the same steps as rows one by one.
func TestStateRows(t *testing.T) {
	for _, spec := range stateful {
		one, all := newPlay(spec), newPlay(spec)
		one.observe(0, 100)
		all.observe(0, 100)
		all.decode(t, 100, 103) // a step before
		want := all.decode(t, 103, 130)
		one.decode(t, 100, 103)
		for n := 103; n < 130; n++ {
			for l, steps := range one.decode(t, n, n+1) {
				requireSame(t, spec, steps[0], want[l][n-103])
			}
		}
	}
}

// lately runs a step of one layer and returns the tokens that the query heads attend to.
func (p *play) lately(t failer, layer, n int) [][]bool {
	p.mem.Prepare(p.pipe, p.shape())
	c := Call{Pipeline: p.pipe, Layer: layer, Head: p.head, Group: playGroup, Q: p.query(layer, n-1), Out: make([]float32, playGroup*playDim), Memory: &p.mem}
	c.Head.N = n
	runAll(t, p.exec, []Call{c})
	var in [][]bool
	for g := range playGroup {
		in = append(in, p.exec.works[0].attended(g))
	}
	return in
}

// Layers after a selection layer attend to its tokens, head by head.
func TestTidal(t *testing.T) {
	p := newPlay("tidal:budget=40,select=0/2")
	for n := 200; n < 203; n++ {
		var in [][][]bool
		for l := range playLayers {
			in = append(in, p.lately(t, l, n))
		}
		for g := range playGroup {
			if !slices.Equal(in[0][g], in[1][g]) || !slices.Equal(in[2][g], in[3][g]) || slices.Equal(in[1][g], in[2][g]) {
				t.Errorf("%d tokens, head %d: layers do not share sets as 0=1, 2=3", n, g)
			}
		}
	}
}

// What H2O evicted never returns, and the living are within the budget.
func TestH2OEvicts(t *testing.T) {
	p := newPlay("h2o:budget=40,observe=10")
	p.observe(0, 200)
	before := p.lately(t, 0, 201)[0]
	for n := 202; n < 260; n++ {
		in, count := p.lately(t, 0, n)[0], 0
		newest := (n - 1) / PageTokens * PageTokens
		for i, y := range in {
			if y {
				count++
			}
			if y && i < newest && i < len(before) && !before[i] {
				t.Fatalf("%d tokens: token %d returned", n, i)
			}
		}
		if count > 40+PageTokens {
			t.Fatalf("%d tokens: %d live, the budget is 40", n, count)
		}
		before = in
	}
}

// SnapKV by its definition: the choice of the prompt, the same in every head and step, and everything decoded since.
func TestSnapKV(t *testing.T) {
	const prompt, window, want = 200, 6, 50
	p := newPlay("snapkv:budget=50,window=6,kernel=3")
	p.observe(0, prompt)
	sum := make([]float64, prompt)
	for at := prompt - window; at < prompt; at++ {
		q := p.query(1, at)
		for g := range playGroup {
			s := p.text.logits(q[g*playDim:][:playDim])[:at+1]
			var total float64
			for _, y := range s {
				total += math.Exp(y)
			}
			for i, y := range s {
				sum[i] += math.Exp(y) / total
			}
		}
	}
	pooled := make([]float64, prompt)
	for i := range pooled {
		pooled[i] = slices.Max(sum[max(0, i-1):min(prompt, i+2)])
		if i >= prompt-window {
			pooled[i] = math.Inf(1)
		}
	}
	line := pooled[byFallingScore(pooled)[want-1]]
	for _, n := range []int{prompt + 1, prompt + 30} {
		newest := (n - 1) / PageTokens * PageTokens
		for g, in := range p.lately(t, 1, n) {
			for i, y := range in[:min(newest, prompt)] {
				if math.Abs(pooled[i]/line-1) > 1e-4 && y != (pooled[i] > line) {
					t.Fatalf("%d tokens, head %d: token %d of the prompt, of weight %v to the line's %v, is attended: %v", n, g, i, pooled[i], line, y)
				}
			}
			if slices.Contains(in[prompt:], false) {
				t.Fatalf("%d tokens, head %d: decoded tokens are missing", n, g)
			}
		}
	}
}

// A selector that several pipelines share sees a prompt once, in the layers that any of them finds sparse.
func TestObservers(t *testing.T) {
	pipes := []*Pipeline{MustNew("quest"), MustNew("h2o"), MustNew("h2o>quest+int4+top-p:0.9+when:dense-layers=1"), MustNew("snapkv>h2o"), Watch(func(*Observation) {})}
	shown := map[string]int{}
	watched := 0
	for _, o := range Observers(pipes) {
		if o.watch != nil {
			watched++
		}
		for _, l := range o.chain {
			shown[l.text]++
			if want := map[string]int{"h2o": 1, "snapkv": 2}[l.text]; o.spec.DenseLayers != want {
				t.Errorf("%s is shown layers from %d on, want from %d", l.text, o.spec.DenseLayers, want)
			}
		}
	}
	for spec, want := range map[string]int{"quest": 0, "h2o": 64, "snapkv:window=80>h2o": 80, "snapkv>h2o:observe=0": math.MaxInt} {
		if got := MustNew(spec).Observed(); got != want {
			t.Errorf("%s has to see %d queries, want %d", spec, got, want)
		}
	}
	if watched != 1 || len(shown) != 2 || shown["h2o"] != 1 || shown["snapkv"] != 1 {
		t.Errorf("shown: %v, watching: %d", shown, watched)
	}
}
