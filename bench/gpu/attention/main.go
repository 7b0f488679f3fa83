// Command attention measures the attention operator of package cuda on a GPU, on real queries, keys and values that command capture saved: dense attention, the
// paper's pipeline and the house's, over batches and contexts, in two views: gqa (groups of 4 query heads to 8 KV heads) and mha (32 query heads, each its own KV
// head, as in the paper's benchmark).
//
//	attention -capture qwen.cap [-view gqa,mha] [-batch 1,8,16,64] [-context 8192,16384,32768] [-specs twilight] [-json]
//
// View own takes the capture's groups, with -kvheads of them.
//
// Times are medians of graph replays; the steps of a graph go through all sequences of the cache, so that small batches do not find their keys in the L2 cache.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

func main() {
	log.SetFlags(0)
	path := flag.String("capture", "", "file of command capture")
	views := flag.String("view", "gqa,mha", "views: gqa, mha")
	batches := flag.String("batch", "1,8,16,64", "batch sizes, up to the last")
	contexts := flag.String("context", "8192,16384,32768", "context lengths, each one of the capture's")
	asJSON := flag.Bool("json", false, "a JSON object a row instead of a table")
	kvHeads := flag.Int("kvheads", 2, "KV heads of view own")
	only := flag.String("specs", "", "pipelines to measure besides dense: a regular expression; empty: those of the results")
	sparse := flag.Bool("sparse", false, "never read whole, so that one sees from where on selecting pays")
	stages := flag.Bool("stages", false, "time the stages of select")
	threads := flag.Int("threads", 0, "threads of a thread block of select; 0: as chosen")
	flag.Parse()
	choose(*only, *sparse)
	data, err := readCapture(*path)
	if err != nil {
		log.Fatal(err)
	}
	dev, err := driver.Open(driver.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "%s, compute capability %d.%d, driver for CUDA %d\n", dev.Name, dev.Major, dev.Minor, dev.Driver)
	for _, v := range strings.Split(*views, ",") {
		err = errors.Join(err, dev.Do(func(c *driver.Context) error {
			b, err := newBench(c, dev, data, v, *kvHeads, slices.Max(ints(*batches)))
			if err != nil {
				return err
			}
			defer b.op.Free(c) //nolint:errcheck // the process ends
			b.op.SelectThreads, b.stages = *threads, *stages
			return b.grid(ints(*contexts), ints(*batches), *asJSON)
		}))
	}
	if err = errors.Join(err, dev.Close()); err != nil {
		log.Fatal(err)
	}
}

func ints(s string) (list []int) {
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			log.Fatalf("attention: %q is not a list of numbers", s)
		}
		list = append(list, n)
	}
	return list
}

// row is a line of the result.
type row struct {
	View    string  `json:"view"`
	Batch   int     `json:"batch"`
	Context int     `json:"ctx"`
	Spec    string  `json:"spec"`
	Micros  float64 `json:"us_per_step"`
	Select  float64 `json:"us_select"`
	// Stages are the microseconds of select's stages: bases, page bounds, candidates, estimates, thresholds, lists.
	Stages     []float64 `json:"us_stages,omitempty"`
	Speedup    float64   `json:"speedup_vs_dense"`
	Bytes      float64   `json:"bytes_per_token"` // and KV head
	GBps       float64   `json:"gbps"`
	Candidates float64   `json:"candidates_mean"`
	Kept       float64   `json:"kept_mean"`  // a head's own survivors
	Exact      float64   `json:"exact_mean"` // tokens that the group reads exactly
	Others     float64   `json:"coded_mean"` // and as codes
	Mass       float64   `json:"mass"`       // true mass of what a head attends to
	MassWorst  float64   `json:"mass_worst"`
	Error      float64   `json:"out_err"`
}

// bench is a filled cache of one view.
type bench struct {
	c        *driver.Context
	op       *cuda.Operator
	data     *capture
	view     string
	stream   driver.Stream
	from, to driver.Event
	tables   [][]int32
	out      []uint16
	copyGBps float64
	stages   bool
	weighed  map[[3]int][]float64 // exact weights that were needed: context, unit, query head
}

