package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/eval"
	"github.com/twilight-go/twilight/internal/eval/grid"
	"github.com/twilight-go/twilight/internal/eval/task"
)

// questionFlags are shared by the evaluations that ask questions.
type questionFlags struct {
	evalFlags
	Samples int    `default:"1" placeholder:"N" help:"Samples of a task and length; of a grid, for each of its cells (${default})."`
	Seed    uint64 `default:"1" placeholder:"N" help:"Of samples and intervals (${default})."`
	Raw     bool   `help:"Ask without the model's chat template."`
	Measure bool   `help:"Measure the true attention mass and the output error too; it takes a dense pass a step."`
	Shard   shard  `placeholder:"I/N" help:"Ask every Nth sample of a task alone, from the Ith on, 0/N to N-1/N: files of all shards can be put together."`

	PromptDevice string `placeholder:"NAME" help:"What reads the prompts, if not --device: their caches are moved. With cuda, long prompts take seconds, and every attention answers on the processors."`
	Workers      int    `default:"1" placeholder:"N" help:"Questions answered side by side, each by the model loaded anew, on --threads threads: for many processors (${default})."`
	Together     int    `default:"1" placeholder:"N" help:"Prompts that are held at once, for their answers to be decoded in the same steps: for a GPU (${default})."`
}

// shard is a part of the samples.
type shard struct{ which, of int }

// UnmarshalText implements encoding.TextUnmarshaler for the parser.
func (s *shard) UnmarshalText(b []byte) error {
	which, of, ok := strings.Cut(string(b), "/")
	var errs [2]error
	s.which, errs[0] = strconv.Atoi(which)
	s.of, errs[1] = strconv.Atoi(of)
	if !ok || errs[0] != nil || errs[1] != nil || s.which < 0 || s.which >= s.of {
		return fmt.Errorf("%q: expected I/N with I from 0 to N-1", b)
	}
	return nil
}

// Validate reports values out of range.
func (f *questionFlags) Validate() error {
	if f.Samples < 1 || f.Samples > 1<<20 {
		return fmt.Errorf("--samples=%d: expected at least 1", f.Samples)
	}
	if f.Workers < 1 || f.Workers > 1024 || f.Together < 1 || f.Together > 1024 {
		return fmt.Errorf("--workers=%d --together=%d: expected 1 to 1024", f.Workers, f.Together)
	}
	if f.Workers > 1 && f.Device == "cuda" {
		return errors.New("--workers goes with the processors: on a GPU, --together has answers decoded side by side")
	}
	if f.PromptDevice != "" && !slices.Contains(twilight.Devices, f.PromptDevice) {
		return fmt.Errorf("--prompt-device=%s: unknown; known: %s", f.PromptDevice, strings.Join(twilight.Devices, ", "))
	}
	if f.Threads == 0 && f.Workers > 1 {
		f.Threads = max(1, runtime.GOMAXPROCS(0)/f.Workers)
	}
	return f.evalFlags.Validate()
}

// ask runs tasks and prints what came out, with a grid where show asks for one.
func (f *questionFlags) ask(con *console, tasks []task.Task, grids bool) error {
	ctx, stop := con.interruptible()
	defer stop()
	e, err := f.start(con)
	if err != nil {
		return err
	}
	q := eval.Questions{Circumstances: e.circumstances(), Tasks: tasks, Lengths: f.Length, Samples: f.Samples, Seed: f.Seed, Specs: f.specs(), Raw: f.Raw, Measure: f.Measure, Log: e.log,
		Shard: f.Shard.which, Shards: f.Shard.of, Together: f.Together, Progress: e.progress, Row: e.row}
	models, done, err := f.open(ctx, con, &q)
	if err != nil {
		return errors.Join(err, e.log.Close())
	}
	defer done()
	var rows []eval.Row
	if err = e.fits(models[0]); err == nil {
		rows, err = q.Run(ctx, models...)
	}
	return e.end(rows, f.Seed, err, func(sums []eval.Summary) {
		table(con.out, scoreTable(sums))
		if grids {
			fmt.Fprintln(con.out)
			table(con.out, gridTable(rows))
		}
	})
}

