package attention

import (
	"fmt"
	"slices"

	"github.com/twilight-go/twilight/internal/tensor"
)

// pqcache is PQCache (arXiv 2407.12820): keys in product-quantised codes. A key is cut into parts; a part's code is the nearest of 2^bits centroids, trained by k-means on the
// sequence's own keys for each layer, KV head and part. A query's products with the centroids make a table, from which every token's logit is a sum of parts look-ups; the best
// tokens are proposed beside the sink and the latest tokens.
//
// Keeps a byte a token and part (at the paper's two parts of six bits, 2 bytes where fp16 keys of 64 channels are 128) and 2^bits fp32 vectors, in the sequence's memory, and reads
// all of it every step. The first decode step trains, once for all forks that start there: pqRounds·min(N, pqSample)·2^bits·dim multiplications a KV head, and as many as N·2^bits·dim to encode. The paper proposes a fifth
// of the tokens, half of them the latest, and ranks them once for the group by the sum of its heads' softmaxes. With heads of 64 channels, parts=8,recent=0.1 is the better choice by far.
type pqcache struct {
	noScan
	keep, recent float64
	parts, bits  int
	sink         int
	perHead      bool
}

const (
	pqRounds = 10   // of k-means
	pqSample = 4096 // tokens that it trains on, evenly spaced
)

func init() {
	RegisterSelector("pqcache", Info{Doc: "tokens by product-quantised keys and look-up tables", Paper: "2407.12820", New: func(a *Args) (any, error) {
		s := pqcache{
			keep:    a.Float("keep", 0.2, 0, 1, "share of the context that is proposed"),
			recent:  a.Float("recent", 0.5, 0, 1, "share of those that are the latest tokens"),
			parts:   a.Int("parts", 2, 1, 64, "parts of a key: 1, 2, 4 … 64, of which each dimension is a multiple"),
			bits:    a.Int("bits", 6, 1, 8, "bits a part"),
			sink:    a.Int("sink", 32, 0, 1<<24, "first tokens always kept"),
			perHead: a.Flag("per-head", "a list for each query head, not one for the group"),
		}
		if s.parts&(s.parts-1) != 0 {
			return nil, fmt.Errorf("parts=%d: expected a power of two", s.parts)
		}
		return s, nil
	}})
}

// pqBooks are a KV head's codebooks.
type pqBooks struct {
	centroids []float32 // [parts][dim/parts][count], so that a key meets all centroids of a part at once
	half      []float32 // [parts][count] half their squared lengths
	count     int
}

// entries is the size of a look-up table.
func (b *pqBooks) entries() int { return (b.count + LookUpTable - 1) / LookUpTable * LookUpTable }

// PerToken implements Coster: a byte a part. Codebooks do not grow with the text.
func (s pqcache) PerToken(dim int) (stores, reads float64) {
	n := float64(s.split(dim))
	return n, n
}

// Remembers implements Remembering: what is learnt does not depend on how much is proposed.
func (s pqcache) Remembers() string {
	return fmt.Sprintf("pqcache books of %d parts, %d bits, sink %d", s.parts, s.bits, s.sink)
}

// NewState implements Stateful.
func (s pqcache) NewState(sh Shape) State { return newLearnt[pqBooks, uint8](s.Remembers(), sh) }

// split is the number of parts for dim channels: fewer than asked for where these do not divide them.
func (s pqcache) split(dim int) int {
	n := s.parts
	for dim%n != 0 {
		n /= 2
	}
	return n
}

// learn trains the codebooks on the first n tokens, the sink aside where there are others.
func (s pqcache) learn(w *Work, n int) *pqBooks {
	dim, parts := w.Head.Dim, s.split(w.Head.Dim)
	first := min(s.sink, n-1)
	sample := min(n-first, pqSample)
	b := &pqBooks{count: min(1<<s.bits, sample), centroids: make([]float32, 0, dim<<s.bits)}
	sub := dim / parts
	keys := make([]uint16, sample*sub)
	of := make([]uint8, sample)
	for p := range parts {
		for i := range sample {
			t := first + i*(n-first)/sample
			copy(keys[i*sub:][:sub], w.key(t)[p*sub:])
		}
		c := trainCentroids(w, keys, sub, b.count, of)
		b.centroids = append(b.centroids, c...)
		b.half = append(b.half, halfSquares(c, b.count)...)
	}
	return b
}

// key is the fp16 key of a token.
func (w *Work) key(t int) []uint16 { return w.Head.K[int(w.Head.Row(t))*w.Head.Dim:][:w.Head.Dim] }

// trainCentroids is k-means from evenly spaced keys; of is scratch, a key's cluster.
func trainCentroids(w *Work, keys []uint16, dim, count int, of []uint8) []float32 {
	n := len(keys) / dim
	c, sizes := make([]float32, dim*count), make([]float32, count)
	for i := range count {
		for j, x := range keys[i*n/count*dim:][:dim] {
			c[j*count+i] = tensor.F16ToF32(x)
		}
	}
	for range pqRounds {
		nearest(w, of, keys, dim, c, halfSquares(c, count))
		clear(sizes)
		for _, i := range of {
			sizes[i]++
		}
		for i, size := range sizes {
			for at := i; size > 0 && at < len(c); at += count { // an empty cluster's centroid stays where it is
				c[at] = 0
			}
		}
		for t, i := range of {
			for j, x := range keys[t*dim:][:dim] {
				c[j*count+int(i)] += tensor.F16ToF32(x)
			}
		}
		for at := range c {
			if size := sizes[at%count]; size > 0 {
				c[at] /= size
			}
		}
	}
	return c
}

