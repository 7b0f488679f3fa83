package cuda

import (
	"errors"
	"fmt"
	"math/bits"

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

// gatedParts is GATED of kernels/linear.cuh.
const gatedParts = 64

// linearParams is LinearParams of kernels/linear.cuh, field by field, and productParams its Product.
type linearParams struct {
	x, scale                                       driver.Ptr
	product                                        [maxProducts]productParams
	products, columns, units, share, ranks, panels int32
	act, _                                         int32
	gated                                          driver.Ptr
}

// wideParams is WideParams of kernels/wide.cuh.
type wideParams struct {
	x                  driver.TensorMap
	p                  linearParams
	gated, scale, over driver.Ptr
	act, _             int32
}

// panelParams is PanelParams of kernels/panel.cuh.
type panelParams struct {
	x                            driver.TensorMap
	p                            linearParams
	blocks, parts, stages, stage int32
	shift, _                     int32
}

type productParams struct {
	weight, bias, dst        driver.Ptr
	rows, format, first, add int32
	factor                   float32
	_                        int32
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
	if err := l.find(c, "gemm_8", "gemm_16", "embed", "argmax", "top_tokens"); err != nil {
		return err
	}
	err := l.findLarge(c, l.dev.SharedBytes, "linear_1", "linear_2", "linear_4")
	if l.hopper {
		err = errors.Join(err, l.findLarge(c, l.dev.SharedBytes, panelKernels[1], panelKernels[2], panelKernels[4], panelKernels[8], panelKernels[16]), l.findLarge(c, wideShared, "wide_96", "wide_128", "wide_gated"))
	}
	return err
}

const (
	linearRows = 32  // rows of activations that a thread block of the kernels for few rows takes at most
	panelRows  = 128 // that go to these kernels at most, in panels, or to those for a panel of more
	gemmTiles  = 4   // tiles of a thread block of the kernels for many
	maxCluster = 8   // thread blocks that any Hopper device can run as a cluster

	pieces    = 2 // PIECES of kernels/linear.cuh
	panelStep = 4 // PANEL_UNITS of kernels/panel.cuh

	wideRows                 = 128           // of activations, that other kernels take at most
	wideColumns, wideThreads = 256, 512      // rows of activations, threads of a thread block of the kernels for hundreds and more
	wideShared               = 193<<10 + 512 // bytes: WideShared of kernels/wide.cuh, and what aligning it takes
)

// panelKernels are the kernels for a panel, by its columns' tiles of 8.
var panelKernels = [...]string{1: "panel_1", 2: "panel_2", 4: "panel_4", 8: "panel_8", 16: "panel_16"}

// plan is how a launch runs.
type plan struct {
	kernel                 string
	across, ranks, threads int  // tiles of a thread block, thread blocks of a cluster, threads of a thread block
	panels                 int  // groups of rows of activations
	share                  int  // of a matrix's units, or steps of kernels/panel.cuh, that a warp, or a thread block, takes at most
	shared                 int  // bytes of shared memory that a thread block asks for
	wide                   bool // the kernel is one of kernels/wide.cuh
	panel                  int  // tiles of 8 columns, of a kernel of kernels/panel.cuh
	blocks, parts          int  // its blocks of 64 rows of weights, warpgroups a block
	stages, stage          int  // its steps in shared memory, bytes of a step
}

// work is what a launch multiplies: rows of activations with all weights' tiles, in units of at most so many bytes, of which a tile has so many.
type work struct {
	rows, tiles, units, unitBytes int
	gated                         bool // half of the tiles are a gate's, and a thread block has as many of both
}

func workOf(rows int, out []product, gated bool) work {
	k := work{rows: rows, tiles: groups(out, 1), units: out[0].w.cols / unitCols, gated: gated}
	for _, o := range out {
		k.unitBytes = max(k.unitBytes, layouts[o.w.layout].unit)
	}
	return k
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
	return l.runLinear(c, s, l.plan(workOf(rows, out, false), out), x, rows, out)
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
	return l.launchLinear(c, s, n, groups(out, n.across), x, &p)
}

func (l *library) launchLinear(c *driver.Context, s driver.Stream, n plan, pieces int, x halves, p *linearParams) (err error) {
	d := driver.Launch{Grid: [3]int{n.ranks, n.panels, pieces}, Block: n.threads, Shared: n.shared, Cluster: n.ranks, Stream: s, Early: true}
	if n.panel == 0 {
		return launch(l, c, n.kernel, d, p)
	}
	shift := bits.Len(uint(max(n.panel/n.ranks, 1))) - 1
	f := panelParams{p: *p, shift: int32(shift), blocks: int32(n.blocks), parts: int32(n.parts), stages: int32(n.stages), stage: int32(n.stage)}
	if f.x, err = l.tensorMap(c, matrixAt{x.values, x.rows, x.cols, 8 * n.panel}); err != nil {
		return err
	}
	return launch(l, c, n.kernel, d, &f)
}

// params are what all kernels of products take.
func (n *plan) params(x halves, rows int, out []product) linearParams {
	p := linearParams{x: x.values, scale: x.scale, products: int32(len(out)), columns: int32(rows), units: int32(x.cols / unitCols), share: int32(n.share), ranks: int32(n.ranks), panels: int32(n.panels)}
	for i, o := range out {
		p.product[i] = productParams{weight: o.w.data, bias: o.bias, dst: o.dst, rows: int32(o.w.rows), format: int32(o.w.layout), first: int32(groups(out[:i], n.across)), factor: o.w.factor}
		if o.add {
			p.product[i].add = 1
		}
	}
	return p
}

// pieces is how many pieces of work the plan makes.
func (n *plan) pieces(out []product) int { return groups(out, n.across) * n.panels }

// runWide queues products in one of the kernels of kernels/wide.cuh, of whose parameters p has the rest.
func (l *library) runWide(c *driver.Context, s driver.Stream, n plan, x halves, rows int, out []product, p *wideParams) (err error) {
	if p.x, err = l.tensorMap(c, matrixAt{x.values, x.rows, x.cols, wideColumns}); err != nil {
		return err
	}
	p.p = n.params(x, rows, out)
	blocks := n.pieces(out)
	if p.gated != 0 {
		blocks = n.pieces(out[:1])
	}
	return launch(l, c, n.kernel, driver.Launch{Grid: [3]int{min(blocks, l.dev.Multiprocessor)}, Block: n.threads, Shared: wideShared, Stream: s, Early: true}, p)
}

// gatedOp is a feed-forward layer's first two products and its gate: dst = act(out[0])·out[1].
type gatedOp struct {
	x    halves
	out  [2]product // dst: memory for the products, which is written only if it must be
	rows int
	act  device.Activation
	dst  halves     // of few rows the scales are gatedParts, and not written
	over driver.Ptr // int32, 0 at first: becomes 1 when a value of many rows was too large for fp16 and they needed scales
}

// takesAdded says whether products can be added to what is there.
func (l *library) takesAdded(rows int, out []product) bool {
	return l.plan(workOf(rows, out, false), out).wide
}

// few says that the operation is one of few rows.
func (o *gatedOp) few() bool { return o.rows <= panelRows }

// takesGated says whether gated can run two products.
func (l *library) takesGated(rows int, out []product) bool {
	if len(out) != 2 || out[0].w.rows != out[1].w.rows {
		return false
	}
	if rows <= panelRows {
		return out[0].w.layout == out[1].w.layout && (l.takesLinear(workOf(rows, out, true)) || l.takesPanel(workOf(rows, out, true)))
	}
	return l.hopper && rows > wideRows && out[0].bias == 0 && out[1].bias == 0 && out[0].w.rows%8 == 0
}

// gated queues the operation in one kernel and, of many rows, two more that do it again in three if the first found values that are too large. It allocates nothing.
func (l *library) gated(c *driver.Context, s driver.Stream, o *gatedOp) error {
	out := o.out[:]
	if o.few() {
		return l.runGated(c, s, l.plan(workOf(o.rows, out, true), out), o)
	}
	p := wideParams{gated: o.dst.values, scale: o.dst.scale, over: o.over, act: int32(o.act)}
	if err := l.runWide(c, s, widePlan(o.rows, 2), o.x, o.rows, out, &p); err != nil {
		return err
	}
	if err := l.runWide(c, s, widePlan(o.rows, 4), o.x, o.rows, out, &wideParams{over: o.over}); err != nil {
		return err
	}
	return l.gate(c, s, o.out[0].dst, o.out[1].dst, o.act, o.dst, o.rows, o.over)
}

// runGated queues the operation of few rows as planned; half of a thread block's tiles are the gate's.
func (l *library) runGated(c *driver.Context, s driver.Stream, n plan, o *gatedOp) error {
	p := n.params(o.x, o.rows, o.out[:])
	p.act, p.gated = int32(o.act), o.dst.values
	return l.launchLinear(c, s, n, groups(o.out[:1], max(n.across/2, 1)), o.x, &p)
}

// plan decides how products run.
func (l *library) plan(k work, out []product) plan {
	switch {
	case l.takesLinear(k):
		return l.planLinear(k)
	case l.takesPanel(k):
		return l.planPanel(k)
	}
	best, least := l.planGemm(k)
	if !l.hopper || k.rows <= wideRows {
		return best
	}
	for _, tiles := range []int{3, 4} {
		n := widePlan(k.rows, tiles)
		if cost := l.turns(n.pieces(out)) * ((k.units+1)/2*(tiles*12+24) + 350); cost < least {
			best, least = n, cost
		}
	}
	return best
}

// takesLinear says whether the kernels for few rows are fastest, in panels of linearRows. Measured on an H200: they are up to panelRows but for the largest matrices.
func (l *library) takesLinear(k work) bool {
	n := (k.rows + linearRows - 1) / linearRows
	if l.hopper {
		return n == 1 || k.rows <= panelRows && !l.takesPanel(k) && k.tiles < 8*l.dev.Multiprocessor
	}
	return n == 1 || n <= 8 && n*k.tiles <= 2*l.dev.Multiprocessor
}

// takesPanel says whether a panel of all rows is: of matrices that fill the device with thread blocks, up to 64 rows, and of a vocabulary up to 96.
func (l *library) takesPanel(k work) bool {
	most := 0
	switch {
	case k.tiles >= 8*l.dev.Multiprocessor:
		most = 96
	case k.tiles >= 4*l.dev.Multiprocessor:
		most = 64
	}
	return l.hopper && k.rows > linearRows && k.rows <= most && k.units%2 == 0
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
func (l *library) planLinear(k work) plan {
	ranks, threads, blocks, panels := 1, 256, k.tiles, (k.rows+linearRows-1)/linearRows
	if k.gated {
		blocks /= 2
	}
	room := 3 * l.dev.Multiprocessor / 2
	if panels > 1 {
		room = 2 * l.dev.Multiprocessor
	}
	for l.hopper && ranks < maxCluster && 2*blocks*panels*ranks <= room && k.units >= 2*ranks*8*3 {
		ranks *= 2
	}
	switch {
	case l.hopper && k.gated && panels == 1 && blocks > 2*l.dev.Multiprocessor && blocks <= 4*l.dev.Multiprocessor:
		ranks, threads = 2, 128 // which all find room at once, where half as many of twice the size do not
	case blocks >= 8*l.dev.Multiprocessor && k.units < 64, linearPlan(k, 4, ranks, threads).shared > l.dev.SharedBytes:
		threads = 128
	}
	switch {
	case k.rows > 16:
		return linearPlan(k, 4, ranks, threads)
	case k.rows > 8:
		return linearPlan(k, 2, ranks, threads)
	}
	return linearPlan(k, 1, ranks, threads)
}

// linearPlan is a launch of the kernels for few rows, with 1, 2 or 4 tiles of 8 rows in a panel.
func linearPlan(k work, tiles, ranks, threads int) plan {
	slots := ranks * threads / 32
	if k.gated {
		slots /= 2
	}
	share := (k.units + slots - 1) / slots
	return plan{kernel: [...]string{1: "linear_1", 2: "linear_2", 4: "linear_4"}[tiles], across: 1, ranks: ranks, threads: threads, panels: (k.rows + 8*tiles - 1) / (8 * tiles), share: share,
		shared: threads/32*max(share*k.unitBytes+min(k.rows, 8*tiles)*(share*unitCols*2+16)+(pieces+1)*8+8, tiles*1024) + 2*(2*tiles+ranks)*512 + 16}
}

// planPanel takes the panel that holds all rows, and the largest clusters that find room at once. These do not depend on the number of rows.
func (l *library) planPanel(k work) plan {
	return panelPlan(k, panelTiles(k.rows), 2, 1, 2, l.dev.SharedBytes)
}

// panelTiles is how many tiles of 8 columns a panel for so many rows of activations has.
func panelTiles(rows int) int {
	tiles := 1
	for tiles < 16 && tiles*8 < rows {
		tiles *= 2
	}
	return tiles
}

// panelPlan is a launch of the kernels for a panel, of so many tiles of 8 columns, with as many steps in shared memory as fit most bytes, if a rank has as many.
func panelPlan(k work, tiles, blocks, parts, ranks, most int) plan {
	const page = 1024 // at multiples of which places begin
	stage := (panelStep/2*tiles*1024 + 2*blocks*panelStep*k.unitBytes + page - 1) / page * page
	steps := (k.units + panelStep - 1) / panelStep
	share := (steps + ranks - 1) / ranks
	stages := min(max((most-tiles*32-8)/(stage+16), parts+1), share) // a warpgroup gives a place back when it has begun its next step
	sums := (tiles + ranks - 1) / ranks * ranks * parts * blocks * 2048
	for stages*stage < sums {
		stages++
	}
	return plan{kernel: panelKernels[tiles], across: 2 * blocks, ranks: ranks, threads: 128 * (blocks*parts + 1), panels: (k.rows + 8*tiles - 1) / (8 * tiles), share: share,
		shared: stages*(stage+16) + tiles*32 + 8, panel: tiles, blocks: blocks, parts: parts, stages: stages, stage: stage}
}

// planGemm chooses the panel and the cluster: for hundreds of rows by what the busiest multiprocessor does, products and the joining of sums; for fewer, which wait for memory
// rather than compute, the largest clusters that find room at once, three thread blocks a multiprocessor. A cost is about 8.5 ns on an H100.
func (l *library) planGemm(k work) (best plan, least int) {
	groups := (k.tiles + gemmTiles - 1) / gemmTiles
	cost := func(n plan, tiles int) int {
		c := (k.units+n.ranks-1)/n.ranks*(tiles*4+16) + tiles*8 + 100
		if n.ranks > 1 {
			c += tiles*8 + 50
		}
		return c * l.turns(groups*n.panels*n.ranks)
	}
	if k.rows <= 256 {
		n := gemmPlan(k.rows, 8, 1)
		for l.hopper && n.ranks < maxCluster && 2*n.ranks <= k.units && 2*groups*n.panels*n.ranks <= 3*l.dev.Multiprocessor {
			n.ranks *= 2
		}
		return n, cost(n, 8)
	}
	for _, tiles := range []int{16, 8} {
		for ranks := 1; ranks <= maxCluster && ranks <= k.units && (ranks == 1 || l.hopper); ranks *= 2 {
			n := gemmPlan(k.rows, tiles, ranks)
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
	p := embedParams{dst: dst, weight: w.data, ids: ids, units: int32(w.cols / unitCols), format: int32(w.layout), scale: scale * w.factor}
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
