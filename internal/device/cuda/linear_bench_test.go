package cuda

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/tensor"
)

var benchKernels = flag.Bool("kernels", false, "BenchmarkLinear tries every way to run a launch, not the chosen one alone")

// benchShapes are the launches of the models' steps: inputs, outputs and formats.
var benchShapes = []struct {
	name string
	cols int
	rows []int
	typ  []tensor.Type
}{
	{"qwen0.5b.qkv", 896, []int{896, 128, 128}, []tensor.Type{tensor.Q5_0, tensor.Q5_0, tensor.Q8_0}},
	{"qwen0.5b.o", 896, []int{896}, []tensor.Type{tensor.Q5_0}},
	{"qwen0.5b.gate_up", 896, []int{4864, 4864}, []tensor.Type{tensor.Q5_0, tensor.Q5_0}},
	{"qwen0.5b.down.q6", 4864, []int{896}, []tensor.Type{tensor.Q6_K}},
	{"qwen0.5b.down.q4", 4864, []int{896}, []tensor.Type{tensor.Q4_K}},
	{"qwen0.5b.head", 896, []int{151936}, []tensor.Type{tensor.Q8_0}},
	{"qwen1.5b.o", 1536, []int{1536}, []tensor.Type{tensor.Q4_K}},
	{"qwen1.5b.gate_up", 1536, []int{8960, 8960}, []tensor.Type{tensor.Q4_K, tensor.Q4_K}},
	{"qwen1.5b.down.q6", 8960, []int{1536}, []tensor.Type{tensor.Q6_K}},
	{"qwen1.5b.head", 1536, []int{151936}, []tensor.Type{tensor.Q6_K}},
	{"smollm2.gate_up", 576, []int{1536, 1536}, []tensor.Type{tensor.Q4_1, tensor.Q4_1}},
	{"f16.square", 2048, []int{2048}, []tensor.Type{tensor.F16}},
}

// benchBytes is what the copies of the weights that a benchmark goes through add up to: several times the L2 cache.
const benchBytes = 400 << 20

