package cuda

import (
	"fmt"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// HeadStats is what a step attended to, of one query head.
type HeadStats struct {
	Candidates, Own float32 // tokens: of the selection, and survivors of this head
	Exact, Others   float32 // survivors of the group: read exactly, and as codes
	Held            float32 // estimated share of the candidates' mass that the survivors hold
}

// Stats reads the statistics of the last sparse step of batch sequences, [batch·KVHeads][Group]. It waits for the device.
func (o *Operator) Stats(c *driver.Context, batch int) ([]HeadStats, error) {
	units, ranks := batch*o.KVHeads, o.ranks(batch)
	sums, counts := make([]float32, units*maxRanks*maxGroup*4), make([]int32, units*maxRanks*2)
	if err := c.Download(bytesOf(sums), o.p.sums); err != nil {
		return nil, err
	}
	if err := c.Download(bytesOf(counts), o.p.counts); err != nil {
		return nil, err
	}
	out := make([]HeadStats, 0, units*o.Group)
	for u := range units {
		for g := range o.Group {
			if whole := counts[u*maxRanks*2:]; whole[0] < 0 {
				n := float32(whole[1])
				out = append(out, HeadStats{n, n, n, 0, 1})
				continue
			}
			var x HeadStats
			var all, kept float32
			for r := u * maxRanks; r < u*maxRanks+ranks; r++ {
				s := sums[(r*maxGroup+g)*4:]
				all, kept = all+s[0], kept+s[1]
				x.Own, x.Candidates = x.Own+s[2], x.Candidates+s[3]
				x.Exact, x.Others = x.Exact+float32(counts[2*r]), x.Others+float32(counts[2*r+1])
			}
			x.Held = min(kept/all, 1)
			out = append(out, x)
		}
	}
	return out, nil
}

// Survivors reads the tokens that a unit (sequence·KVHeads + head of the last sparse step, a Readable one) attended to, and the mask of the heads that each belongs to.
func (o *Operator) Survivors(c *driver.Context, unit, tokens, batch int) (exact, others []int32, heads []uint8, err error) {
	ranks := o.ranks(batch)
	cap := o.stride * attention.BlockTokens
	list, counts, parts := make([]uint32, cap), make([]int32, maxRanks*2), make([]int32, maxRanks*maxWarps*4)
	if err = c.Download(bytesOf(list), o.p.list+driver.Ptr(unit*cap*4)); err != nil {
		return nil, nil, nil, err
	}
	if err = c.Download(bytesOf(counts), o.p.counts+driver.Ptr(unit*maxRanks*8)); err != nil {
		return nil, nil, nil, err
	}
	if err = c.Download(bytesOf(parts), o.p.listParts+driver.Ptr(unit*maxRanks*maxWarps*16)); err != nil {
		return nil, nil, nil, err
	}
	blocks := attention.BlocksOf(tokens)
	if counts[0] < 0 { // read whole
		for t := range tokens {
			exact, heads = append(exact, int32(t)), append(heads, 0xff)
		}
		return exact, nil, heads, nil
	}
	end := 0
	for r := range ranks {
		start := end
		end += (blocks + ranks - 1 - r) / ranks * attention.BlockTokens
		token := func(x uint32) int32 { // of the sequence
			t := x & 0xffffff
			return int32((int(t/attention.BlockTokens)*ranks+r)*attention.BlockTokens) + int32(t%attention.BlockTokens)
		}
		for w := range maxWarps {
			part := parts[(r*maxWarps+w)*4:]
			from, to, a, b := int(part[0]), int(part[1]), int(part[2]), int(part[3])
			if from < 0 || a < 0 || b < 0 || from+a+b > to || to > end-start {
				return nil, nil, nil, fmt.Errorf("cuda: unit %d lists %d and %d survivors among %d tokens: the last step had other sequences", unit, a, b, end-start)
			}
			for _, x := range list[start+from : start+from+a] {
				exact, heads = append(exact, token(x)), append(heads, uint8(x>>24))
			}
			for _, x := range list[start+to-b : start+to] {
				others = append(others, token(x))
			}
		}
	}
	return exact, others, heads, nil
}

// inOrder puts what ranks have of a unit's blocks, each every ranks-th of them and `each` elements of one, in the order of the sequence.
func inOrder[T any](of []T, blocks, ranks, each int) []T {
	all, at := make([]T, len(of)), 0
	for r := range ranks {
		for b := r; b < blocks; b += ranks {
			copy(all[b*each:], of[at:min(at+each, len(of))])
			at += each
		}
	}
	return all
}

// Candidates reads, of a unit of the last sparse step, a Readable one, the mask of heads that each page was a candidate of.
func (o *Operator) Candidates(c *driver.Context, unit, tokens, batch int) ([]uint8, error) {
	blocks := attention.BlocksOf(tokens)
	pages := make([]uint8, blocks*attention.BlockPages)
	err := c.Download(pages, o.p.pages+driver.Ptr(unit*o.stride*attention.BlockPages))
	return inOrder(pages, blocks, o.ranks(batch), attention.BlockPages)[:ceil(tokens, attention.PageTokens)], err
}
