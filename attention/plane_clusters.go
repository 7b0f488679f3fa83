package attention

import (
	"fmt"
	"math"
	"math/bits"
	"sync"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Clusters groups each block's tokens by their keys, by k-means, once the block is full; before that its bytes are zero. Layout of a block of C = BlockTokens/Size clusters:
// fp16 centroids [C][dim], fp16 mean values [C][dim], then the members as lanes, uint16 [C][BlockPages]. A cluster may be empty.
//
// Filling a block takes clusterRounds·256·C·dim multiplications: a millisecond a KV head, each 256 tokens.
type Clusters struct {
	Size int // tokens a cluster on average: 8, 16, 32 or 64
}

// clusterRounds is how often k-means assigns the tokens anew. From evenly spaced first centroids few change after the fifth time.
const clusterRounds = 5

// Name implements Plane.
func (p Clusters) Name() string { return fmt.Sprintf("clusters:%d", p.Size) }

// Count is the number of clusters a block.
func (p Clusters) Count() int { return BlockTokens / p.Size }

// BlockBytes implements Plane: 4 bytes a channel and cluster, and the members.
func (p Clusters) BlockBytes(dim int) int { return p.Count() * (4*dim + 2*BlockPages) }

// views are the parts of a block.
func (p Clusters) views(block []byte, dim int) (centroids, means, members []uint16) {
	b, n := as[uint16](block), p.Count()
	return b[:n*dim], b[n*dim:][:n*dim], b[2*n*dim:][:n*BlockPages]
}

// clusterSize is the number of tokens of cluster c.
func clusterSize(members []uint16, c int) (n int) {
	m := members[c*BlockPages:][:BlockPages]
	for i := 0; i < BlockPages; i += 4 { // four lanes of pages a count
		n += bits.OnesCount64(uint64(m[i]) | uint64(m[i+1])<<16 | uint64(m[i+2])<<32 | uint64(m[i+3])<<48)
	}
	return n
}

// kmeans is the scratch of an Append.
type kmeans struct {
	keys, centroids []float32
	part            pqPart    // the centroids as keys are compared with them, and others, of no use, to a multiple of clusterColumns
	near            []float32 // of a batch of keys
	of              [BlockTokens]uint8
	count           []int
}

// clusterColumns is what the number of centroids is rounded up to, for kernels that take so many at a time.
const clusterColumns = 32

var kmeansScratch = sync.Pool{New: func() any { return new(kmeans) }}

// Append implements Plane.
func (p Clusters) Append(dst []byte, r Rows) {
	if r.To < BlockTokens {
		return
	}
	s := kmeansScratch.Get().(*kmeans)
	defer kmeansScratch.Put(s)
	s.cluster(r.kernels(), r.K[:BlockTokens*r.Dim], r.Dim, p.Count())
	centroids, means, members := p.views(dst, r.Dim)
	tensor.F32sToF16s(centroids, s.centroids)
	clear(members)
	for t, c := range s.of {
		members[int(c)*BlockPages+t/PageTokens] |= 1 << (t % PageTokens)
	}
	s.mean(r.V[:BlockTokens*r.Dim], r.Dim)
	tensor.F32sToF16s(means, s.centroids)
}

// cluster assigns the keys to n clusters. The first centroids are evenly spaced tokens, of which the first is a sequence's sink, so that the sink stays by itself.
func (s *kmeans) cluster(k Kernels, keys []uint16, dim, n int) {
	s.keys, s.centroids, s.count = grow(s.keys, len(keys)), grow(s.centroids, n*dim), grow(s.count, n)
	columns := (n + clusterColumns - 1) / clusterColumns * clusterColumns
	s.part.centroids, s.part.bias = grow(s.part.centroids, dim*columns), grow(s.part.bias, columns)
	clear(s.part.centroids)
	for c := n; c < columns; c++ {
		s.part.bias[c] = -math.MaxFloat32 / 2 // finite: kernels are slow with infinities
	}
	s.near = grow(s.near, nearestScratch(columns))
	tensor.F16sToF32s(s.keys, keys)
	for c := range n {
		copy(s.centroids[c*dim:][:dim], s.keys[c*(BlockTokens/n)*dim:])
	}
	for range clusterRounds {
		for c := range n {
			s.part.set(c, s.centroids[c*dim:][:dim])
		}
		s.part.nearest(k, s.near, s.of[:], s.keys, dim)
		s.average(dim)
	}
}

// mean leaves the clusters' mean values in the centroids.
func (s *kmeans) mean(values []uint16, dim int) {
	tensor.F16sToF32s(s.keys, values)
	s.average(dim)
}

// average makes each centroid the mean of its members' vectors; that of an empty cluster stays as it is.
func (s *kmeans) average(dim int) {
	clear(s.count)
	for _, c := range s.of {
		s.count[c]++
	}
	for c, n := range s.count {
		if n > 0 {
			clear(s.centroids[c*dim:][:dim])
		}
	}
	for t, c := range s.of {
		sum := s.centroids[int(c)*dim:][:dim]
		for i, x := range s.keys[t*dim:][:dim] {
			sum[i] += x
		}
	}
	for c, n := range s.count {
		if n > 0 {
			inv := 1 / float32(n)
			for i := range s.centroids[c*dim:][:dim] {
				s.centroids[c*dim+i] *= inv
			}
		}
	}
}

// dot is a·b in four running sums.
func dot(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += a[i] * b[i]
		s1 += a[i+1] * b[i+1]
		s2 += a[i+2] * b[i+2]
		s3 += a[i+3] * b[i+3]
	}
	for ; i < len(a); i++ {
		s0 += a[i] * b[i]
	}
	return s0 + s1 + (s2 + s3)
}

// logSize is the logarithm of a cluster's size, −Inf of an empty one.
var logSize = func() (l [BlockTokens + 1]float32) {
	for i := range l {
		l[i] = float32(math.Log(float64(i)))
	}
	return l
}()
