package kernel

import (
	"fmt"
	"math/bits"
	"testing"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/mem"
	"github.com/twilight-go/twilight/internal/tensor"
)

// heads are the shapes of the catalog's models and of the multi-head view.
var benchShapes = []struct{ group, dim int }{{1, 64}, {1, 128}, {3, 64}, {7, 64}, {4, 128}, {6, 128}, {7, 128}, {4, 256}, {1, 256}}

// slab is huge-page memory of n fp16 values that look like keys.
func slab(b *testing.B, n int) []uint16 {
	m, err := mem.Alloc(2 * n)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := mem.Free(m); err != nil {
			b.Error(err)
		}
	})
	mem.AdviseHuge(m)
	s := mem.Slice[uint16](m)
	r := newRand(1)
	for i := range s {
		s[i] = tensor.F32ToF16(r.Float32() - 0.5)
	}
	return s
}

func benchLevels(b *testing.B, f func(b *testing.B, k Kernels)) {
	for l := isa.Best(); l >= isa.Portable; l-- {
		b.Run(l.String(), func(b *testing.B) { f(b, For(l)) })
	}
}

const benchBytes = 128 << 20 // well beyond the last-level cache

func BenchmarkReadBandwidth(b *testing.B) {
	s := slab(b, benchBytes/2)
	buf := bytesOf(s)
	benchLevels(b, func(b *testing.B, k Kernels) {
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			k.ReadBandwidth(buf)
		}
	})
}

