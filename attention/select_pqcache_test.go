package attention

import (
	"math"
	"math/rand/v2"
	"testing"
)

// PQCache's scores are products with decoded keys, and a code is the nearest centroid.
func TestPQCacheScores(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(41, 41)), 600, decoderDim)
	d := newDecoder(MustNew("pqcache:parts=4,bits=5+when:dense-layers=0,min-context=0"), x.queries(rand.New(rand.NewPCG(42, 42)), decoderGroup))
	d.fill(x.kh, x.vh, x.n)
	d.step(t)
	s, h := pqcache{parts: 4, bits: 5}, &d.mem.kept[0].state.(*learnt[pqBooks, uint8]).heads[0]
	const sub = decoderDim / 4
	score, table := make([]float32, x.n-3), make([]float32, 4*h.params.entries())
	for g := range decoderGroup {
		s.look(d.x.works[0], h, g, 3, score, table)
		for i, got := range score {
			token := i + 3
			want, size := 0.0, 0.0
			for p := range 4 {
				code, best, at := int(h.blocks[token/BlockTokens].codes[p*BlockTokens+token%BlockTokens]), math.Inf(1), 0
				for c := range h.params.count {
					far := 0.0
					for j := range sub {
						y := h.params.centroids[(p*sub+j)*h.params.count+c]
						far += (float64(y) - x.k[token][p*sub+j]) * (float64(y) - x.k[token][p*sub+j])
					}
					if far < best-1e-3 {
						best, at = far, c
					}
					if c == code && far > best+1e-3 {
						t.Fatalf("token %d part %d: code %d is %v away, %d is %v", token, p, code, far, at, best)
					}
				}
				for j := range sub {
					y := h.params.centroids[(p*sub+j)*h.params.count+code]
					want += float64(d.q[g*decoderDim+p*sub+j]) * float64(y)
					size += math.Abs(float64(d.q[g*decoderDim+p*sub+j]) * float64(y))
				}
			}
			near(t, "score", got, want, size)
		}
	}
}