func newBench(c *driver.Context, dev *driver.Device, data *capture, view string, kvHeads, batch int) (*bench, error) {
	s := cuda.Shape{Dim: data.dim, KVHeads: 8, Group: 4, Batch: batch, Tokens: data.tokens, TokenCodes: true}
	switch view {
	case "gqa":
	case "mha":
		s.KVHeads, s.Group = 32, 1
	case "own":
		s.KVHeads, s.Group = kvHeads, data.group
	default:
		return nil, fmt.Errorf("view %q: expected gqa, mha or own", view)
	}
	each := (data.tokens + attention.BlockTokens - 1) / attention.BlockTokens
	s.Blocks = each * batch
	op, err := cuda.New(c, dev, s)
	if err != nil {
		return nil, err
	}
	b := &bench{c: c, op: op, data: data, view: view, out: make([]uint16, batch*s.KVHeads*s.Group*s.Dim), weighed: map[[3]int][]float64{}}
	if b.stream, err = c.NewStream(); err != nil {
		return nil, err
	}
	if b.from, err = c.NewEvent(); err != nil {
		return nil, err
	}
	if b.to, err = c.NewEvent(); err != nil {
		return nil, err
	}
	lens := make([]int32, batch)
	for i := range batch {
		var t []int32
		for j := range each {
			t = append(t, int32((i*each+j)*7919%s.Blocks)) // scattered: 7919 is prime to the number of blocks
		}
		b.tables, lens[i] = append(b.tables, t), int32(data.tokens)
	}
	if err := op.SetSequences(c, b.tables, lens); err != nil {
		return nil, err
	}
	return b, b.fill()
}

// source is which captured head a KV head of a sequence is.
func (b *bench) source(sequence, head int) int { return (sequence + head) % len(b.data.heads) }

func (b *bench) fill() error {
	o, d := b.op, b.data
	for i := range d.heads {
		k, err := b.c.Alloc(d.tokens * d.dim * 2)
		if err != nil {
			return err
		}
		v, err := b.c.Alloc(d.tokens * d.dim * 2)
		if err != nil {
			return err
		}
		if err := errors.Join(b.c.Upload(k, bytesOf(d.heads[i].k)), b.c.Upload(v, bytesOf(d.heads[i].v))); err != nil {
			return err
		}
		for s := range o.Batch {
			for h := range o.KVHeads {
				if b.source(s, h) == i {
					if err := o.Write(b.c, b.stream, s, 0, d.tokens, h, 1, k, v, d.dim, 0); err != nil {
						return err
					}
				}
			}
		}
		if err := errors.Join(b.c.Wait(b.stream), b.c.Free(k), b.c.Free(v)); err != nil {
			return err
		}
	}
	if err := errors.Join(o.Encode(b.c, b.stream, o.Batch), b.c.Wait(b.stream)); err != nil {
		return err
	}
	return b.measureCopy()
}

// measureCopy times the yardstick.
func (b *bench) measureCopy() error {
	const bytes = 1 << 28
	p, err := b.c.Alloc(2 * bytes)
	if err != nil {
		return err
	}
	us, err := b.time(1, func(int) error { return b.op.Copy(b.c, b.stream, p+bytes, p, bytes) })
	b.copyGBps = 2 * bytes / us / 1e3
	fmt.Fprintf(os.Stderr, "%s: copy kernel %.0f GB/s\n", b.view, b.copyGBps)
	return errors.Join(err, b.c.Free(p))
}

