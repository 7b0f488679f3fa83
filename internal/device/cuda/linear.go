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
	x, scale                                driver.Ptr
	product                                 [maxProducts]productParams
	products, columns, units, ranks, panels int32
	act                                     int32
	gated                                   driver.Ptr
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
	share, shift                 int32
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
	f := panelParams{p: *p, blocks: int32(n.blocks), parts: int32(n.parts), stages: int32(n.stages), stage: int32(n.stage), share: int32(n.share), shift: int32(bits.Len(uint(n.panel/n.ranks|1)) - 1)}
	if f.x, err = l.tensorMap(c, matrixAt{x.values, x.rows, x.cols, 8 * n.panel}); err != nil {
		return err
	}
	return launch(l, c, n.kernel, d, &f)
}

// params are what all kernels of products take.
func (n *plan) params(x halves, rows int, out []product) linearParams {
	p := linearParams{x: x.values, scale: x.scale, products: int32(len(out)), columns: int32(rows), units: int32(x.cols / unitCols), ranks: int32(n.ranks), panels: int32(n.panels)}
	for i, o := range out {
		p.product[i] = productParams{weight: o.w.data, bias: o.bias, dst: o.dst, rows: int32(o.w.rows), format: int32(o.w.layout), first: int32(groups(out[:i], n.across)), factor: o.w.factor}
		if o.add {
			p.product[i].add = 1
		}
	}
	return p
}

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
		k := workOf(rows, out, true)
		return out[0].w.layout == out[1].w.layout && (l.takesPanel(k) || l.takesLinear(k))
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
