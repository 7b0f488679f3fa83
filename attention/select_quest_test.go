package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Scores lie at the reach's share of the way from the middle of a page's bounds to their far end, or, by middles in codes, in the middle.
func TestQuestReach(t *testing.T) {
	const dim, n, group = 32, 2*BlockTokens + 40, 3
	rng := rand.New(rand.NewPCG(7, 1))
	for _, reach := range []float64{0, 0.5, 1} {
		for _, how := range []string{fmt.Sprintf("reach=%g", reach), "middle"} {
			if how == "middle" && reach > 0 {
				continue
			}
			p := MustNew("quest:keep=0.5," + how + "+when:min-context=0")
			x, exec := newText(rng, n, dim), NewExec(Portable{}, Serial{})
			head, names := x.place(rng, p.Planes())
			call := Call{Pipeline: p, Layer: 2, Head: head, Planes: names, Group: group, Q: x.queries(rng, group), Out: make([]float32, group*dim)}
			if err := exec.Add(call); err != nil {
				t.Fatal(err)
			}
			exec.Run()
			w := exec.works[0]
			for g := range group {
				for page := range w.Head.Pages() {
					want, size := 0.0, 0.0
					for c := range dim {
						lo, hi, sum, tokens := math.Inf(1), math.Inf(-1), 0.0, 0
						for i := page * PageTokens; i < min(n, (page+1)*PageTokens); i++ {
							k := float64(tensor.F16ToF32(w.Head.K[int(w.Head.Row(i))*dim+c]))
							lo, hi, sum, tokens = min(lo, k), max(hi, k), sum+k, tokens+1
						}
						q := float64(w.Q[g*dim+c])
						if how == "middle" && page >= n/BlockTokens*BlockPages {
							lo, hi = sum/float64(tokens), sum/float64(tokens) // the block being filled has no middles: the mean stands in
						}
						want += q*(lo+hi)/2 + reach*math.Abs(q)*(hi-lo)/2
						size += math.Abs(q) * max(math.Abs(lo), math.Abs(hi))
					}
					tolerance := size * 1e-5
					if how == "middle" {
						tolerance = size * 1.1 / 15
					}
					if got := float64(w.ScoreSlice(g)[page]); math.Abs(got-want) > tolerance {
						t.Fatalf("reach %g, %s: head %d page %d scores %v, want %v within %v", reach, how, g, page, got, want, tolerance)
					}
				}
			}
		}
	}
}
