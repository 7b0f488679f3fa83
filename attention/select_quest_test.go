package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Scores lie at the reach's share of the way from the middle of a page's bounds to their far end, or, by middles, as far away on average over the channels.
func TestQuestReach(t *testing.T) {
	const dim, n, group = 32, 2*BlockTokens + 40, 3
	rng := rand.New(rand.NewPCG(7, 1))
	for _, reach := range []float64{0, 0.5, 1} {
		for _, how := range []string{"page=16", "middle"} {
			p := MustNew(fmt.Sprintf("quest:keep=0.5,reach=%g,%s+when:min-context=0", reach, how))
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
					if how == "middle" && page >= n/BlockTokens*BlockPages { // of the block being filled
						if !slices.Contains(w.Pages, int32(page)) {
							t.Fatalf("reach %g, %s: page %d is not proposed", reach, how, page)
						}
						continue
					}
					want, size, span, tokens := 0.0, 0.0, 0.0, min(n, (page+1)*PageTokens)-page*PageTokens
					logits := make([]float64, tokens)
					for c := range dim {
						lo, hi, q := math.Inf(1), math.Inf(-1), float64(w.Q[g*dim+c])
						for i := range logits {
							k := float64(tensor.F16ToF32(w.Head.K[int(w.Head.Row(page*PageTokens+i))*dim+c]))
							lo, hi = min(lo, k), max(hi, k)
							logits[i] += q * k
						}
						want += q * (lo + hi) / 2
						span += (hi - lo) / 2
						if how != "middle" {
							want += reach * math.Abs(q) * (hi - lo) / 2
						}
						size += math.Abs(q) * max(math.Abs(lo), math.Abs(hi))
					}
					tolerance := size * 1e-5
					switch {
					case how == "middle":
						tolerance = size * 1.1 / 15
						for c := range dim {
							want += reach * math.Abs(float64(w.Q[g*dim+c])) * span / dim
						}
					}
					if got := float64(w.ScoreSlice(g)[page]); math.Abs(got-want) > tolerance {
						t.Fatalf("reach %g, %s: head %d page %d scores %v, want %v within %v", reach, how, g, page, got, want, tolerance)
					}
				}
			}
		}
	}
}