// BenchmarkLinear measures products on a GPU, as graph replays that go through copies of the weights: µs a launch, packed bytes a second and their share of what the
// copy kernel moves, and floating-point operations a second. Small -benchtime=20x is enough; the median of the replays counts.
func BenchmarkLinear(b *testing.B) {
	if emulated {
		b.Skip("no GPU")
	}
	dev, err := driver.Open(driver.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close() //nolint:errcheck // the process ends
	var l *library
	var s driver.Stream
	var copied float64
	err = dev.Do(func(c *driver.Context) (err error) {
		if l, err = load(c, dev); err != nil {
			return err
		}
		if err = errors.Join(l.findLinear(c), l.find(c, "copy")); err != nil {
			return err
		}
		if s, err = c.NewStream(); err != nil {
			return err
		}
		copied, err = copySpeed(c, l, s)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, shape := range benchShapes {
		var packed [][]byte
		var weights []*weight
		for i, n := range shape.rows {
			image, w, err := packWeight(randomMatrix(shape.typ[i], n, shape.cols))
			if err != nil {
				b.Fatal(err)
			}
			packed, weights = append(packed, image), append(weights, w)
		}
		for _, rows := range []int{1, 8, 16, 32, 64, 128, 256, 512} {
			for _, n := range benchPlans(l, weights, rows, shape.cols) {
				name := fmt.Sprintf("%s/rows=%d", shape.name, rows)
				if *benchKernels {
					name += fmt.Sprintf("/%s.%dx%d", n.kernel, n.ranks, n.threads)
				}
				b.Run(name, func(b *testing.B) {
					err := dev.Do(func(c *driver.Context) error { return benchLinear(b, c, l, s, n, packed, weights, rows, copied) })
					if err != nil {
						b.Fatal(err)
					}
				})
			}
		}
	}
}

// benchPlans are the ways to run a launch that are measured.
func benchPlans(l *library, weights []*weight, rows, cols int) (all []plan) {
	tiles, groups := 0, 0
	for _, w := range weights {
		tiles += w.tiles()
		groups += (w.tiles() + gemmTiles - 1) / gemmTiles
	}
	chosen := l.plan(rows, tiles, groups, cols/unitCols)
	if !*benchKernels {
		return []plan{chosen}
	}
	for ranks := 1; ranks <= maxCluster; ranks *= 2 {
		if rows <= linearRows {
			for _, threads := range []int{64, 128, 256} {
				n := chosen
				n.ranks, n.threads = ranks, threads
				all = append(all, n)
			}
		}
		if rows >= 16 {
			for _, tiles := range []int{8, 16} {
				all = append(all, gemmPlan(rows, tiles, ranks))
			}
		}
	}
	return all
}

// randomMatrix has random codes and scales of 1/1024, whatever the format.
func randomMatrix(typ tensor.Type, rows, cols int) device.Matrix {
	rng := rand.New(rand.NewPCG(1, uint64(rows)))
	row := make([]float32, cols)
	for i := range row {
		row[i] = float32(rng.NormFloat64() * 0.05)
	}
	size, err := tensor.RowBytes(typ, cols)
	if err != nil {
		panic(err)
	}
	m := device.Matrix{Name: "random", Type: typ, Rows: rows, Cols: cols, Data: make([]byte, size, size*rows)}
	if err := tensor.Encode(typ, m.Data, row); err != nil {
		panic(err)
	}
	for len(m.Data) < size*rows {
		m.Data = append(m.Data, m.Data[:min(len(m.Data), size*rows-len(m.Data))]...)
	}
	return m
}

func benchLinear(b *testing.B, c *driver.Context, l *library, s driver.Stream, n plan, packed [][]byte, weights []*weight, rows int, copied float64) (err error) {
	cols, bytes, outputs := weights[0].cols, 0, 0
	var owned []driver.Ptr
	alloc := func(size int) driver.Ptr {
		p, e := c.Alloc(size)
		owned, err = append(owned, p), errors.Join(err, e)
		return p
	}
	defer func() {
		for _, p := range owned {
			err = errors.Join(err, c.Free(p))
		}
	}()
	padded := (rows + 63) / 64 * 64
	x := halves{values: alloc(padded * cols * 2), scale: alloc(padded * 4), cols: cols}
	if err := errors.Join(err, c.Fill(x.values, 0x20, padded*cols*2, s), c.Fill(x.scale, 0x20, padded*4, s)); err != nil {
		return err
	}
	for i, w := range weights {
		bytes += len(packed[i])
		outputs += w.rows
	}
	copies := min(max(benchBytes/bytes, 2), 64)
	out := make([][]product, copies)
	for k := range out {
		for i, w := range weights {
			own := *w
			own.data = alloc(len(packed[i]))
			out[k] = append(out[k], product{w: &own, dst: alloc(w.rows * rows * 4)})
			if err := errors.Join(err, c.Upload(own.data, packed[i])); err != nil {
				return err
			}
		}
	}
	us, err := replay(c, s, max(b.N, 5), copies, func(i int) error { return l.runLinear(c, s, n, x, rows, out[i]) })
	gbps := float64(bytes) / us / 1e3
	b.ReportMetric(us, "µs")
	b.ReportMetric(gbps, "GB/s")
	b.ReportMetric(100*gbps/copied, "%copy")
	b.ReportMetric(2*float64(rows)*float64(cols)*float64(outputs)/us/1e6, "TFLOP/s")
	b.ReportMetric(0, "ns/op")
	return err
}

// replay is the median microseconds of a step, of graphs of the given number of steps.
func replay(c *driver.Context, s driver.Stream, times, steps int, step func(i int) error) (float64, error) {
	g, err := c.Capture(s, func() error {
		for i := range steps {
			if err := step(i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	from, err := c.NewEvent()
	if err != nil {
		return 0, err
	}
	to, err := c.NewEvent()
	if err != nil {
		return 0, err
	}
	var all []float64
	for i := range times + 2 {
		if err := errors.Join(c.Record(from, s), c.Replay(g, s), c.Record(to, s), c.WaitEvent(to)); err != nil {
			return 0, err
		}
		ms, err := c.Elapsed(from, to)
		if err != nil {
			return 0, err
		}
		if i >= 2 {
			all = append(all, float64(ms)*1e3/float64(steps))
		}
	}
	slices.Sort(all)
	return all[len(all)/2], errors.Join(c.FreeGraph(g), c.FreeEvent(from), c.FreeEvent(to))
}

// copySpeed is the GB/s that the copy kernel reads and writes.
func copySpeed(c *driver.Context, l *library, s driver.Stream) (float64, error) {
	const size = 1 << 28
	at, err := c.Alloc(2 * size)
	if err != nil {
		return 0, err
	}
	p := params{partial: at, out: at + size, count: size / 16}
	us, err := replay(c, s, 10, 1, func(int) error {
		return launch(l, c, "copy", driver.Launch{Grid: [3]int{4 * l.dev.Multiprocessor}, Block: 512, Stream: s}, &p)
	})
	return 2 * size / us / 1e3, errors.Join(err, c.Free(at))
}