func BenchmarkPeak(b *testing.B) {
	benchLevels(b, func(b *testing.B, k Kernels) {
		b.Run("fma", func(b *testing.B) {
			n := 0
			for b.Loop() {
				n += k.PeakFMA(1 << 20)
			}
			b.ReportMetric(2*float64(n)/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
		})
		b.Run("vnni", func(b *testing.B) {
			n := 0
			for b.Loop() {
				n += k.PeakVNNI(1 << 20)
			}
			b.ReportMetric(2*float64(n)/b.Elapsed().Seconds()*1e-9, "GOP/s")
		})
	})
}

// chunk is how many tokens dense decode takes at a time.
const chunk = 256

func iota32(n int) []int32 {
	at := make([]int32, n)
	for i := range at {
		at[i] = int32(i)
	}
	return at
}

func BenchmarkDot(b *testing.B) {
	benchGather(b, func(k Kernels, q, w, acc []float32, group, dim int, rows []uint16, at []int32) {
		k.Dot(w, chunk, q, group, dim, rows, at, nil)
	})
}

func BenchmarkAccumulate(b *testing.B) {
	benchGather(b, func(k Kernels, q, w, acc []float32, group, dim int, rows []uint16, at []int32) {
		k.Accumulate(acc, w, chunk, group, dim, rows, at, nil)
	})
}

func benchGather(b *testing.B, f func(k Kernels, q, w, acc []float32, group, dim int, rows []uint16, at []int32)) {
	s := slab(b, benchBytes/2)
	benchLevels(b, func(b *testing.B, k Kernels) {
		for _, h := range benchShapes {
			b.Run(fmt.Sprintf("group=%d/dim=%d", h.group, h.dim), func(b *testing.B) {
				r := newRand(2)
				q, w, acc := fillNormal(r, make([]float32, h.group*h.dim)), fillNormal(r, make([]float32, h.group*chunk)), make([]float32, h.group*h.dim)
				at := iota32(len(s) / h.dim)
				b.SetBytes(int64(2 * len(s)))
				for b.Loop() {
					for i := 0; i < len(at); i += chunk {
						f(k, q, w, acc, h.group, h.dim, s, at[i:i+chunk])
					}
				}
			})
		}
	})
}

// BenchmarkDecode is the whole dense step of one KV head at 32K tokens: keys and values once, with the softmax between, in chunks.
func BenchmarkDecode(b *testing.B) {
	s := slab(b, benchBytes/2)
	benchLevels(b, func(b *testing.B, k Kernels) {
		for _, h := range benchShapes {
			b.Run(fmt.Sprintf("group=%d/dim=%d", h.group, h.dim), func(b *testing.B) {
				r := newRand(2)
				q, w, acc := fillNormal(r, make([]float32, h.group*h.dim)), make([]float32, h.group*chunk), make([]float32, h.group*h.dim)
				keys, values := s[:len(s)/2], s[len(s)/2:]
				rows, at := len(keys)/h.dim, iota32(chunk)
				b.SetBytes(int64(2 * len(s)))
				for b.Loop() {
					for i := 0; i < rows; i += chunk {
						k.Dot(w, chunk, q, h.group, h.dim, keys[i*h.dim:], at, values[i*h.dim:])
						for g := range h.group {
							k.Exp(w[g*chunk:][:chunk], k.Max(w[g*chunk:][:chunk]))
						}
						k.Accumulate(acc, w, chunk, h.group, h.dim, values[i*h.dim:], at, keys[min(i+chunk, rows-chunk)*h.dim:])
					}
				}
			})
		}
	})
}

func BenchmarkReduce(b *testing.B) {
	benchLevels(b, func(b *testing.B, k Kernels) {
		const n = 32768
		x, mask := fillNormal(newRand(1), make([]float32, n)), make([]uint16, n/16)
		run := func(name string, f func()) {
			b.Run(name, func(b *testing.B) {
				b.SetBytes(4 * n)
				for b.Loop() {
					f()
				}
			})
		}
		run("max", func() { k.Max(x) })
		run("above", func() { k.Above(x, 0.5) })
		run("lanes", func() { k.Lanes(mask, x, 0.5) })
		run("exp", func() { k.Exp(x, 4) })
		run("weigh", func() { k.Weigh(x, 4) })
	})
}

// BenchmarkSelect is what selectors do with a block of their codes.
func BenchmarkSelect(b *testing.B) {
	benchLevels(b, func(b *testing.B, k Kernels) {
		const group, tables = 3, 150
		r := newRand(1)
		words, codes := make([]uint64, (4+group)*10*tables), make([]byte, blockTokens*64)
		for i := range words {
			words[i] = r.Uint64()
		}
		for i := range codes {
			codes[i] = byte(r.IntN(32)) // as halves, scales and minima are then small
		}
		q, base, dst, drawn := queries(b, r, group, 64), make([]float32, group), fillNormal(r, make([]float32, group*blockTokens)), make([]uint64, 4*group)
		masks, tmp := make([]uint16, attention.BlockPages), make([]byte, attention.TmpBytes(group, 64))
		for name, f := range map[string]func(){
			"lanes":  func() { k.SumLanes(dst[:blockTokens], masks) },
			"lookup": func() { k.LookUp(dst[:blockTokens], codes[:blockTokens], q[:64]) },
			"agree":  func() { k.Agree(drawn, words[group*10*tables:], words, group, 10, tables) },
			"labels": func() { k.LabelDot(dst, blockTokens, q, base, group, 8, codes, tmp) },
		} {
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					f()
				}
			})
		}
	})
}

func BenchmarkStep(b *testing.B) {
	benchLevels(b, func(b *testing.B, k Kernels) {
		const n = 4096
		r := newRand(1)
		x, y, w := fillNormal(r, make([]float32, n)), fillNormal(r, make([]float32, n)), fillNormal(r, make([]float32, n))
		h := make([]uint16, n)
		run := func(name string, f func()) {
			b.Run(name, func(b *testing.B) {
				b.SetBytes(4 * n)
				for b.Loop() {
					f()
				}
			})
		}
		run("rmsnorm", func() { k.RMSNorm(y, x, w, 1e-5) })
		run("rope-halves", func() { k.Rope(y, 128, w[:64], w[64:128], true) })
		run("rope-pairs", func() { k.Rope(y, 128, w[:64], w[64:128], false) })
		run("silu", func() { k.Gate(y, x, w, SiLU) })
		run("gelu", func() { k.Gate(y, x, w, GELU) })
		run("add", func() { k.Add(y, x) })
		run("narrow", func() { k.Narrow(h, x) })
		run("widen", func() { k.Widen(y, h) })
	})
}

