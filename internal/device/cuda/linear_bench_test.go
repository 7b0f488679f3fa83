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

var benchRows = []int{1, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192}

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
		if err = errors.Join(l.findLinear(c), l.find(c, "copy", "rows_gate")); err != nil {
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
		r := &linearBench{l: l, s: s, copied: copied}
		if err := dev.Do(func(c *driver.Context) error { return r.take(c, shape.cols, shape.rows, shape.typ) }); err != nil {
			b.Fatal(err)
		}
		for _, rows := range benchRows {
			if rows > r.x.rows {
				break
			}
			for _, n := range benchPlans(l, r.out[0], rows, shape.cols) {
				name := fmt.Sprintf("%s/rows=%d", shape.name, rows)
				if *benchKernels {
					name += fmt.Sprintf("/%s.%dx%d", n.kernel, n.ranks, n.threads)
				}
				b.Run(name, func(b *testing.B) {
					if err := dev.Do(func(c *driver.Context) error { return r.measure(b, c, n, rows) }); err != nil {
						b.Fatal(err)
					}
				})
			}
		}
		if err := dev.Do(r.free); err != nil {
			b.Fatal(err)
		}
	}
}

// benchPlans are the ways to run a launch that are measured.
func benchPlans(l *library, out []product, rows, cols int) (all []plan) {
	tiles := groups(out, 1)
	chosen := l.plan(rows, out)
	if !*benchKernels {
		return []plan{chosen}
	}
	if rows > 256 {
		gemm, _ := l.planGemm(rows, groups(out, gemmTiles), cols/unitCols)
		all = []plan{widePlan(rows, 3), widePlan(rows, 4), gemm}
		if l.takesGated(rows, out) {
			all = append(all, widePlan(rows, 2))
		}
		return all
	}
	if rows > wideRows && l.hopper {
		all = append(all, widePlan(rows, 3), widePlan(rows, 4))
	}
	for ranks := 1; ranks <= maxCluster; ranks *= 2 {
		if rows <= 8*linearRows {
			for _, threads := range []int{64, 128, 256} {
				n := l.planLinear(rows, tiles, cols/unitCols)
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

// randomMatrix repeats some random rows.
func randomMatrix(typ tensor.Type, rows, cols int) device.Matrix {
	rng := rand.New(rand.NewPCG(1, uint64(rows)))
	row := make([]float32, 32*cols)
	for i := range row {
		row[i] = float32(rng.NormFloat64() * 0.05)
	}
	size, err := tensor.RowBytes(typ, cols)
	if err != nil {
		panic(err)
	}
	m := device.Matrix{Name: "random", Type: typ, Rows: rows, Cols: cols, Data: make([]byte, 32*size, size*rows+32*size)}
	if err := tensor.Encode(typ, m.Data, row); err != nil {
		panic(err)
	}
	m.Data = m.Data[:min(len(m.Data), size*rows)]
	for len(m.Data) < size*rows {
		m.Data = append(m.Data, m.Data[:min(len(m.Data), size*rows-len(m.Data))]...)
	}
	return m
}

// linearBench is copies of a launch's weights on the device, activations and room for results.
type linearBench struct {
	l              *library
	s              driver.Stream
	copied         float64 // GB/s of the copy kernel
	owned          []driver.Ptr
	x              halves
	over           driver.Ptr
	out            [][]product // of each copy
	bytes, outputs int
}

// take packs the weights and uploads the copies.
func (r *linearBench) take(c *driver.Context, cols int, rows []int, types []tensor.Type) (err error) {
	alloc := func(size int) driver.Ptr {
		p, e := c.Alloc(size)
		r.owned, err = append(r.owned, p), errors.Join(err, e)
		return p
	}
	most := benchRows[len(benchRows)-1]
	if rows[0] > 1<<16 { // a vocabulary: prompts have one row of it
		most = 256
	}
	var images [][]byte
	var one []product
	for i, n := range rows {
		image, w, err := packWeight(randomMatrix(types[i], n, cols))
		if err != nil {
			return err
		}
		images, one = append(images, image), append(one, product{w: w, dst: alloc(most * n * 4)})
		r.bytes += len(image)
		r.outputs += n
	}
	r.over = alloc(4)
	err = errors.Join(err, c.Upload(r.over, make([]byte, 4)))
	r.x = halves{values: alloc(most * cols * 2), scale: alloc(most * 4), rows: most, cols: cols}
	x, scale := make([]uint16, most*cols), make([]float32, most)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range x[:1<<16] {
		x[i] = tensor.F32ToF16(float32(rng.NormFloat64()))
	}
	for i := 1 << 16; i < len(x); {
		i += copy(x[i:], x[rng.IntN(1<<16-64):1<<16])
	}
	if err = errors.Join(err, c.Upload(r.x.values, bytesOf(x)), c.Upload(r.x.scale, bytesOf(scale))); err != nil {
		return err
	}
	for range min(max(benchBytes/r.bytes, 2), 64) {
		own := slices.Clone(one)
		for i := range own {
			w := *own[i].w
			w.data = alloc(len(images[i]))
			own[i].w = &w
			if err = errors.Join(err, c.Upload(w.data, images[i])); err != nil {
				return err
			}
		}
		r.out = append(r.out, own)
	}
	return nil
}

func (r *linearBench) free(c *driver.Context) (err error) {
	for _, p := range r.owned {
		err = errors.Join(err, c.Free(p))
	}
	return err
}

func (r *linearBench) measure(b *testing.B, c *driver.Context, n plan, rows int) error {
	us, err := replay(c, r.s, max(b.N, 5), len(r.out), func(i int) error {
		if n.kernel != "wide_gated" {
			return r.l.runLinear(c, r.s, n, r.x, rows, r.out[i])
		}
		o := gatedOp{x: r.x, out: [2]product(r.out[i]), rows: rows, dst: halves{values: r.out[i][0].dst, scale: r.x.scale}, over: r.over}
		return r.l.gated(c, r.s, &o)
	})
	gbps := float64(r.bytes) / us / 1e3
	b.ReportMetric(us, "µs")
	b.ReportMetric(gbps, "GB/s")
	b.ReportMetric(100*gbps/r.copied, "%copy")
	b.ReportMetric(2*float64(rows)*float64(r.x.cols)*float64(r.outputs)/us/1e6, "TFLOP/s")
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
