package cuda

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
	"github.com/twilight-go/twilight/internal/tensor"
)

var (
	benchKernels = flag.Bool("kernels", false, "BenchmarkLinear tries every way to run a launch, not the chosen one alone")
	benchMost    = flag.Int("rows", 4096, "of activations, that BenchmarkLinear measures at most")
	benchOnly    = flag.String("shapes", "", "part of the names of the launches that BenchmarkLinear measures")
)

// benchShapes are the launches of the models' steps: inputs, outputs and formats; two products are a gate's.
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
	{"qwen1.5b.qkv", 1536, []int{1536, 256, 256}, []tensor.Type{tensor.Q4_K, tensor.Q4_K, tensor.Q6_K}},
	{"qwen1.5b.o", 1536, []int{1536}, []tensor.Type{tensor.Q4_K}},
	{"qwen1.5b.gate_up", 1536, []int{8960, 8960}, []tensor.Type{tensor.Q4_K, tensor.Q4_K}},
	{"qwen1.5b.down.q6", 8960, []int{1536}, []tensor.Type{tensor.Q6_K}},
	{"qwen1.5b.down.q4", 8960, []int{1536}, []tensor.Type{tensor.Q4_K}},
	{"qwen1.5b.head", 1536, []int{151936}, []tensor.Type{tensor.Q6_K}},
	{"smollm2.qkv", 576, []int{576, 192, 192}, []tensor.Type{tensor.Q5_0, tensor.Q5_0, tensor.Q8_0}},
	{"smollm2.down", 1536, []int{576}, []tensor.Type{tensor.Q5_0}},
	{"smollm2.gate_up", 576, []int{1536, 1536}, []tensor.Type{tensor.Q4_1, tensor.Q4_1}},
	{"f16.square", 2048, []int{2048}, []tensor.Type{tensor.F16}},
}

var benchRows = []int{1, 8, 16, 32, 48, 64, 96, 128, 256, 1024, 4096}

// benchBytes is what the copies of the weights that a benchmark goes through add up to: several times the L2 cache.
const benchBytes = 400 << 20