// halfSquares is half of each centroid's squared length.
func halfSquares(centroids []float32, count int) []float32 {
	h := make([]float32, count)
	for at, x := range centroids {
		h[at%count] += x * x / 2
	}
	return h
}

// meet adds to dst the products of x with all centroids of a part.
func meet(k Kernels, dst, x, centroids []float32) {
	for j, f := range x {
		k.AddScaled(dst, centroids[j*len(dst):][:len(dst)], f)
	}
}

// nearest sets of[i] to the centroid nearest to key i: that with the largest k·c − c·c/2, of equal ones the first.
func nearest(w *Work, of []uint8, keys []uint16, dim int, centroids, half []float32) {
	count := len(half)
	scratch := w.Scratch(count + dim)
	near, key := scratch[:count], scratch[count:]
	for i := range of {
		tensor.F16sToF32s(key, keys[i*dim:][:dim])
		for c, h := range half {
			near[c] = -h
		}
		meet(w.Kern, near, key, centroids)
		of[i] = uint8(max(slices.Index(near, w.Kern.Max(near)), 0)) // a damaged key is near to none
	}
}

// encode writes the codes of tokens [from,to) of block b: [parts][BlockTokens].
func (s pqcache) encode(w *Work, b *pqBooks, codes []uint8, block, from, to int) {
	dim, parts := w.Head.Dim, s.split(w.Head.Dim)
	sub := dim / parts
	keys := w.halves(sub * (to - from))
	for p := range parts {
		for i := range to - from {
			copy(keys[i*sub:][:sub], w.Head.Keys(block)[(from+i)*dim+p*sub:])
		}
		nearest(w, codes[p*BlockTokens+from:p*BlockTokens+to], keys, sub, b.centroids[p*b.count*sub:][:b.count*sub], b.half[p*b.count:][:b.count])
	}
}

// Choose implements Selector.
func (s pqcache) Choose(w *Work) {
	parts := s.split(w.Head.Dim)
	h := w.State().(*learnt[pqBooks, uint8]).head(w, parts*BlockTokens, s.learn, s.encode)
	n := w.Head.N
	budget := int(s.keep * float64(n-min(s.sink, n)))
	lo := min(s.sink, n)
	hi := max(lo, n-int(float64(budget)*s.recent))
	for g := range w.Group {
		w.Propose(g, 0, lo)
		w.Propose(g, hi, n)
	}
	want := budget - (n - hi)
	rank := hi - lo
	if want < 1 || rank == 0 {
		return
	}
	table := parts * h.params.entries()
	all := w.Scratch(w.Group*rank + rank + table)
	scores, spare, table0 := all[:w.Group*rank], all[w.Group*rank:][:rank], all[(w.Group+1)*rank:]
	for g := range w.Group {
		s.look(w, h, g, lo, scores[g*rank:][:rank], table0)
	}
	w.ReadBytes(n*parts + len(h.params.centroids)*4)
	if !s.perHead {
		shareSoftmax(w.Kern, scores, rank, w.Group, spare)
		w.proposeBestTo(0, w.Group, lo, scores[:rank], want)
		return
	}
	for g := range w.Group {
		w.ProposeBest(g, lo, scores[g*rank:][:rank], want)
	}
}

// look sets the estimated logits of tokens from lo on.
func (s pqcache) look(w *Work, h *learntHead[pqBooks, uint8], g, lo int, score, table []float32) {
	parts := s.split(w.Head.Dim)
	count, entries, sub := h.params.count, h.params.entries(), w.Head.Dim/parts
	q := w.Q[g*w.Head.Dim:][:w.Head.Dim]
	for p := range parts {
		part := table[p*entries:][:entries]
		clear(part)
		meet(w.Kern, part[:count], q[p*sub:][:sub], h.params.centroids[p*sub*count:])
	}
	for i := 0; i < len(score); {
		t := lo + i
		from := t % BlockTokens
		m := min(BlockTokens-from, len(score)-i)
		codes, out := h.blocks[t/BlockTokens].codes, score[i:i+m]
		clear(out)
		for p := range parts {
			w.Kern.LookUp(out, codes[p*BlockTokens+from:][:m], table[p*entries:][:entries])
		}
		i += m
	}
}

// shareSoftmax leaves in the first head's scores the sum over the heads of their softmax.
func shareSoftmax(k Kernels, scores []float32, n, heads int, spare []float32) {
	sum := spare[:n]
	clear(sum)
	for g := range heads {
		score := scores[g*n:][:n]
		k.AddScaled(sum, score, 1/k.Exp(score, k.Max(score)))
	}
	copy(scores[:n], sum)
}
