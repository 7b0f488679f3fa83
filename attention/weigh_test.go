package attention

import (
	"math/rand/v2"
	"testing"
)

// TestWeightsBeyondRange holds that weights are made again where the newest page says nothing of how large logits are.
func TestWeightsBeyondRange(t *testing.T) {
	const n, dim, group = 600, 32, 2
	rng := rand.New(rand.NewPCG(1, 2))
	x := newText(rng, n, dim)
	q := make([]float32, group*dim)
	for g := range group {
		for c := range dim {
			q[g*dim+c] = float32(10 * (x.k[40+g][c] - x.k[n-1][c]))
		}
	}
	for _, spec := range []string{"full+exact+top-p:0.999,union,exact=0.9", "full+top-p:0.999", "full+int4+top-k:k=20"} {
		p := MustNew(spec + "+when:dense-layers=0,min-context=1")
		head, names := x.place(rng, p.Planes())
		e, out := NewExec(Portable{}, Serial{}), make([]float32, group*dim)
		if err := e.Add(Call{Pipeline: p, Head: head, Planes: names, Group: group, Q: q, Out: out}); err != nil {
			t.Fatal(err)
		}
		e.Run()
		for g := range group {
			logits := x.logits(q[g*dim:][:dim])
			top, newest := logits[0], logits[n-1]
			for i, y := range logits {
				top = max(top, y)
				if i >= n/PageTokens*PageTokens {
					newest = max(newest, y)
				}
			}
			if top-newest < 100 {
				t.Fatalf("head %d: the largest logit is %v, that of the newest page %v: expected them farther apart than floats reach", g, top, newest)
			}
			if w := e.works[0]; !(w.total[g] >= 0.9) || w.total[g] > n {
				t.Errorf("%s: head %d: weights sum to %v from %v, the largest logit being %v", spec, g, w.total[g], w.top[g], top)
			}
			want, _ := x.attend(logits, x.from(0))
			if d := distance(out[g*dim:][:dim], want); d > 1e-3 {
				t.Errorf("%s: head %d: output is off by %v from dense attention, which is all on a token or two", spec, g, d)
			}
		}
	}
}