// BenchmarkEstimate scans 32K tokens block by block: bytes are those of the metadata and codes that are read.
func BenchmarkEstimate(b *testing.B) {
	const blocks = 128
	benchLevels(b, func(b *testing.B, k Kernels) {
		for _, h := range benchShapes {
			r := newRand(3)
			bl := newBlock(b, r, h.dim, attention.PageTokens)
			q, dst, tmp := queries(b, r, h.group, h.dim), make([]float32, h.group*chunk), make([]byte, attention.TmpBytes(h.group, h.dim))
			meta := len(bl.bounds)
			bounds := slab(b, blocks*meta)
			codes := bytesOf(slab(b, blocks*chunk*h.dim/2))
			for i := range blocks {
				copy(bounds[i*meta:], bl.bounds)
			}
			run := func(name string, size int, f func(block int)) {
				b.Run(fmt.Sprintf("%s/group=%d/dim=%d", name, h.group, h.dim), func(b *testing.B) {
					b.SetBytes(int64(blocks * size))
					for b.Loop() {
						for i := range blocks {
							f(i)
						}
					}
				})
			}
			run("bounds", 2*meta, func(i int) {
				k.PageBounds(dst, attention.BlockPages, q, h.group, h.dim, attention.BlockPages, bounds[i*meta:][:meta])
			})
			n := attention.Middles{}.BlockBytes(h.dim)
			run("middles", n, func(i int) {
				k.PageMiddles(dst, attention.BlockPages, q, h.group, h.dim, codes[i*n:][:n], []int32{0}, make([]float32, h.group), attention.Ready{}, tmp)
			})
			n = attention.BlockRange{Bits: 4}.BlockBytes(h.dim)
			run("tokens", n/4, func(i int) {
				k.PageTokens(dst, attention.BlockPages, q, h.group, h.dim, []int32{1, 4, 6, 9, 12, 17, 20, 30}[:h.dim/32], codes, codes[i%(len(codes)/n)*n:][:n], []int32{0}, attention.Ready{}, tmp)
			})
			n = attention.Int4{}.BlockBytes(h.dim)
			run("int4", n, func(i int) { k.Int4Dot(dst, chunk, q, h.group, h.dim, codes[i%(len(codes)/n)*n:][:n], 0xffff, tmp) })
			for _, nbits := range []int{1, 2, 3, 4, 8} {
				n := attention.PageRange{Bits: nbits}.BlockBytes(h.dim)
				for _, pages := range []uint16{0xffff, 0x1248} {
					set := bits.OnesCount16(pages)
					run(fmt.Sprintf("range%d-%d", nbits, set), 2*meta+n*set/attention.BlockPages, func(i int) {
						k.PageRangeDot(dst, chunk, q, h.group, h.dim, nbits, bounds[i*meta:][:meta], codes[i%(len(codes)/n)*n:][:n], pages, tmp)
					})
				}
			}
		}
	})
}

func bytesOf(s []uint16) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), 2*len(s)) }

// BenchmarkPrefill is a tile of rows at 4K tokens; FLOPs are those of both products over what the rows see.
func BenchmarkPrefill(b *testing.B) {
	benchLevels(b, func(b *testing.B, k Kernels) {
		for _, h := range []struct{ group, dim int }{{1, 64}, {3, 64}, {7, 64}, {6, 128}, {4, 256}} {
			b.Run(fmt.Sprintf("group=%d/dim=%d", h.group, h.dim), func(b *testing.B) {
				const pos = 4096
				rows := 192 / h.group
				r := newRand(1)
				head := newHead(b, r, h.dim, pos+rows)
				x := make([]float32, rows*h.group*h.dim)
				p := &Prefill{Dst: x, Q: fillNormal(r, make([]float32, len(x))), Stride: h.group * h.dim, Head: head, Pos: pos, Rows: rows, Group: h.group, Tmp: make([]float32, PrefillTmp(rows, h.group, h.dim))}
				for b.Loop() {
					k.Prefill(p)
				}
				flops := 4 * float64(h.dim*h.group) * (float64(rows*pos) + float64(rows*(rows+1)/2))
				b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
			})
		}
	})
}
