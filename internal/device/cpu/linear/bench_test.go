package linear

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/device/cpu/kernel"
	"github.com/twilight-go/twilight/internal/tensor"
)

// benchTypes are the formats that the catalog's models multiply by.
var benchTypes = []tensor.Type{tensor.Q4_1, tensor.Q5_0, tensor.Q8_0, tensor.Q4_K, tensor.Q6_K, tensor.F16}

// benchMatrices packs copies of a matrix until they take size bytes together, so that none is in a cache when its turn comes.
func benchMatrices(b *testing.B, typ tensor.Type, rows, cols, size int) (all []*Matrix) {
	data := randomData(rand.New(rand.NewPCG(1, 1)), typ, rows, cols)
	for total := 0; total < size; {
		m := pack(b, typ, rows, cols, data)
		all = append(all, m)
		total += m.Bytes()
	}
	return all
}

var sink uint64

// BenchmarkDecode is one matrix-vector product, in one plane of activations and in two, after another, from memory: 256 MiB of matrices in turn. It reports the bytes of
// packed weights a second, and the same as a share of what a plain read loop gets from the same memory; the two take turns, matrix by
// matrix, and the medians count.
func BenchmarkDecode(b *testing.B) {
	roof := kernel.For(isa.Best())
	for _, l := range levels() {
		for _, typ := range benchTypes {
			for _, s := range []struct{ rows, cols, planes int }{{1536, 576, 1}, {1536, 576, 2}, {1536, 8960, 1}, {896, 4864, 1}} {
				b.Run(fmt.Sprintf("%s/%s/%dx%d/planes=%d", l, typ, s.rows, s.cols, s.planes), func(b *testing.B) {
					if s.cols%typ.BlockLen() != 0 {
						b.Skip("columns are not whole blocks")
					}
					all := benchMatrices(b, typ, s.rows, s.cols, 256<<20)
					var x Activations
					Quantize(&x, randomFloats(rand.New(rand.NewPCG(1, 1)), s.cols), 1, s.cols, s.planes)
					dst := make([]float32, s.rows)
					var read, mul []float64
					for b.Loop() {
						for i, m := range all {
							start := time.Now()
							sink += roof.ReadBandwidth(all[(i+len(all)/2)%len(all)].data)
							read = append(read, time.Since(start).Seconds())
							restore := isa.Limit(l)
							start = time.Now()
							m.Mul(dst, 0, &x, 0, s.rows)
							mul = append(mul, time.Since(start).Seconds())
							restore()
						}
					}
					slices.Sort(read)
					slices.Sort(mul)
					bytes := float64(all[0].Bytes())
					b.ReportMetric(bytes/mul[len(mul)/2]/1e9, "GB/s")
					b.ReportMetric(100*read[len(mul)/2]/mul[len(mul)/2], "%read")
					b.ReportMetric(0, "ns/op")
				})
			}
		}
	}
}

// BenchmarkPrompt is a matrix-matrix product, in ranges of rows as a worker pool gives them, quantisation of the activations included.
func BenchmarkPrompt(b *testing.B) {
	for _, l := range levels() {
		for _, typ := range benchTypes {
			for _, s := range []struct{ rows, cols, n, planes int }{{1536, 576, 512, 1}, {1536, 576, 512, 2}, {576, 1536, 512, 1}, {1536, 8960, 512, 1}, {1536, 1536, 8, 1}, {1536, 1536, 64, 1}} {
				b.Run(fmt.Sprintf("%s/%s/%dx%d/n=%d/planes=%d", l, typ, s.rows, s.cols, s.n, s.planes), func(b *testing.B) {
					if s.cols%typ.BlockLen() != 0 {
						b.Skip("columns are not whole blocks")
					}
					defer isa.Limit(l)()
					m := benchMatrices(b, typ, s.rows, s.cols, 1)[0]
					var x Activations
					given := randomFloats(rand.New(rand.NewPCG(1, 1)), s.n*s.cols)
					dst := make([]float32, s.rows*s.n)
					for b.Loop() {
						Quantize(&x, given, s.n, s.cols, s.planes)
						for r := 0; r < s.rows; r += 256 {
							m.Mul(dst, s.rows, &x, r, min(r+256, s.rows))
						}
					}
					b.ReportMetric(2*float64(s.rows)*float64(s.cols)*float64(s.n)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GOP/s")
				})
			}
		}
	}
}

func BenchmarkQuantize(b *testing.B) {
	for _, l := range levels() {
		for planes := 1; planes <= 2; planes++ {
			b.Run(fmt.Sprintf("%s/planes=%d", l, planes), func(b *testing.B) {
				defer isa.Limit(l)()
				var x Activations
				given := randomFloats(rand.New(rand.NewPCG(1, 1)), 64*1536)
				b.SetBytes(int64(4 * len(given)))
				for b.Loop() {
					Quantize(&x, given, 64, 1536, planes)
				}
			})
		}
	}
}

func BenchmarkPack(b *testing.B) {
	for _, typ := range benchTypes {
		b.Run(typ.String(), func(b *testing.B) {
			data := randomData(rand.New(rand.NewPCG(1, 1)), typ, 1024, 1536)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				m, err := Pack(typ, 1024, 1536, data, nil)
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
