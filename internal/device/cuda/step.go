package cuda

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

var nan = float32(math.NaN())

// step is the step in flight and what is reused from step to step.
type step struct {
	c    *driver.Context
	plan *device.Plan
	ops  func() error
	err  error // the first failure of an operation that returns none
	jobs jobs

	// What changes from step to step while its form stays: ids, positions, lengths, rows of logits, the order of sequences, block tables. It is written to pinned memory, and the step's first operation
	// copies it in one piece.
	host   []byte
	chosen []byte // its end, where the device writes the tokens that it chooses
	at     driver.Ptr
	room   int
	bytes  int // of this step's
	view   stateView
	keys   []int64

	adding  struct{ dst, src *buffer } // an Add that waits to become part of the Norm that follows
	waiting waiting                    // a Linear that waits to become part of the Gate or the Add that follows
	turns   []turn                     // Ropes that wait to become part of the Attend that follows

	graphs map[string]*recording
	form   []byte
}

// jobs are what steps do inside Do: values made once, so that a step allocates nothing.
type jobs struct {
	step, chosen, listed, count, wait func(*driver.Context) error
	found                             []int32      // Chosen's
	tops                              []device.Top // Listed's
}

// recording is a step recorded as a graph. The first step of a form runs as it comes, which finds everything it needs; the second records.
type recording struct {
	graph driver.Graph
	ready bool
}

// maxRecordings bounds the graphs that are kept. A server sees about as many forms as it has batch sizes.
const maxRecordings = 256

// stateView is where the parts of a step's state are on the device.
type stateView struct{ ids, pos, lens, logits, order, tables driver.Ptr }

// waiting is one product that waits or two; op.rows is 0 if there are none, op.over is the device's.
type waiting struct {
	dst [2]*buffer
	n   int
	op  gatedOp
}

type turn struct {
	x    *buffer
	rope *device.Rope
	dim  int
}

func (s *step) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// try runs what an operation queues, unless one before it failed.
func (d *Device) try(f func(c *driver.Context) error) {
	if d.step.err == nil {
		if err := f(d.step.c); err != nil {
			d.step.fail(err)
		}
	}
}

// Step implements device.Device.
func (d *Device) Step(p *device.Plan, ops func() error) error {
	s := &d.step
	s.plan, s.ops = p, ops
	err := d.gpu.Do(s.jobs.step)
	if s.err = nil; err == nil {
		d.counted(p) // of the step before, while this one runs
		err = d.count(p)
	}
	s.plan, s.ops = nil, nil
	return err
}

// run is Step inside Do.
func (d *Device) run(c *driver.Context) error {
	s := &d.step
	if s.c = c; s.err != nil { // of a copy between steps
		return s.err
	}
	if err := d.prepare(c, s.plan); err != nil {
		return err
	}
	form, same := d.formOf(s.plan)
	if !same {
		return d.record()
	}
	r := s.graphs[string(form)]
	switch {
	case r == nil:
		if len(s.graphs) >= maxRecordings {
			if err := d.forget(c); err != nil {
				return err
			}
		}
		s.graphs[string(form)] = &recording{}
		return d.record()
	case !r.ready:
		g, err := c.Capture(d.stream, d.record)
		if err != nil {
			return err
		}
		r.graph, r.ready = g, true
	}
	return c.Replay(r.graph, d.stream)
}

// record queues the operations of a step.
func (d *Device) record() error {
	s := &d.step
	s.adding.dst, s.waiting.op.rows, s.turns = nil, 0, s.turns[:0]
	if err := s.c.UploadAsync(s.at, s.host[:s.bytes], d.stream); err != nil {
		return err
	}
	err := s.ops()
	d.flush()
	return errors.Join(err, s.err)
}

// forget drops all recordings.
func (d *Device) forget(c *driver.Context) error {
	err := c.Wait(d.stream)
	for _, r := range d.step.graphs {
		if r.ready {
			err = errors.Join(err, c.FreeGraph(r.graph))
		}
	}
	clear(d.step.graphs)
	return err
}

// formOf is what a step's kernels depend on besides its state. Only decode steps of one row a sequence come again in the same form.
func (d *Device) formOf(p *device.Plan) (form []byte, same bool) {
	f := d.step.form[:0]
	add := func(n int64) { f = append(strconv.AppendInt(f, n, 36), ' ') }
	add(int64(len(p.Tokens)))
	add(int64(len(p.Logits)))
	add(int64(p.Choice))
	add(int64(uintptr(unsafe.Pointer(p.Cache.(*Cache)))))
	op := p.Cache.(*Cache).op
	for i := range p.Segments {
		if seg := &p.Segments[i]; seg.Mode != device.Decode || seg.N != 1 {
			return nil, false
		}
	}
	for i := 0; i < len(p.Segments); {
		n, pipeline := op.together(p.Segments, i), p.Segments[i].Pipeline
		add(int64(i))
		add(int64(uintptr(unsafe.Pointer(pipeline))))
		if m, err := ModeOf(pipeline); err == nil && op.decided(m, n, reached(p.Segments[i:i+n], 0)).Dense {
			add(-1)
		}
		i += n
	}
	d.step.form = f
	return f, true
}

// prepare writes the step's state, once the step before it has been done. Where its parts are depends on the step's form only.
func (d *Device) prepare(c *driver.Context, p *device.Plan) error {
	s, cache := &d.step, p.Cache.(*Cache)
	stride, rows := cache.op.stride, len(p.Tokens)
	if need := d.maxRows * (6 + stride) * 4; need > s.room {
		if err := d.forget(c); err != nil {
			return err
		}
		if s.host != nil {
			err := c.FreeHost(s.host)
			if s.host, s.room = nil, 0; err != nil {
				return err
			}
		}
		host, err := c.AllocHost(need)
		if err != nil {
			return err
		}
		s.host = host
		if s.at, err = d.alloc(c, need); err != nil {
			return err
		}
		s.room = need
		s.chosen = host[need-d.maxRows*4:]
	}
	if err := c.Wait(d.stream); err != nil {
		return err
	}
	part := func(i int) driver.Ptr { return s.at + driver.Ptr(i*rows*4) }
	s.view = stateView{ids: part(0), pos: part(1), lens: part(2), logits: part(3), order: part(4), tables: part(5)}
	all := unsafe.Slice((*int32)(unsafe.Pointer(&s.host[0])), s.room/4)
	copy(all, p.Tokens)
	copy(all[rows:], p.Pos)
	for i, pos := range p.Pos {
		all[2*rows+i] = pos + 1
	}
	copy(all[3*rows:], p.Logits)
	for i := range p.Segments {
		seg := &p.Segments[i]
		table := seg.Seq.Table()
		if n := attention.BlocksOf(seg.Pos + seg.N); n > len(table) || n > stride {
			return fmt.Errorf("cuda: sequence %d of a step reaches %d tokens: its table has %d blocks of %d, the cache was made for %d", i, seg.Pos+seg.N, len(table), attention.BlockTokens, stride)
		}
		copy(all[5*rows+i*stride:][:stride], table)
	}
	for i := 0; i < len(p.Segments); {
		n, row := cache.op.together(p.Segments, i), p.Segments[i].Row
		if n > 1 {
			s.keys = longestFirst(all[4*rows+row:][:n], all[2*rows+row:][:n], s.keys)
		}
		i += n
	}
	s.bytes = (5*rows + len(p.Segments)*stride) * 4
	return nil
}