// time is the median microseconds of a step, of graphs of the given number of steps.
func (b *bench) time(steps int, step func(i int) error) (float64, error) {
	g, err := b.c.Capture(b.stream, func() error {
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
	var times []float64
	for i := range 14 {
		err := errors.Join(b.c.Record(b.from, b.stream), b.c.Replay(g, b.stream), b.c.Record(b.to, b.stream), b.c.WaitEvent(b.to))
		if err != nil {
			return 0, err
		}
		ms, err := b.c.Elapsed(b.from, b.to)
		if err != nil {
			return 0, err
		}
		if i >= 3 {
			times = append(times, float64(ms)*1e3/float64(steps))
		}
	}
	slices.Sort(times)
	return times[len(times)/2], b.c.FreeGraph(g)
}

// query is the captured position, counted within the window before a context, of a sequence's queries.
func (b *bench) query(sequence int) int { return sequence * 7 % b.data.window }

// queryHead is the captured query head that query head g of a KV head is.
func (b *bench) queryHead(sequence, head, g int) int {
	return (g + sequence + head/len(b.data.heads)) % b.data.group
}

// context sets lengths and queries to those of a captured context.
func (b *bench) context(at int) error {
	o, d := b.op, b.data
	lens := make([]int32, o.Batch)
	var q []uint16
	for s := range lens {
		w := b.query(s)
		lens[s] = int32(b.length(at, s))
		for h := range o.KVHeads {
			for g := range o.Group {
				q = append(q, d.query(b.source(s, h), at, w, b.queryHead(s, h, g))...)
			}
		}
	}
	to, _, _, _ := o.Buffers()
	return errors.Join(o.SetSequences(b.c, b.tables, lens), b.c.Upload(to, bytesOf(q)))
}

func (b *bench) grid(contexts, batches []int, asJSON bool) error {
	if !asJSON {
		fmt.Printf("| view | batch | context | pipeline | µs | of it select | × dense | bytes/token | GB/s | %% of copy | candidates | kept | exact | coded | mass | worst | error | stages |\n|%s\n", strings.Repeat("---|", 18))
	}
	for _, ctx := range contexts {
		at := slices.Index(b.data.at, ctx)
		if at < 0 {
			return fmt.Errorf("context %d: the capture has %v", ctx, b.data.at)
		}
		if err := b.context(at); err != nil {
			return err
		}
		for _, batch := range batches {
			dense := 0.0
			var want []float32
			for _, s := range specs {
				r := row{View: b.view, Batch: batch, Context: ctx, Spec: s.name}
				if err := b.measure(&r, s.mode, at, &want); err != nil {
					return fmt.Errorf("%s, batch %d, context %d: %w", s.name, batch, ctx, err)
				}
				if s.mode.Dense {
					dense = r.Micros
				}
				r.Speedup = dense / r.Micros
				b.print(&r, asJSON)
			}
		}
	}
	return nil
}

func (b *bench) print(r *row, asJSON bool) {
	if asJSON {
		line, _ := json.Marshal(r) //nolint:errcheck // plain numbers
		fmt.Println(string(line))
		return
	}
	fmt.Printf("| %s | %d | %d | %s | %.1f | %.1f | %.2f | %.1f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.4f | %.4f | %.4f | %.1f |\n", r.View, r.Batch, r.Context, r.Spec, r.Micros, r.Select, r.Speedup,
		r.Bytes, r.GBps, 100*r.GBps/b.copyGBps, r.Candidates, r.Kept, r.Exact, r.Others, r.Mass, r.MassWorst, r.Error, r.Stages)
}

func (b *bench) measure(r *row, m cuda.Mode, at int, want *[]float32) (err error) {
	o := b.op
	steps := o.Batch / r.Batch
	if r.Micros, err = b.time(steps, func(i int) error { return o.Attend(b.c, b.stream, i*r.Batch, r.Batch, m) }); err != nil {
		return err
	}
	if !m.Dense {
		r.Select, err = b.time(steps, func(i int) error {
			return errors.Join(o.Select(b.c, b.stream, i*r.Batch, r.Batch, m, 0), o.ResetQueue(b.c, b.stream))
		})
		if err == nil && b.stages {
			err = b.measureStages(r, m, steps)
		}
		if err != nil {
			return err
		}
	}
	if err := errors.Join(o.Attend(b.c, b.stream, 0, r.Batch, m), b.c.Wait(b.stream)); err != nil {
		return err
	}
	_, from, _, _ := o.Buffers()
	heads := r.Batch * o.KVHeads * o.Group
	out := b.out[:heads*o.Dim]
	if err := b.c.Download(bytesOf(out), from); err != nil {
		return err
	}
	got := floats(out)
	tokens := 0.0
	for s := range r.Batch {
		tokens += float64(b.length(at, s))
	}
	if m.Dense {
		*want = got
		r.Bytes, r.Mass, r.MassWorst = float64(4*o.Dim), 1, 1
		r.GBps = r.Bytes * tokens * float64(o.KVHeads) / r.Micros / 1e3
		return nil
	}
	for i := range heads {
		r.Error += apart(got[i*o.Dim:][:o.Dim], (*want)[i*o.Dim:][:o.Dim]) / float64(heads)
	}
	return b.account(r, m, at, tokens)
}

func apart(a, b []float32) float64 {
	var d, n float64
	for i := range b {
		x := float64(a[i] - b[i])
		d += x * x
		n += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(d / max(n, 1e-30))
}
