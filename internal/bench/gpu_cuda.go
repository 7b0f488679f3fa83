//go:build !nocuda

package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// noMemory is the driver's error of that name.
const noMemory = 2

// gpuRun is a GPU while it is measured.
type gpuRun struct {
	*GPUAttention
	dev       *driver.Device
	c         *driver.Context
	modes     []cuda.Mode // by spec
	stream    driver.Stream
	from, to  driver.Event
	copyGBps  float64
	done, all int64
}

func (b *GPUAttention) run(ctx context.Context) (err error) {
	r := &gpuRun{GPUAttention: b, all: int64(len(b.Views) * len(b.Contexts) * len(b.Batches) * len(b.Specs))}
	for _, text := range b.Specs {
		spec, err := attention.Parse(text)
		if err != nil {
			return err
		}
		p, err := attention.New(spec)
		if err != nil {
			return err
		}
		m, err := cuda.ModeOf(p)
		if err != nil {
			return err
		}
		r.modes = append(r.modes, m)
	}
	if r.dev, err = driver.Open(driver.Options{Library: b.library}); err != nil {
		return err
	}
	err = r.dev.Do(func(c *driver.Context) error {
		r.c = c
		if r.stream, err = c.NewStream(); err != nil {
			return err
		}
		if r.from, err = c.NewEvent(); err != nil {
			return err
		}
		if r.to, err = c.NewEvent(); err != nil {
			return err
		}
		for _, view := range b.Views {
			for _, n := range b.Contexts {
				if err := r.context(ctx, view, n); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return errors.Join(err, r.dev.Close())
}

// context measures all batches of a view at n tokens that the device has room for.
func (r *gpuRun) context(ctx context.Context, view string, n int) error {
	l, err := newLineup(r.Captures, view, n, r.Heads, r.KVHeads)
	if err != nil {
		return err
	}
	batches := r.Batches
	var p *gpuPoint
	for {
		p, err = r.point(l, view, n, batches[len(batches)-1])
		var failed *driver.Error
		if !errors.As(err, &failed) || failed.Code != noMemory || len(batches) == 1 {
			break
		}
		r.note("%s, %d tokens: no room for a batch of %d", view, n, batches[len(batches)-1])
		batches = batches[:len(batches)-1]
	}
	if err != nil {
		return fmt.Errorf("bench: %s, %d sequences of %d tokens: %w", view, batches[len(batches)-1], n, err)
	}
	for _, batch := range batches {
		var dense AttentionRow
		for i, m := range r.modes {
			err := ctx.Err()
			row := AttentionRow{Batch: batch, Spec: r.Specs[i]}
			if err == nil {
				err = p.measure(&row, m, &dense)
			}
			if err != nil {
				return errors.Join(fmt.Errorf("bench: %s, %s, %d sequences of %d tokens: %w", r.Specs[i], view, batch, n, err), p.op.Free(r.c))
			}
			if r.done++; r.Progress != nil {
				r.Progress("measuring", r.done, r.all)
			}
			if r.Row != nil {
				r.Row(row)
			}
		}
	}
	return p.op.Free(r.c)
}

// gpuPoint is an operator full of sequences at one view and context.
type gpuPoint struct {
	*gpuRun
	view      string
	n         int
	op        *cuda.Operator
	line      *lineup
	sequences int
	want      []float32 // of dense attention, of the batch being measured
	known     map[[2]int]*exactHead
}

// point makes one that has at least batch sequences.
func (r *gpuRun) point(l *lineup, view string, n, batch int) (_ *gpuPoint, err error) {
	p := &gpuPoint{gpuRun: r, view: view, n: n, line: l, known: map[[2]int]*exactHead{}}
	each := attention.BlocksOf(n)
	perSequence := n * l.kvHeads * l.dim() * 4
	p.sequences = max(batch, (r.pace.rotation*r.dev.L2Bytes+perSequence-1)/perSequence)
	s := cuda.Shape{Dim: l.dim(), KVHeads: l.kvHeads, Group: l.group, Batch: p.sequences, Blocks: each * p.sequences, Tokens: n}
	for _, m := range r.modes {
		s.TokenCodes = s.TokenCodes || m.TokenCodes
	}
	if p.op, err = cuda.New(r.c, r.dev, s); err != nil {
		return nil, err
	}
	if err = p.fill(each); err == nil && r.copyGBps == 0 {
		err = p.measureCopy()
	}
	if err != nil {
		return nil, errors.Join(err, p.op.Free(r.c))
	}
	return p, nil
}

// fill gives every sequence its tokens and queries.
func (p *gpuPoint) fill(each int) error {
	scattered := rand.New(rand.NewPCG(1, 1)).Perm(each * p.sequences)
	tables, lens := make([][]int32, p.sequences), make([]int32, p.sequences)
	uses := map[*CapturedHead][][2]int{} // sequences and KV heads
	var q []uint16
	for s := range tables {
		for _, b := range scattered[s*each:][:each] {
			tables[s] = append(tables[s], int32(b))
		}
		lens[s] = int32(p.line.length(s))
		for h := range p.line.kvHeads {
			head := p.line.head(s, h)
			uses[head] = append(uses[head], [2]int{s, h})
			for g := range p.line.group {
				q = append(q, p.line.query(s, h, g)...)
			}
		}
	}
	to, _, _, _ := p.op.Buffers()
	if err := errors.Join(p.op.SetSequences(p.c, tables, lens), p.c.Upload(to, bytesOf(q))); err != nil {
		return err
	}
	bytes := p.n * p.line.dim() * 2
	k, err := p.c.Alloc(bytes)
	if err != nil {
		return err
	}
	v, err := p.c.Alloc(bytes)
	if err != nil {
		return errors.Join(err, p.c.Free(k))
	}
	for head, list := range uses {
		if err = errors.Join(p.c.Upload(k, bytesOf(head.k)[:bytes]), p.c.Upload(v, bytesOf(head.v)[:bytes])); err != nil {
			break
		}
		for _, u := range list {
			if err = p.op.Write(p.c, p.stream, u[0], 0, int(lens[u[0]]), u[1], 1, k, v, p.line.dim(), 0); err != nil {
				break
			}
		}
		if err = errors.Join(err, p.c.Wait(p.stream)); err != nil {
			break
		}
	}
	if err == nil {
		err = errors.Join(p.op.Encode(p.c, p.stream, p.sequences), p.c.Wait(p.stream))
	}
	return errors.Join(err, p.c.Free(k), p.c.Free(v))
}

// measureCopy times the yardstick: what a plain copy within the device's memory reads and writes.
func (p *gpuPoint) measureCopy() error {
	bytes := p.pace.copyBytes
	at, err := p.c.Alloc(2 * bytes)
	if err != nil {
		return err
	}
	us, err := p.time(1, func(int) error { return p.op.Copy(p.c, p.stream, at+driver.Ptr(bytes), at, bytes) })
	p.copyGBps = 2 * float64(bytes) / us / 1e3
	return errors.Join(err, p.c.Free(at))
}

// time is the median microseconds of a step. A graph has the given number of different steps, several times if they are few.
func (p *gpuPoint) time(steps int, step func(i int) error) (float64, error) {
	all := (p.pace.steps + steps - 1) / steps * steps
	g, err := p.c.Capture(p.stream, func() error {
		for i := range all {
			if err := step(i % steps); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	var times []float64
	for i := range p.pace.warmup + p.pace.replays {
		err := errors.Join(p.c.Record(p.from, p.stream), p.c.Replay(g, p.stream), p.c.Record(p.to, p.stream), p.c.WaitEvent(p.to))
		if err != nil {
			return 0, errors.Join(err, p.c.FreeGraph(g))
		}
		ms, err := p.c.Elapsed(p.from, p.to)
		if err != nil {
			return 0, errors.Join(err, p.c.FreeGraph(g))
		}
		if i >= p.pace.warmup {
			times = append(times, float64(ms)*1e3/float64(all))
		}
	}
	slices.Sort(times)
	return times[len(times)/2], p.c.FreeGraph(g)
}

func bytesOf(x []uint16) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 2*len(x))
}
