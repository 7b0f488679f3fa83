package attention

import (
	"math"

	"github.com/twilight-go/twilight/internal/tensor"
)

// doubleP is Double-P (arXiv 2602.05191): keys are clustered, a cluster weighs its size times the exponential of its centroid's logit, and two nested top-p sets decide how a
// cluster is attended to: those of the inner set token by token, the others of the outer set by their centroid's logit and their mean value, the rest not at all.
//
// Keeps a Clusters plane (at 8 tokens a cluster an eighth of an fp16 cache again: centroid and mean of each) and reads the centroids every step, the means of what it
// summarises, and the keys of the block that is still filling. The paper clusters a prompt as a whole; here each block is clustered as soon as it is full, so that generated
// tokens are as good as the prompt's and a fork shares its clusters. A centroid's logit is less than its members' mean weight says, the more so the larger the cluster: with 16 tokens a cluster and
// p=0.95, refine=0.8 the small models measured keep .72–.74 of the mass where .95 is estimated, hence the defaults. The block being filled is read token by token, and its exact logits count in both sets.
type doubleP struct {
	clusters  Clusters
	p, refine float64
	planes    []Plane
}

func init() {
	RegisterSelector("double-p", Info{Doc: "clusters by two nested top-p sets: read, summarised, or left out", Paper: "2602.05191", New: func(a *Args) (any, error) {
		s := doubleP{
			p:        a.Float("p", 0.99, 0, 1, "estimated mass that is attended to"),
			refine:   a.Float("refine", 0.95, 0, 1, "estimated mass that is attended to token by token"),
			clusters: Clusters{a.Int("size", 8, 8, 64, "tokens a cluster: 8, 16, 32 or 64")},
		}
		if n := s.clusters.Size; n&(n-1) != 0 {
			return nil, unexpected("size", n, "8, 16, 32 or 64")
		}
		s.planes = []Plane{s.clusters}
		return s, nil
	}})
}

// Planes implements Selector.
func (s doubleP) Planes() []Plane { return s.planes }

// Summarises implements Summariser.
func (doubleP) Summarises() {}

// clustered is how many blocks are attended to by clusters. The newest page is always read, so its block never is, even when it is full.
func (doubleP) clustered(n int) int { return (n - 1) / BlockTokens }

// Scores implements Selector: those of the clusters and of the newest block's tokens.
func (s doubleP) Scores(n int) int { return s.clustered(n)*s.clusters.Count() + BlockTokens }

// Scan implements Selector.
func (s doubleP) Scan(w *Work, lo, hi int) {
	n, dim, full := s.clusters.Count(), w.Head.Dim, s.clustered(w.Head.N)
	for b := lo; b < min(hi, full); b++ {
		centroids, _, members := s.clusters.views(w.SelectorPlane(0, b), dim)
		w.Kern.Dot(w.AllScores()[b*n:], w.ScoreStride(), w.Q, w.Group, dim, centroids, consecutive[:n], nil)
		for c := range n {
			size := logSize[clusterSize(members, c)]
			for g := range w.Group {
				w.ScoreSlice(g)[b*n+c] += size
			}
		}
	}
	if hi > full {
		w.Kern.Dot(w.AllScores()[full*n:], w.ScoreStride(), w.Q, w.Group, dim, w.Head.Keys(full), consecutive[:w.Head.N-full*BlockTokens], nil)
	}
}

// Choose implements Selector.
func (s doubleP) Choose(w *Work) {
	dim, full := w.Head.Dim, s.clustered(w.Head.N)
	per, newest := s.clusters.Count(), w.Head.N-full*BlockTokens
	n := full * per
	marks := w.Ints(2 * n)
	read, summarised := marks[:n], marks[n:] // for each cluster a bit for each query head
	clear(marks)
	for g := range w.Group {
		w.Propose(g, full*BlockTokens, w.Head.N)
		s.mark(w, g, n, newest, read, summarised)
	}
	means := 0
	for c := range n {
		if w.call.Pipeline.spec.Union && read[c] != 0 { // what one head reads all attend to: nobody may count it twice
			read[c], summarised[c] = int32(w.everyHead()), 0
		}
		if read[c]|summarised[c] == 0 {
			continue
		}
		_, mean, members := s.clusters.views(w.SelectorPlane(0, c/per), dim)
		members = members[c%per*BlockPages:][:BlockPages]
		v := w.Scratch(dim)
		for g := range w.Group {
			switch {
			case read[c]>>g&1 != 0 || summarised[c]>>g&1 != 0 && !w.within(g, c/per, members):
				for p, m := range members {
					w.ProposeLanes(g, c/per*BlockPages+p, m)
				}
			case summarised[c]>>g&1 != 0:
				tensor.F16sToF32s(v, mean[c%per*dim:][:dim])
				w.Summarise(g, w.ScoreSlice(g)[c], 1, v)
				means++
			}
		}
	}
	w.ReadBytes(full*(per*dim*2+per*BlockPages*2) + newest*dim*2 + means*dim*2)
}

// mark decides what query head g does with each of n clusters, beside so many tokens of the newest block.
func (s doubleP) mark(w *Work, g, n, newest int, read, summarised []int32) {
	weights := w.Scratch(n + newest)
	copy(weights, w.ScoreSlice(g))
	total := w.Kern.Exp(weights, w.Kern.Max(weights))
	own, _ := w.Kern.Above(weights[n:], 0)
	weights = weights[:n]
	inner := clusterThreshold(w.Kern, weights, float32(s.refine)*total-own)
	outer := clusterThreshold(w.Kern, weights, float32(s.p)*total-own)
	for c, x := range weights {
		if x >= inner {
			read[c] |= 1 << g
		} else if x >= outer {
			summarised[c] |= 1 << g
		}
	}
}

// clusterThreshold is the largest weight such that the clusters of at least this weight hold the mass; those that weigh nothing are never among them.
func clusterThreshold(k Kernels, weights []float32, mass float32) float32 {
	if mass <= 0 {
		return float32(math.Inf(1))
	}
	s := newSearch(k, weights[:len(weights):len(weights)], math.SmallestNonzeroFloat32) // no room: the weights stay in place
	return s.threshold(k, mass, exactGrid, 0)
}

// within reports whether the chain's earlier selectors leave query head g all members of a cluster of block b: only then may it be summarised.
func (w *Work) within(g, b int, members []uint16) bool {
	for p, m := range members {
		if m&^w.Bounded(g, b*BlockPages+p) != 0 {
			return false
		}
	}
	return true
}
