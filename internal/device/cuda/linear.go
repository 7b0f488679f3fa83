package cuda

import (
	"errors"
	"fmt"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// halves is activations as products take them: row r of x is scale[r] times its fp16 values.
type halves struct {
	values, scale driver.Ptr // [rows][cols] fp16, [rows] float32
	rows, cols    int        // rows: that there is memory for
}

// product is one of several products of the same activations.
type product struct {
	w    *weight
	bias driver.Ptr // float32 [w.rows]; 0: none
	dst  driver.Ptr // float32 [rows][w.rows]
	add  bool       // dst is added to; only where takesAdded says so
}

// maxProducts is how many products a launch takes.
const maxProducts = 3

// linearParams is LinearParams of kernels/linear.cuh, field by field, and productParams its Product.
type linearParams struct {
	x, scale                                driver.Ptr
	product                                 [maxProducts]productParams
	products, columns, units, ranks, panels int32
	_                                       int32
}

// wideParams is WideParams of kernels/wide.cuh.
type wideParams struct {
	x                  driver.TensorMap
	p                  linearParams
	gated, scale, over driver.Ptr
	act, _             int32
}

type productParams struct {
	weight, bias, dst        driver.Ptr
	rows, format, first, add int32
}

type embedParams struct {
	dst, weight, ids driver.Ptr
	units, format    int32
	scale            float32
	_                int32
}

type argmaxParams struct {
	dst, src       driver.Ptr
	columns, ranks int32
}

// findLinear looks the kernels of this file up.
func (l *library) findLinear(c *driver.Context) error {
	err := l.find(c, "linear_1", "linear_2", "linear_4", "gemm_8", "gemm_16", "embed", "argmax", "top_tokens")
	if l.hopper {
		err = errors.Join(err, l.findLarge(c, wideShared, "wide_96", "wide_128", "wide_gated"))
	}
	return err
}

const (
	linearRows = 32 // rows of activations that a thread block of the kernels for few rows takes at most
	gemmTiles  = 4  // tiles of a thread block of the kernels for many
	maxCluster = 8  // thread blocks that any Hopper device can run as a cluster

	wideRows                 = 256           // of activations, that other kernels take at most
	wideColumns, wideThreads = 256, 512      // rows of activations, threads of a thread block of the kernels for hundreds and more
	wideShared               = 193<<10 + 512 // bytes: WideShared of kernels/wide.cuh, and what aligning it takes
)

// plan is how a launch runs.
type plan struct {
	kernel                 string
	across, ranks, threads int  // tiles of a thread block, thread blocks of a cluster, threads of a thread block
	panels                 int  // groups of rows of activations
	wide                   bool // the kernel is one of kernels/wide.cuh
}

// linear queues the products of rows of x with one to three weights, in one launch. It allocates nothing and can be captured.
func (l *library) linear(c *driver.Context, s driver.Stream, x halves, rows int, out []product) error {
	if len(out) < 1 || len(out) > maxProducts || rows < 1 {
		return fmt.Errorf("cuda: %d products of %d rows: expected 1 to %d of at least one row", len(out), rows, maxProducts)
	}
	for _, o := range out {
		if o.w.cols != x.cols {
			return fmt.Errorf("cuda: product of %d columns with %s, which has %d", x.cols, o.w.name, o.w.cols)
		}
	}
	return l.runLinear(c, s, l.plan(rows, out), x, rows, out)
}

// groups is how many groups of so many tiles the weights make.
func groups(out []product, tiles int) (n int) {
	for _, o := range out {
		n += (o.w.tiles() + tiles - 1) / tiles
	}
	return n
}

// runLinear queues the products as planned.
func (l *library) runLinear(c *driver.Context, s driver.Stream, n plan, x halves, rows int, out []product) error {
	if n.wide {
		return l.runWide(c, s, n, x, rows, out, &wideParams{})
	}
	p := n.params(x, rows, out)
	return launch(l, c, n.kernel, driver.Launch{Grid: [3]int{n.blocks(out) * n.ranks}, Block: n.threads, Cluster: n.ranks, Stream: s, Early: true}, &p)
}

// params are what all kernels of products take.
func (n *plan) params(x halves, rows int, out []product) linearParams {
	p := linearParams{x: x.values, scale: x.scale, products: int32(len(out)), columns: int32(rows), units: int32(x.cols / unitCols), ranks: int32(n.ranks), panels: int32(n.panels)}
	for i, o := range out {
		p.product[i] = productParams{weight: o.w.data, bias: o.bias, dst: o.dst, rows: int32(o.w.rows), format: int32(o.w.layout), first: int32(groups(out[:i], n.across))}
		if o.add {
			p.product[i].add = 1
		}
	}
	return p
}

// blocks is how many pieces of work the plan makes.
func (n *plan) blocks(out []product) int { return groups(out, n.across) * n.panels }

// runWide queues products in one of the kernels of kernels/wide.cuh, of whose parameters p has the rest.
func (l *library) runWide(c *driver.Context, s driver.Stream, n plan, x halves, rows int, out []product, p *wideParams) (err error) {
	if p.x, err = l.tensorMap(c, matrixAt{x.values, x.rows, x.cols, wideColumns}); err != nil {
		return err
	}
	p.p = n.params(x, rows, out)
	blocks := n.blocks(out)
	if p.gated != 0 {
		blocks = n.blocks(out[:1])
	}
	return launch(l, c, n.kernel, driver.Launch{Grid: [3]int{min(blocks, l.dev.Multiprocessor)}, Block: n.threads, Shared: wideShared, Stream: s, Early: true}, p)
}

// gatedOp is a feed-forward layer's first two products and its gate: dst = act(out[0])·out[1].
type gatedOp struct {
	x    halves
	out  [2]product // dst: memory for the products, which is written only if it must be
	rows int
	act  device.Activation
	dst  halves
	over driver.Ptr // int32, 0 at first: becomes 1 when a value was too large for fp16 and the rows needed scales
}

// takesAdded says whether products can be added to what is there.
func (l *library) takesAdded(rows int, out []product) bool { return l.plan(rows, out).wide }

// takesGated says whether gated can run two products.
func (l *library) takesGated(rows int, out []product) bool {
	return l.hopper && rows > wideRows && len(out) == 2 && out[0].bias == 0 && out[1].bias == 0 && out[0].w.rows == out[1].w.rows && out[0].w.rows%8 == 0
}

// gated queues the operation in one kernel, and two more that do it again in three if the first found values that are too large. It allocates nothing.
func (l *library) gated(c *driver.Context, s driver.Stream, o *gatedOp) error {
	out := o.out[:]
	p := wideParams{gated: o.dst.values, scale: o.dst.scale, over: o.over, act: int32(o.act)}
	if err := l.runWide(c, s, widePlan(o.rows, 2), o.x, o.rows, out, &p); err != nil {
		return err
	}
	if err := l.runWide(c, s, widePlan(o.rows, 4), o.x, o.rows, out, &wideParams{over: o.over}); err != nil {
		return err
	}
	return l.gate(c, s, o.out[0].dst, o.out[1].dst, o.act, o.dst, o.rows, o.over)
}

// plan decides how products of so many rows run.
func (l *library) plan(rows int, out []product) plan {
	tiles, units := groups(out, 1), out[0].w.cols/unitCols
	// More than 32 rows go in panels where all thread blocks find room at once.
	if n := (rows + linearRows - 1) / linearRows; n == 1 || n <= 8 && n*tiles <= 2*l.dev.Multiprocessor {
		return l.planLinear(rows, tiles, units)
	}
	best, least := l.planGemm(rows, groups(out, gemmTiles), units)
	if !l.hopper || rows <= wideRows {
		return best
	}
	for _, tiles := range []int{3, 4} {
		n := widePlan(rows, tiles)
		if cost := l.turns(n.blocks(out)) * ((units+1)/2*(tiles*12+24) + 350); cost < least {
			best, least = n, cost
		}
	}
	return best
}

// turns is how often the busiest multiprocessor takes one of so many pieces of work.
func (l *library) turns(blocks int) int {
	return (blocks + l.dev.Multiprocessor - 1) / l.dev.Multiprocessor
}

// widePlan is a launch of the kernels for hundreds of rows and more, with 3 or 4 tiles of weights a thread block; with 2, of each of two products that are gated.
func widePlan(rows, tiles int) plan {
	kernel := [...]string{2: "wide_gated", 3: "wide_96", 4: "wide_128"}[tiles]
	return plan{kernel: kernel, across: tiles, ranks: 1, threads: wideThreads, panels: (rows + wideColumns - 1) / wideColumns, wide: true}
}

// planLinear shares a tile's units among so many warps that small matrices too keep every multiprocessor reading, and that a warp still has some units to read.
// Up to linearRows rows it does not depend on their number, and so neither does the order of additions.
func (l *library) planLinear(rows, tiles, units int) plan {
	n := plan{kernel: "linear_1", across: 1, ranks: 1, threads: 256, panels: (rows + linearRows - 1) / linearRows}
	switch {
	case rows > 16:
		n.kernel = "linear_4"
	case rows > 8:
		n.kernel = "linear_2"
	}
	room := 3 * l.dev.Multiprocessor / 2
	if n.panels > 1 {
		room = 2 * l.dev.Multiprocessor
	}
	for l.hopper && n.ranks < maxCluster && 2*tiles*n.panels*n.ranks <= room && units >= 2*n.ranks*8*3 {
		n.ranks *= 2
	}
	if tiles >= 8*l.dev.Multiprocessor && units < 64 {
		n.threads = 128
	}
	return n
}

// planGemm chooses the panel and the cluster: for hundreds of rows by what the busiest multiprocessor does, products and the joining of sums; for fewer, which wait for memory
// rather than compute, the largest clusters that find room at once, three thread blocks a multiprocessor. A cost is about 8.5 ns on an H100.
func (l *library) planGemm(rows, groups, units int) (best plan, least int) {
	cost := func(n plan, tiles int) int {
		c := (units+n.ranks-1)/n.ranks*(tiles*4+16) + tiles*8 + 100
		if n.ranks > 1 {
			c += tiles*8 + 50
		}
		return c * l.turns(groups*n.panels*n.ranks)
	}
	if rows <= 256 {
		n := gemmPlan(rows, 8, 1)
		for l.hopper && n.ranks < maxCluster && 2*n.ranks <= units && 2*groups*n.panels*n.ranks <= 3*l.dev.Multiprocessor {
			n.ranks *= 2
		}
		return n, cost(n, 8)
	}
	for _, tiles := range []int{16, 8} {
		for ranks := 1; ranks <= maxCluster && ranks <= units && (ranks == 1 || l.hopper); ranks *= 2 {
			n := gemmPlan(rows, tiles, ranks)
			if c := cost(n, tiles); least == 0 || c < least {
				best, least = n, c
			}
		}
	}
	return best, least
}

// gemmPlan is a launch of the kernels for many rows, with 8 or 16 tiles of 8 rows in a panel.
func gemmPlan(rows, tiles, ranks int) plan {
	n := plan{kernel: "gemm_8", across: gemmTiles, ranks: ranks, threads: 32 * gemmTiles, panels: (rows + tiles*8 - 1) / (tiles * 8)}
	if tiles == 16 {
		n.kernel = "gemm_16"
	}
	return n
}

// embed queues the decoding of rows of w: row i of dst, float32 [rows][w.cols], becomes row ids[i], times scale. The ids are int32.
func (l *library) embed(c *driver.Context, s driver.Stream, dst driver.Ptr, w *weight, ids driver.Ptr, rows int, scale float32) error {
	p := embedParams{dst: dst, weight: w.data, ids: ids, units: int32(w.cols / unitCols), format: int32(w.layout), scale: scale}
	return launch(l, c, "embed", driver.Launch{Grid: [3]int{rows}, Block: 128, Stream: s, Early: true}, &p)
}

// argmax queues the search for the first of the largest of each row of src, float32 [rows][cols]; dst is int32 [rows].
func (l *library) argmax(c *driver.Context, s driver.Stream, dst, src driver.Ptr, rows, cols int) error {
	p := argmaxParams{dst: dst, src: src, columns: int32(cols), ranks: 1}
	if l.hopper && cols >= 8192 {
		p.ranks = maxCluster
	}
	return launch(l, c, "argmax", driver.Launch{Grid: [3]int{rows * int(p.ranks)}, Block: 1024, Cluster: int(p.ranks), Stream: s, Early: true}, &p)
}
