package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/twilight-go/twilight/internal/bench"
)

type benchDecode struct {
	File  string `short:"f" placeholder:"FILE" help:"The text that fills the cache; repeated if it is too short."`
	Load  string `placeholder:"CACHE" type:"path" help:"A saved cache whose text fills it instead."`
	Depth []int  `default:"0,4096,8192" placeholder:"N,..." help:"Cached tokens before the measured steps (${default})."`
	Steps int    `default:"32" placeholder:"N" help:"Measured steps at each depth (${default})."`
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
	rows := [][]string{{"OP", "DEPTH", "SPEC", "MS/TOKEN", "TOKENS/S", "P99/MEDIAN", "KEPT", "OF CONTEXT", "SPEED-UP"}}
	slices.Sort(c.Depth)
	b := bench.Decode{Model: c.Model, Text: text, Load: c.Load, Depths: slices.Compact(c.Depth), Specs: c.specs(), Steps: c.Steps, Threads: cmp.Or(c.Threads, runtime.GOMAXPROCS(0)), Progress: p.report}
	b.Row = func(r bench.DecodeRow) {
		p.clear()
		if c.JSON {
			err = errors.Join(err, writeJSON(con.out, r))
			return
		}
		speedup := "-"
		if r.DenseFactor > 0 {
			speedup = fmt.Sprintf("%.2f", r.DenseFactor)
		}
		rows = append(rows, []string{r.Op, fmt.Sprint(r.Context), r.Spec, fmt.Sprintf("%.2f", r.MicrosStep/1e3), fmt.Sprintf("%.1f", r.TokensSec), fmt.Sprintf("%.2f", r.P99),
			fmt.Sprintf("%.0f", r.KeptMean), percent(r.KeptShare), speedup})
	}
	m, err := con.open(ctx, c.Model, b.Options(c.options()), "")
	if err != nil {
		return err
	}
	defer m.Close()
	err = errors.Join(b.Run(ctx, m), err)
	p.clear()
	if len(rows) > 1 {
		table(con.out, rows)
		fmt.Fprintf(con.err, "\n%s on %s; medians of %d steps\n", c.Model, m.Device(), c.Steps)
	}
	return err
}
