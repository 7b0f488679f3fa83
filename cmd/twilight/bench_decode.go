package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/twilight-go/twilight/internal/bench"
)

type benchDecode struct {
	File      string  `short:"f" placeholder:"FILE" help:"The text that fills the cache; repeated if it is too short."`
	Load      string  `placeholder:"CACHE" type:"path" help:"A saved cache whose text fills it instead."`
	Depth     []int   `default:"0,4096,8192" placeholder:"N,..." help:"Cached tokens before the measured steps (${default})."`
	Steps     int     `default:"32" placeholder:"N" help:"Measured steps at each depth (${default})."`
	Sequences int     `default:"1" placeholder:"N" help:"Sequences that decode together, the longest of the depth (${default})."`
	Shortest  float64 `default:"0.25" placeholder:"SHARE" help:"How long the shortest of them is, of the depth (${default})."`
	Scaling   bool    `help:"Also with one thread, to see what the others bring."`
	modelFlags
	specsFlag
	JSON bool `name:"json" help:"Print JSON, a line a measurement."`
}

// Validate is called by the parser.
func (c *benchDecode) Validate() error {
	switch {
	case (c.File == "") == (c.Load == ""):
		return errors.New("give the text to fill the cache with either as --file or as --load")
	case c.Steps < 1:
		return fmt.Errorf("--steps=%d: expected at least 1", c.Steps)
	case c.Sequences < 1 || c.Sequences > 512:
		return fmt.Errorf("--sequences=%d: expected 1 to 512", c.Sequences)
	case !(c.Shortest >= 0 && c.Shortest <= 1):
		return fmt.Errorf("--shortest=%g: expected 0 to 1", c.Shortest)
	case len(c.Depth) == 0 || slices.Min(c.Depth) < 0:
		return fmt.Errorf("--depth=%v: expected numbers of tokens", c.Depth)
	}
	return c.modelFlags.Validate()
}

// Run is called by the parser.
func (c *benchDecode) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	text, err := con.readFile(c.File)
	if err != nil {
		return err
	}
	p := con.progress("tok")
	defer p.clear()
	rows := [][]string{{"OP", "THREADS", "DEPTH", "SPEC", "MS/STEP", "TOKENS/S", "P99/MEDIAN", "ALLOCS", "KEPT", "OF CONTEXT", "SPEED-UP"}}
	if c.Scaling {
		rows[0] = append(rows[0], "OVER ONE THREAD")
	}
	slices.Sort(c.Depth)
	b := bench.Decode{Model: c.Model, Text: text, Load: c.Load, Depths: slices.Compact(c.Depth), Specs: c.specs(), Steps: c.Steps, Sequences: c.Sequences, Shortest: c.Shortest, Progress: p.report}
	var failed error
	b.Row = func(r bench.DecodeRow) {
		p.clear()
		if c.JSON {
			failed = errors.Join(failed, writeJSON(con.out, r))
			return
		}
		rows = append(rows, c.row(&r))
	}
	threads, on := []int{cmp.Or(c.Threads, runtime.GOMAXPROCS(0))}, ""
	if c.Scaling {
		threads = slices.Compact([]int{1, threads[0]})
	}
	for _, t := range threads {
		b.Threads = t
		if on, err = c.run(ctx, con, &b); err != nil {
			break
		}
	}
	p.clear()
	if len(rows) > 1 {
		table(con.out, rows)
		fmt.Fprintf(con.err, "\n%s on %s; medians of %d steps\n", c.Model, on, c.Steps)
	}
	return errors.Join(err, failed)
}

// run measures with as many threads as b says and returns what the model ran on.
func (c *benchDecode) run(ctx context.Context, con *console, b *bench.Decode) (on string, err error) {
	o := c.options()
	o.Threads = b.Threads
	m, err := con.open(ctx, c.Model, b.Options(o), "")
	if err != nil {
		return "", err
	}
	defer m.Close()
	return m.Device(), b.Run(ctx, m)
}

func (c *benchDecode) row(r *bench.DecodeRow) []string {
	factor := func(x float64) string {
		if x == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f", x)
	}
	out := []string{r.Op, fmt.Sprint(r.Threads), fmt.Sprint(r.Context), r.Spec, fmt.Sprintf("%.2f", r.MicrosStep/1e3), fmt.Sprintf("%.1f", r.TokensSec), fmt.Sprintf("%.2f", r.P99), fmt.Sprintf("%.1f", r.AllocsStep),
		fmt.Sprintf("%.0f", r.KeptMean), percent(r.KeptShare), factor(r.DenseFactor)}
	if c.Scaling {
		out = append(out, factor(r.FirstFactor))
	}
	return out
}
