package attention

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func init() {
	arguments["quest"] = append(arguments["quest"], "page=8,keep=0.2,reuse=3,reuse-mass=0")
	arguments["oracle-k"] = append(arguments["oracle-k"], "keep=0.2,reuse=4")
}

// A proposal stands for as many steps as it may, with the tokens that came since; forks go on with it, truncation ends it.
func TestReuse(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(81, 81)), 1300, decoderDim)
	q := x.queries(rand.New(rand.NewPCG(82, 82)), decoderGroup)
	for _, inner := range []string{"quest:keep=0.1,page=16", "quest:keep=0.1,page=8,shared", "oracle-k:keep=0.1", "hip:k=64,block=4,sink=0,window=16"} {
		d := newDecoder(MustNew(inner+",reuse=4,reuse-mass=0+when:dense-layers=0,min-context=0"), q)
		fresh := func(n int) []float32 {
			f := newDecoder(MustNew(inner+"+when:dense-layers=0,min-context=0"), q)
			f.fill(x.kh, x.vh, n)
			return f.step(t)
		}
		var set []bool
		for i := range 9 {
			n := 1000 + 20*i
			d.fill(x.kh, x.vh, n)
			out := d.step(t)
			now := d.x.works[0].attended(0)
			if i%4 == 0 {
				requireSame(t, inner+", a step that scans", out, fresh(n))
				set = now
				continue
			}
			since := (1000 + 20*(i/4*4)) / PageTokens * PageTokens // the newest page is always kept
			for token, in := range now {
				if want := token >= len(set) || set[token]; in != want && token < since {
					t.Fatalf("%s: step %d: token %d is attended to: %v, want %v", inner, i, token, in, want)
				} else if token >= len(set) && !in {
					t.Fatalf("%s: step %d: token %d, which is new, is left out", inner, i, token)
				}
			}
		}
		fork := newDecoder(d.p, q)
		d.fill(x.kh, x.vh, 1190)
		fork.mem = d.mem.Fork(d.head.N)
		fork.fill(x.kh, x.vh, 1190)
		requireSame(t, inner+", a fork", fork.step(t), d.step(t))
		fork.mem.Truncate(1170)
		fork.fill(x.kh, x.vh, 1180)
		requireSame(t, inner+", after a truncation", fork.step(t), fresh(1180))
	}
}

// A set that lost its mass is scanned for anew at the next step but one: the step in between finds out.
func TestReuseFloor(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(91, 91)), 1300, decoderDim)
	q := x.queries(rand.New(rand.NewPCG(92, 92)), decoderGroup)
	turned := make([]float32, len(q))
	for i, y := range q {
		turned[i] = -y
	}
	d := newDecoder(MustNew("oracle-k:keep=0.05,reuse=50,reuse-mass=0.8+when:dense-layers=0,min-context=0"), q)
	d.fill(x.kh, x.vh, x.n)
	scans := func() bool {
		d.step(t)
		return d.x.works[0].count.selBytes > 0
	}
	if !scans() || scans() || scans() {
		t.Fatal("the same query is scanned for again, or not at first")
	}
	d.q = turned
	for range 50 { // a turn of all blocks
		if scans() {
			return
		}
	}
	t.Fatal("the opposite query is never scanned for")
}

func TestReuseErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"quest:reuse=0":                  "quest: reuse=0: expected a whole number from 1 to",
		"quest:reuse-mass=2":             "quest: reuse-mass=2: expected a number from 0 to 1",
		"magicpig:reuse=4":               "does not go with a selector that remembers",
		"double-p:reuse=4":               "does not go with a selector that remembers",
		"streaming>quest:reuse=4,keep=2": "quest: keep=2",
	} {
		if _, err := Parse(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want one with %q", spec, err, want)
		}
	}
}
