package kernel

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

func TestSumLanes(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(2)
		for pages := range 35 {
			w, masks := guardedCopy(t, fillNormal(r, make([]float32, 16*pages))), guarded[uint16](t, pages)
			want, size := 0.0, 0.0
			for j := range masks {
				masks[j] = uint16(r.Uint32())
				for i, x := range w[16*j:][:16] {
					if masks[j]>>i&1 == 0 {
						w[16*j+i] = nan // what is not asked for may be anything
						continue
					}
					want, size = want+float64(x), size+math.Abs(float64(x))
				}
			}
			near(t, fmt.Sprintf("%d pages", pages), k.SumLanes(w, masks), want, size*1e-6)
		}
	})
}

func TestLookUp(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(3)
		for _, size := range []int{64, 128, 192, 256} {
			table := guardedCopy(t, fillNormal(r, make([]float32, size)))
			for _, n := range lengths() {
				codes, sum := guarded[uint8](t, n), guardedCopy(t, fillNormal(r, make([]float32, n)))
				for i := range codes {
					codes[i] = uint8(r.IntN(size))
				}
				want := slices.Clone(sum)
				for i, c := range codes {
					want[i] += table[c]
				}
				k.LookUp(sum, codes, table)
				if !slices.Equal(sum, want) {
					t.Fatalf("table of %d, n %d: got %v, want %v", size, n, sum, want)
				}
			}
		}
	})
}

func TestAgree(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(4)
		for _, c := range []struct{ bits, tables int }{{1, 2}, {1, 7}, {2, 3}, {3, 20}, {10, 5}, {32, 2}} {
			all := c.bits * c.tables
			keys := guarded[uint64](t, all*4)
			for i := range keys {
				keys[i] = r.Uint64()
			}
			for _, group := range groups {
				signs, drawn := guarded[uint64](t, group*all), guarded[uint64](t, group*4)
				for g := range group {
					token := r.IntN(blockTokens) // whose signature is the query's but for a few bits
					for j := range all {
						bit := keys[j*4+token/64] >> (token % 64) & 1
						if r.IntN(3*c.bits) == 0 {
							bit ^= 1
						}
						signs[g*all+j] = bit - 1
					}
				}
				k.Agree(drawn, keys, signs, group, c.bits, c.tables)
				for g := range group {
					for token := range blockTokens {
						agreed := 0
						for table := range c.tables {
							same := true
							for j := table * c.bits; j < (table+1)*c.bits; j++ {
								same = same && keys[j*4+token/64]>>(token%64)&1 == signs[g*all+j]+1
							}
							if same {
								agreed++
							}
						}
						if got := drawn[g*4+token/64]>>(token%64)&1 != 0; got != (agreed > 1) {
							t.Fatalf("%+v, group %d: head %d token %d agrees in %d tables, drawn %v", c, group, g, token, agreed, got)
						}
					}
				}
			}
		}
	})
}

// TestLabelDot holds products of labels within what rounding the query to signed bytes may change, against codes centred at 7.5.
func TestLabelDot(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(5)
		for _, channels := range []int{1, 4, 7, 8, 9, 16, 20, 24, 32, 40} {
			b, plane := newBlock(t, r, channels, 16), attention.Int4{}
			codes := guarded[byte](t, plane.BlockBytes(channels))
			plane.Append(codes, attention.Rows{K: b.keys, Dim: channels, To: blockTokens})
			n := plane.PageBytes(channels)
			for _, group := range groups {
				q, ld := queries(t, r, group, channels), blockTokens+group%3
				base := guardedCopy(t, fillNormal(r, make([]float32, group)))
				dst, want := guarded[float32](t, (group-1)*ld+blockTokens), make([]float32, (group-1)*ld+blockTokens)
				tmp := make([]byte, attention.TmpBytes(group, 2*channels))
				for i := range dst {
					dst[i] = nan
				}
				k.LabelDot(dst, ld, q, base, group, channels, codes, tmp)
				attention.Portable{}.LabelDot(want, ld, q, base, group, channels, codes, nil)
				for g := range group {
					top, size := 0.0, 0.0
					for _, x := range q[g*channels:][:channels] {
						top, size = max(top, math.Abs(float64(x))), size+math.Abs(float64(x))
					}
					for i := range blockTokens {
						par := codes[i/16*n+n-64+i%16*2:]
						scale := float64(tensor.F16ToF32(uint16(par[0]) | uint16(par[1])<<8))
						low := math.Abs(float64(tensor.F16ToF32(uint16(par[32]) | uint16(par[33])<<8)))
						tol := scale*7.5*float64(channels)*top/254*1.001 + 1e-5*(size*(15*scale+low)+math.Abs(float64(base[g])))
						near(t, fmt.Sprintf("%d channels, group %d: head %d token %d", channels, group, g, i), dst[g*ld+i], float64(want[g*ld+i]), tol)
					}
					for i := blockTokens; i < ld && g+1 < group; i++ {
						if dst[g*ld+i] == dst[g*ld+i] {
							t.Fatalf("%d channels, group %d: wrote between the heads", channels, group)
						}
					}
				}
			}
		}
	})
}
