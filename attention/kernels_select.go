package attention

import "math"

// words is how many 64-bit words hold a bit of each token of a block.
const words = BlockTokens / 64

// SelectKernels is the arithmetic of selectors that keep codes of their own, part of Kernels.
type SelectKernels interface {
	// SumLanes is the sum of the elements w[j*PageTokens+i] whose bit i of masks[j] is set.
	SumLanes(w []float32, masks []uint16) float32
	// LookUp adds table[codes[i]] to sum[i] (PQCache, arXiv 2407.12820). The table has a multiple of LookUpTable entries, more than any code.
	LookUp(sum []float32, codes []uint8, table []float32)
	// Agree sets drawn[g*4:][:4] to the tokens of a block, a bit each, whose signature agrees with that of query head g in at least two tables (MagicPIG, arXiv 2410.16179).
	// codes is [tables][bits] of four words, a bit for each token; signs is [group][tables][bits], all ones for a bit that is 0 and 0 for one that is 1. drawn is four words a head.
	Agree(drawn, codes, signs []uint64, group, bits, tables int)
	// LabelDot is Int4Dot for all pages of a block, of as few channels as a Labels plane has, plus base[g].
	LabelDot(dst []float32, ld int, q, base []float32, group, channels int, codes []byte, tmp []byte)
}

// LookUpTable is what the sizes of look-up tables are multiples of.
const LookUpTable = 64

// SumLanes implements Kernels.
func (Portable) SumLanes(w []float32, masks []uint16) (sum float32) {
	for j, m := range masks {
		for i, x := range w[j*PageTokens:][:PageTokens] {
			if m>>i&1 != 0 {
				sum += x
			}
		}
	}
	return sum
}

// LookUp implements Kernels.
func (Portable) LookUp(sum []float32, codes []uint8, table []float32) {
	sum = sum[:len(codes)]
	for i, c := range codes {
		sum[i] += table[c]
	}
}

// Agree implements Kernels.
func (Portable) Agree(drawn, codes, signs []uint64, group, bits, tables int) {
	for g := range group {
		var once, twice [words]uint64
		for t := range tables {
			const all = math.MaxUint64
			m := [words]uint64{all, all, all, all}
			table := codes[t*bits*words:][:bits*words]
			for j, other := range signs[(g*tables+t)*bits:][:bits] {
				c := (*[words]uint64)(table[j*words:])
				m[0] &= c[0] ^ other
				m[1] &= c[1] ^ other
				m[2] &= c[2] ^ other
				m[3] &= c[3] ^ other
			}
			for i, m := range m {
				twice[i] |= once[i] & m
				once[i] |= m
			}
		}
		copy(drawn[g*words:][:words], twice[:])
	}
}

// LabelDot implements Kernels.
func (Portable) LabelDot(dst []float32, ld int, q, base []float32, group, channels int, codes []byte, _ []byte) {
	tokenDot(dst, ld, q, group, channels, 4, codes, 0xffff)
	for g := range group {
		scores := dst[g*ld:][:BlockTokens]
		for i := range scores {
			scores[i] += base[g]
		}
	}
}