// open opens the models that answer, and what reads the prompts for them. done closes all.
func (f *questionFlags) open(ctx context.Context, con *console, q *eval.Questions) (models []*twilight.Model, done func(), err error) {
	models = make([]*twilight.Model, f.Workers)
	done = func() {
		for _, m := range append(models[:len(models):len(models)], q.Prompts) {
			if m != nil {
				m.Close() //nolint:errcheck // what was read only
			}
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	// The first is alone in showing how far it is, and fetches a model that is not here; the others find it.
	if models[0], err = con.open(ctx, f.Model, q.Options(f.options()), ""); err != nil {
		return models, done, err
	}
	var g errgroup.Group
	for i := range models[1:] {
		g.Go(func() (err error) {
			models[1+i], err = twilight.Open(ctx, f.Model, q.Options(f.options()))
			return err
		})
	}
	if f.PromptDevice != "" && f.PromptDevice != f.Device {
		g.Go(func() (err error) {
			o := f.options()
			o.Device, o.KVOffload, o.GPUMemory = f.PromptDevice, false, 0
			q.Prompts, err = twilight.Open(ctx, f.Model, q.PromptOptions(o))
			return err
		})
	}
	return models, done, g.Wait()
}

// scoreTable has a row a task, length and spec, and a column of what audits found where there were any.
func scoreTable(sums []eval.Summary) [][]string {
	out := [][]string{{"TASK", "LENGTH", "ATTENTION", "SAMPLES", "SCORE", "95 %", "VS DENSE", "95 %", "KEPT", "PRUNED", "READ", "OF DENSE", "S/ANSWER"}}
	audited := slices.ContainsFunc(sums, func(s eval.Summary) bool { return s.Audits > 0 })
	if audited {
		out[0] = append(out[0], "AUDITED")
	}
	for _, s := range sums {
		diff, ends := "-", "-"
		if s.VsDense != nil && s.Spec != "dense" {
			diff, ends = fmt.Sprintf("%+.1f", 100*s.VsDense.Mean), interval(s.VsDense, 100, "%+.1f")
		}
		out = append(out, []string{s.Task, fmt.Sprint(s.Size), s.Label, fmt.Sprint(s.Score.N), fmt.Sprintf("%.1f", 100*s.Score.Mean), interval(s.Score, 100, "%.1f"), diff,
			ends, fmt.Sprintf("%.0f", s.Kept), percent(s.Pruned), fmt.Sprintf("%.0f", s.Union), percent(s.Bytes / max(s.DenseBytes, 1)), fmt.Sprintf("%.2f", s.Seconds)})
		if audited {
			out[len(out)-1] = append(out[len(out)-1], auditedMass(&s.Attention))
		}
	}
	return out
}

// auditedMass is what audits say of the attended mass.
func auditedMass(a *eval.Attention) string {
	switch {
	case a.Audits == 0:
		return "-"
	case a.AuditHalf >= 1:
		return "?"
	}
	return fmt.Sprintf("%.3f ± %.3f", a.AuditMass, a.AuditHalf)
}

// gridTable has a row a spec and depth, and a column a length.
func gridTable(rows []eval.Row) [][]string {
	type cell struct {
		label  string
		depth  float64
		length int
	}
	sum, count := map[cell]float64{}, map[cell]float64{}
	var lengths []int
	var labels []string
	var depths []float64
	for i := range rows {
		r := &rows[i]
		depth, _ := grid.Depth(r.Sample)
		c := cell{r.Label, depth, r.Size}
		sum[c] += r.Score
		count[c]++
		lengths, labels, depths = with(lengths, r.Size), with(labels, r.Label), with(depths, depth)
	}
	head := []string{"ATTENTION", "DEPTH"}
	for _, n := range lengths {
		head = append(head, fmt.Sprint(n))
	}
	out := [][]string{head}
	for _, label := range labels {
		for _, depth := range depths {
			line := []string{label, fmt.Sprintf("%g%%", depth)}
			for _, n := range lengths {
				c := cell{label, depth, n}
				text := "-"
				if count[c] > 0 {
					text = fmt.Sprintf("%.0f", 100*sum[c]/count[c])
				}
				line = append(line, text)
			}
			out = append(out, line)
		}
	}
	return out
}

// with adds what is not there yet.
func with[T comparable](list []T, x T) []T {
	if slices.Contains(list, x) {
		return list
	}
	return append(list, x)
}

// depthsFlag says where something is hidden.
type depthsFlag struct {
	Depths []float64 `default:"10,50,90" placeholder:"N,..." help:"Where it is hidden, in percent of the text (${default})."`
}

type passkeyCommand struct {
	depthsFlag
	questionFlags
}

// Run is called by the parser.
func (c *passkeyCommand) Run(con *console) error {
	t, err := grid.Passkey(c.Depths)
	if err != nil {
		return misuse{err}
	}
	return c.ask(con, []task.Task{t}, true)
}

type needleCommand struct {
	File string `short:"f" placeholder:"FILE" help:"The haystack: a long text, of which each sample takes another part."`
	depthsFlag
	questionFlags
}

// Validate is called by the parser.
func (c *needleCommand) Validate() error {
	if c.File == "" {
		return errors.New("no haystack: give a long text with --file")
	}
	return c.questionFlags.Validate()
}

// Run is called by the parser.
func (c *needleCommand) Run(con *console) error {
	text, err := con.readFile(c.File)
	if err != nil {
		return err
	}
	t, err := grid.Needle(text, c.Depths)
	if err != nil {
		return misuse{err}
	}
	return c.ask(con, []task.Task{t}, true)
}