// BenchmarkLinear measures products on a GPU, as graph replays that go through copies of the weights: µs a launch, packed bytes a second and their share of what the
// copy kernel moves, and floating-point operations a second. Small -benchtime=20x is enough; the median of the replays counts.
func BenchmarkLinear(b *testing.B) {
	dev := measuredGPU(b)
	var l *library
	var s driver.Stream
	var copied float64
	err := dev.Do(func(c *driver.Context) (err error) {
		if l, err = load(c, dev); err != nil {
			return err
		}
		if err = errors.Join(l.findLinear(c), l.find(c, "copy", "rows_gate", "rows_gate_long")); err != nil {
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
		if !strings.Contains(shape.name, *benchOnly) {
			continue
		}
		r := &linearBench{l: l, s: s, copied: copied}
		if err := dev.Do(func(c *driver.Context) error { return r.take(c, shape.cols, shape.rows, shape.typ) }); err != nil {
			b.Fatal(err)
		}
		for _, rows := range benchRows {
			if rows > min(r.x.rows, *benchMost) {
				break
			}
			k := workOf(rows, r.out[0], r.gates(rows))
			if *benchKernels {
				if err := dev.Do(func(c *driver.Context) error { return r.compare(b, c, shape.name, k) }); err != nil {
					b.Fatal(err)
				}
				continue
			}
			b.Run(fmt.Sprintf("%s/rows=%d", shape.name, rows), func(b *testing.B) {
				if err := dev.Do(func(c *driver.Context) error { return r.measure(b, c, l.plan(k, r.out[0]), rows) }); err != nil {
					b.Fatal(err)
				}
			})
		}
		if err := dev.Do(r.free); err != nil {
			b.Fatal(err)
		}
	}
}

// plans are the ways to run a launch that are measured.
func (r *linearBench) plans(k work) (all []plan) {
	l := r.l
	if k.rows > wideRows {
		gemm, _ := l.planGemm(k)
		all = []plan{widePlan(k.rows, 3), widePlan(k.rows, 4), gemm}
		if k.gated {
			all = append(all, widePlan(k.rows, 2))
		}
		return all
	}
	for ranks := 1; ranks <= maxCluster; ranks *= 2 {
		if k.rows >= 64 {
			for _, tiles := range []int{8, 16} {
				all = append(all, gemmPlan(k.rows, tiles, ranks))
			}
		}
		for tiles := panelTiles(k.rows); k.units%2 == 0 && tiles > 0 && tiles*16 >= k.rows; tiles /= 2 {
			for _, blocks := range []int{1, 2, 3, 4, 5} {
				for parts := 1; parts <= 3 && parts*blocks <= 5; parts++ {
					pieces := ceil(k.tiles, 2*blocks) * ranks * ceil(k.rows, 8*tiles)
					if pieces < l.dev.Multiprocessor/2 || pieces > 3*l.dev.Multiprocessor && ranks > 1 || parts > 1 && tiles > 8 || parts*blocks > 4 && tiles == 16 {
						continue
					}
					for _, most := range []int{112 << 10, 226 << 10} {
						if n := panelPlan(k, tiles, blocks, parts, ranks, most); !slices.Contains(all, n) {
							all = append(all, n)
						}
					}
				}
			}
		}
	}
	if k.rows <= linearRows {
		for _, threads := range []int{64, 128, 256} {
			all = append(all, linearPlan(k, min(panelTiles(k.rows), 4), threads))
		}
	}
	return slices.DeleteFunc(all, func(n plan) bool { return n.shared > l.dev.SharedBytes || n.panel > 0 && n.stages < 2 })
}

// String says which kernel a plan is, and how it is divided.
func (n plan) String() string {
	if n.panel > 0 {
		return fmt.Sprintf("%s/r%d/b%dx%d/%dK", n.kernel, n.ranks, n.blocks, n.parts, n.shared>>10)
	}
	return fmt.Sprintf("%s/r%d/%d", n.kernel, n.ranks, n.threads)
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
	gate           driver.Ptr
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
	r.gate = alloc(most * rows[0] * 2)
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

// gates says whether products of so many rows are a gate's.
func (r *linearBench) gates(rows int) bool { return r.l.takesGated(rows, r.out[0]) }

func (r *linearBench) time(c *driver.Context, n plan, rows, times int) (float64, error) {
	gates := r.gates(rows) && (rows <= panelRows || n.kernel == "wide_gated")
	return replay(c, r.s, times, len(r.out), func(i int) error {
		o := gatedOp{x: r.x, rows: rows, dst: halves{values: r.gate, scale: r.x.scale}, over: r.over}
		switch {
		case !gates || strings.HasPrefix(n.kernel, "gemm"):
			return r.l.runLinear(c, r.s, n, r.x, rows, r.out[i])
		case rows > panelRows:
			o.out = [2]product(r.out[i])
			return r.l.gated(c, r.s, &o)
		}
		o.out = [2]product(r.out[i])
		return r.l.runGated(c, r.s, n, &o)
	})
}

// compare prints what the bytes alone would take, what the chosen plan does and what the three fastest do.
func (r *linearBench) compare(b *testing.B, c *driver.Context, name string, k work) error {
	type timed struct {
		plan
		us float64
	}
	var all []timed
	for _, n := range r.plans(k) {
		us, err := r.time(c, n, k.rows, max(b.N, 7))
		if err != nil {
			return fmt.Errorf("%+v: %w", n, err)
		}
		all = append(all, timed{n, us})
	}
	slices.SortFunc(all, func(x, y timed) int { return cmp.Compare(x.us, y.us) })
	chosen := r.l.plan(k, r.out[0])
	us, err := r.time(c, chosen, k.rows, max(b.N, 7))
	fmt.Printf("%-18s %3d  %6.2f  %6.2f %v ", name, k.rows, float64(r.bytes)/r.copied/1e3, us, chosen)
	best := map[string]int{}
	for _, n := range all {
		if kind := n.kernel[:5]; best[kind] < 4 {
			best[kind]++
			fmt.Printf("  %6.2f %v", n.us, n.plan)
		}
	}
	fmt.Println()
	return err
}

func (r *linearBench) measure(b *testing.B, c *driver.Context, n plan, rows int) error {
	us, err := r.time(c, n, rows, max(b.N, 5))
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
	us, err := replayed(c, s, times, steps, g)
	return us, errors.Join(err, c.FreeGraph(g))
}

// replayed is the median microseconds of a step of a graph of so many.
func replayed(c *driver.Context, s driver.Stream, times, steps int, g driver.Graph) (float64, error) {
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
	return all[len(all)/2], errors.Join(c.FreeEvent(from), c.FreeEvent(to))
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
