package cuda

import (
	"errors"
	"fmt"
	"math"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// rowParams is RowParams of kernels/rows.cuh, field by field.
type rowParams struct {
	x, add, dst, weight  driver.Ptr
	values, scale        driver.Ptr
	index                driver.Ptr
	rows, cols, run, act int32
	eps                  float32
	_                    int32
}

// headsParams is HeadsParams of kernels/rows.cuh.
type headsParams struct {
	x, dst                        [3]driver.Ptr
	freq, pos                     driver.Ptr
	heads                         [3]int32
	rows, dim, pairs, interleaved int32
	magnitude                     float32
	_                             int32
}

// promptParams is PromptParams of kernels/prompt.cuh.
type promptParams struct {
	q, out, k, v, table               driver.Ptr
	rows, pos, heads, kvHeads, window int32
	scale                             float32
}

// flashParams is FlashParams of kernels/flash.cuh.
type flashParams struct {
	q, k, v driver.TensorMap
	p       promptParams
	first   int32
}

const rowThreads = 256

// wholeRows queues a kernel whose thread blocks hold a row each in registers, as Row of kernels/rows.cuh does: four channels a thread or, of long rows, up to 32.
func (l *library) wholeRows(c *driver.Context, s driver.Stream, name string, blocks int, p *rowParams) error {
	const most = 1024
	if p.cols%4 != 0 || p.cols > 32*most {
		return fmt.Errorf("cuda: rows of %d channels: expected a multiple of 4, at most %d", p.cols, 32*most)
	}
	if p.cols > 4*most {
		name = longRows[name]
	}
	threads := min(ceil(int(p.cols)/4, 32)*32, most)
	return launch(l, c, name, driver.Launch{Grid: [3]int{blocks}, Block: threads, Stream: s, Early: true}, p)
}

// longRows are the kernels of wholeRows that take long rows.
var longRows = map[string]string{"rows_norm": "rows_norm_long", "rows_prepare": "rows_prepare_long", "rows_gate": "rows_gate_long"}

// findRows looks the kernels of this file up, for heads of dim channels.
func (l *library) findRows(c *driver.Context, dim int) error {
	err := l.find(c, "rows_norm_runs", "rows_widen", "rows_add", "rows_pick", "rows_heads", promptKernel(dim))
	for name, long := range longRows {
		err = errors.Join(err, l.find(c, name, long))
	}
	if l.hopper {
		err = errors.Join(err, l.findLarge(c, flashOf(dim).shared, flashOf(dim).kernel))
	}
	return err
}

func (l *library) rows(c *driver.Context, s driver.Stream, name string, blocks int, p *rowParams) error {
	return launch(l, c, name, driver.Launch{Grid: [3]int{blocks}, Block: rowThreads, Stream: s, Early: true}, p)
}

// normOp is a norm of rows: x += add if that is given; then each run of channels, divided by its root mean square, times weight goes to dst as float32, or h in fp16, or both.
// A run shorter than a row is neither added to nor taken in fp16.
type normOp struct {
	x, add, dst, weight driver.Ptr
	h                   halves // values 0: not wanted
	rows, cols, run     int
	eps                 float32
}

func (l *library) norm(c *driver.Context, s driver.Stream, o *normOp) error {
	p := rowParams{x: o.x, add: o.add, dst: o.dst, weight: o.weight, values: o.h.values, scale: o.h.scale, rows: int32(o.rows), cols: int32(o.cols), run: int32(o.run), eps: o.eps}
	if o.run == o.cols {
		return l.wholeRows(c, s, "rows_norm", o.rows, &p)
	}
	if o.add != 0 || o.h.values != 0 || o.cols%o.run != 0 {
		return fmt.Errorf("cuda: norm of runs of %d of %d channels: expected a divisor, and neither an addition nor fp16", o.run, o.cols)
	}
	const warps = rowThreads / 32
	return l.rows(c, s, "rows_norm_runs", ceil(o.rows*(o.cols/o.run), warps), &p)
}

// prepare makes the fp16 form of float32 rows.
func (l *library) prepare(c *driver.Context, s driver.Stream, x driver.Ptr, h halves, rows int) error {
	return l.wholeRows(c, s, "rows_prepare", rows, &rowParams{x: x, values: h.values, scale: h.scale, rows: int32(rows), cols: int32(h.cols)})
}

// widen makes the float32 form of fp16 rows.
func (l *library) widen(c *driver.Context, s driver.Stream, dst driver.Ptr, h halves, rows int) error {
	return l.rows(c, s, "rows_widen", rows, &rowParams{dst: dst, values: h.values, scale: h.scale, rows: int32(rows), cols: int32(h.cols)})
}

// gate makes h = act(gate)·up of float32 rows; with only given, nothing while the int32 there is 0.
func (l *library) gate(c *driver.Context, s driver.Stream, gate, up driver.Ptr, act device.Activation, h halves, rows int, only driver.Ptr) error {
	blocks := rows
	if only != 0 { // few, since there is hardly ever anything to do
		blocks = min(rows, 2*l.dev.Multiprocessor)
	}
	return l.wholeRows(c, s, "rows_gate", blocks, &rowParams{x: gate, add: up, index: only, values: h.values, scale: h.scale, rows: int32(rows), cols: int32(h.cols), act: int32(act)})
}

// add adds n float32 to dst.
func (l *library) add(c *driver.Context, s driver.Stream, dst, src driver.Ptr, n int) error {
	return l.rows(c, s, "rows_add", min(ceil(n, rowThreads), 4*l.dev.Multiprocessor), &rowParams{dst: dst, x: src, rows: 1, cols: int32(n)})
}

// pick copies rows index[0…n) of src, of rowBytes bytes each, a multiple of 4, to the first rows of dst.
func (l *library) pick(c *driver.Context, s driver.Stream, dst, src, index driver.Ptr, n, rowBytes int) error {
	return l.rows(c, s, "rows_pick", n, &rowParams{dst: dst, x: src, index: index, rows: int32(n), cols: int32(rowBytes / 4)})
}

// turning are the parameters of a rotation of heads of dim channels by r, whose frequencies are at freq; pos: int32, the position of each row.
func turning(r *device.Rope, freq, pos driver.Ptr, dim int) (p headsParams, err error) {
	pairs := len(r.Freq)
	if pairs > 128 || 2*pairs > dim {
		return p, fmt.Errorf("cuda: rotation of %d pairs of %d channels: expected at most 128, and no more than there are", pairs, dim)
	}
	p = headsParams{freq: freq, pos: pos, dim: int32(dim), pairs: int32(pairs), magnitude: float32(r.Magnitude)}
	if r.Interleaved {
		p.interleaved = 1
	}
	return p, nil
}

// turn queues a rotation of rows: p.x, float32 [rows][p.heads·p.dim], to p.dst in fp16, or in place where that is 0. Of three x the last is not rotated.
func (l *library) turn(c *driver.Context, s driver.Stream, p *headsParams) error {
	return launch(l, c, "rows_heads", driver.Launch{Grid: [3]int{int(p.rows)}, Block: rowThreads, Stream: s, Early: true}, p)
}

// promptOp is causal attention of a prompt's rows over the paged cache, in which their own keys and values are.
type promptOp struct {
	q                                      driver.Ptr // fp16 [room][heads·dim]: rows first to first+rows are the prompt's
	room, first                            int
	out, k, v, table                       driver.Ptr // out: fp16 [rows][heads·dim]; k, v: a layer's slabs; table: the sequence's
	blocks                                 int        // of the slabs
	rows, pos, heads, kvHeads, dim, window int        // pos: of the first row; window: tokens in sight, 0: all
	scale                                  float32    // of the logits
}

func (l *library) prompt(c *driver.Context, s driver.Stream, o *promptOp) error {
	row := driver.Ptr(o.heads * o.dim * 2)
	p := promptParams{q: o.q + driver.Ptr(o.first)*row, out: o.out, k: o.k, v: o.v, table: o.table, rows: int32(o.rows), pos: int32(o.pos), heads: int32(o.heads), kvHeads: int32(o.kvHeads),
		window: int32(o.window), scale: o.scale * math.Log2E}
	if l.hopper {
		return l.flash(c, s, o, &p)
	}
	const tile = 64
	return launch(l, c, promptKernel(o.dim), driver.Launch{Grid: [3]int{ceil(o.rows, tile), o.heads}, Block: 128, Stream: s, Early: true}, &p)
}

// flashRows is how many rows a thread block of Hopper's kernels takes.
const flashRows = 128

// flash is prompt with Hopper's kernels.
func (l *library) flash(c *driver.Context, s driver.Stream, o *promptOp, p *promptParams) (err error) {
	const threads = 384
	f, how := flashParams{p: *p, first: int32(o.first)}, flashOf(o.dim)
	slab := o.blocks * o.kvHeads * attention.BlockTokens
	if f.q, err = l.tensorMap(c, matrixAt{o.q, o.room, o.heads * o.dim, flashRows}); err != nil {
		return err
	}
	if f.k, err = l.tensorMap(c, matrixAt{o.k, slab, o.dim, how.tokens}); err != nil {
		return err
	}
	if f.v, err = l.tensorMap(c, matrixAt{o.v, slab, o.dim, how.tokens}); err != nil {
		return err
	}
	return launch(l, c, how.kernel, driver.Launch{Grid: [3]int{o.heads, ceil(o.rows, flashRows)}, Block: threads, Shared: how.shared, Stream: s, Early: true}, &f)
}

// flashKernel is a kernel of Hopper's: tokens of a tile of keys, and bytes of shared memory: FlashShared of kernels/flash.cuh and what aligning it takes.
type flashKernel struct {
	kernel         string
	tokens, shared int
}

func flashOf(dim int) flashKernel {
	switch dim {
	case 64:
		return flashKernel{"flash_64", 128, 146 << 10}
	case 128:
		return flashKernel{"flash_128", 128, 162 << 10}
	}
	return flashKernel{"flash_256", 64, 194 << 10}
}

func promptKernel(dim int) string {
	switch dim {
	case 64:
		return "prompt_64"
	case 128:
		return "prompt_128"
	}
	return "prompt_256"
}
