package kernel

import (
	"testing"

	"github.com/twilight-go/twilight/attention"
)

// TestNoAllocations holds that no kernel allocates.
func TestNoAllocations(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		const group, dim, n = 3, 64, 48
		r := newRand(1)
		b, head := newBlock(t, r, dim, attention.PageTokens), newHead(t, r, dim, n)
		q, w, acc, at := queries(t, r, group, dim), make([]float32, group*n), make([]float32, group*dim), consecutive[:n]
		dst, tmp, codes, mask := make([]float32, group*blockTokens), make([]byte, attention.TmpBytes(group, dim)), make([]byte, dim*blockTokens), make([]uint16, n)
		p := &Prefill{Dst: make([]float32, len(q)), Q: q, Stride: group * dim, Head: head, Pos: n - 1, Rows: 1, Group: group, Tmp: make([]float32, PrefillTmp(1, group, dim))}
		half, planes := make([]uint16, len(q)), make([]byte, attention.PageRange{Bits: 8}.BlockBytes(dim))
		rows := attention.Rows{K: b.keys, V: b.keys, Dim: dim, From: 5, To: 50, Enc: k}
		words, lanes, list := make([]uint64, 4096), make([]float32, group*attention.PageTokens), make([]int32, 4+attention.PageTokens)
		weigh := &attention.Weighing{Ref: w[:group], Least: w[group:], Sums: acc[:group], Lanes: mask, LanesLD: 1}
		for name, f := range map[string]func(){
			"select": func() {
				k.SumLanes(w, mask[:len(w)/16])
				k.LookUp(w[:n], codes[:n], dst[:64])
				k.Agree(words[:group*4], words[group*4:], words, group, 10, 20)
				k.LabelDot(dst, blockTokens, q, acc, group, 8, planes, tmp)
			},
			"dot":        func() { k.Dot(w, n, q, group, dim, head.K, at, head.V) },
			"accumulate": func() { k.Accumulate(acc, w, n, group, dim, head.V, at, head.K) },
			"reduce": func() {
				k.Exp(w, k.Max(w))
				k.Above(w, 0.5)
				k.SplitLanes(mask, mask, w, at[:1], 0.5, 0.6)
				k.PackPages(dst, w, at[:1], mask)
				k.ListPages(list, mask[:4])
				k.AddRows(acc[:dim], dst, at[:3])
				k.FetchRows(head.K, dim, at)
			},
			"bounds":  func() { k.PageBounds(dst, blockTokens, q, group, dim, attention.BlockPages, b.bounds) },
			"middles": func() { k.PageMiddles(dst, blockTokens, q, group, dim, codes, at[:1], w, attention.Ready{}, tmp) },
			"tokens": func() {
				k.PageTokens(dst, blockTokens, q, group, dim, at[1:3], codes, codes, at[:1], attention.Ready{}, tmp)
			},
			"int4":  func() { k.Int4Dot(dst, blockTokens, q, group, dim, codes, 0x11, tmp) },
			"range": func() { k.PageRangeDot(dst, blockTokens, q, group, dim, 8, b.bounds, codes, 0x11, tmp) },
			"weights": func() {
				k.BlockRangeDot(dst, blockTokens, q, group, dim, 4, codes, at[:1], 1, 0, nil, nil, weigh, tmp)
			},
			"body": func() {
				k.PackLanes(dst, blockTokens, w, n, at[:1], mask[:1], mask[:1], 0, w, at[:1], lanes)
				k.AccumulateCodes(acc, w, n, group, dim, codes, at[:4], 4, tmp)
			},
			"prefill": func() { k.Prefill(p) },
			"encode": func() {
				attention.Bounds{Page: 16}.Append(planes, rows)
				attention.Int4{}.Append(planes, rows)
				attention.PageRange{Bits: 3}.Append(planes, rows)
				attention.ValueSum{}.Append(planes, rows)
				k.ChannelBounds(mask[:32], half[:32], b.keys[:64])
				k.EncodeChannels(planes, 4, acc[:dim], acc[:dim], b.keys)
			},
			"step": func() {
				k.RMSNorm(acc, q, w[:dim], 1e-5)
				k.Rope(acc, dim, w[:dim/2], w[:dim/2], false)
				k.Gate(acc, acc, q, GELU)
				k.Narrow(half, q)
			},
		} {
			if a := testing.AllocsPerRun(10, f); a != 0 {
				t.Errorf("%s allocates %v times", name, a)
			}
		}
	})
}
