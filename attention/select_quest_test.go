package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Scores lie at the reach's share of the way from the middle of a page's bounds to their far end, whether bounds are halves or bytes, and in the block being filled.
func TestQuestReach(t *testing.T) {
	const dim, n, group = 32, 2*BlockTokens + 40, 3
	rng := rand.New(rand.NewPCG(7, 1))
	for _, reach := range []float64{0, 0.5, 1} {
		for _, bits := range []int{16, 8} {
			p := MustNew(fmt.Sprintf("quest:keep=0.5,reach=%g,bounds=%d+when:min-context=0", reach, bits))
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
						lo, hi := math.Inf(1), math.Inf(-1)
						for i := page * PageTokens; i < min(n, (page+1)*PageTokens); i++ {
							k := float64(tensor.F16ToF32(w.Head.K[int(w.Head.Row(i))*dim+c]))
							lo, hi = min(lo, k), max(hi, k)
						}
						q := float64(w.Q[g*dim+c])
						want += q*(lo+hi)/2 + reach*math.Abs(q)*(hi-lo)/2
						size += math.Abs(q) * max(math.Abs(lo), math.Abs(hi))
					}
					tolerance := size * 1e-5
					if bits == 8 {
						tolerance = size * 2.1 / boundTop
					}
					if got := float64(w.ScoreSlice(g)[page]); math.Abs(got-want) > tolerance {
						t.Fatalf("reach %g, %d bits: head %d page %d scores %v, want %v within %v", reach, bits, g, page, got, want, tolerance)
					}
				}
			}
		}
	}
}
