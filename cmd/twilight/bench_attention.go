package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/internal/bench"
)

type benchAttention struct {
	File  string `short:"f" placeholder:"FILE" help:"The text that is read."`
	Load  string `placeholder:"CACHE" type:"path" help:"A saved cache instead: its last tokens are read again."`
	Ctx   []int  `short:"c" placeholder:"N,..." help:"Tokens in sight; left out: the whole text."`
	View  string `enum:"gqa,mha" default:"gqa" placeholder:"NAME" help:"gqa: query heads share KV heads as the model has it; mha: each query head reads a KV head of its own (${default})."`
	Steps int    `default:"16" placeholder:"N" help:"Measured steps at each context (${default})."`
	deviceFlags
	specsFlag
	JSON bool `name:"json" help:"Print JSON, a line a measurement."`
}

// Validate is called by the parser.
func (c *benchAttention) Validate() error {
	switch {
	case (c.File == "") == (c.Load == ""):
		return errors.New("give the text to read either as --file or as --load")
	case c.Device != "cpu":
		return fmt.Errorf("--device=%s: its attention cannot be measured by itself; expected cpu", c.Device)
	case c.Steps < 1:
		return fmt.Errorf("--steps=%d: expected at least 1", c.Steps)
	case len(c.Ctx) > 0 && slices.Min(c.Ctx) < c.Steps+3:
		return fmt.Errorf("--ctx=%d: expected at least %d tokens for %d steps", slices.Min(c.Ctx), c.Steps+3, c.Steps)
	}
	return c.deviceFlags.Validate()
}

// Run is called by the parser.
func (c *benchAttention) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	text, err := con.readFile(c.File)
	if err != nil {
		return err
	}
	p := con.progress("tok")
	defer p.clear()
	rows := [][]string{{"CTX", "SPEC", "µS/LAYER", "SPEED-UP", "BYTES/TOKEN", "GB/S", "KEPT", "OF CONTEXT", "READ", "MASS", "ERROR"}}
	for _, s := range bench.StageNames() {
		rows[0] = append(rows[0], strings.ToUpper(s))
	}
	var last bench.AttentionRow
	slices.Sort(c.Ctx)
	b := bench.Attention{Model: c.Model, Text: text, Load: c.Load, Contexts: slices.Compact(c.Ctx), Specs: c.specs(), View: c.View, Steps: c.Steps, Threads: c.Threads, Progress: p.report}
	var failed error
	b.Row = func(r bench.AttentionRow) {
		p.clear()
		last = r
		if c.JSON {
			failed = errors.Join(failed, writeJSON(con.out, r))
			return
		}
		rows = append(rows, c.row(&r))
	}
	err = errors.Join(b.Run(ctx), failed)
	p.clear()
	if len(rows) > 1 {
		table(con.out, rows)
		fmt.Fprintf(con.err, "\n%s on %s, %s: %d query heads of %d channels, %d KV heads; means of %d layers, medians of %d steps. READ is tokens a KV head reads exactly.\n"+
			"Measured between them with as many threads: %.1f GB/s from memory, %.0f GFLOP/s of float32, %.0f GOP/s of int8.\n",
			last.Model, last.Device, last.View, last.Heads, last.Dim, last.KVHeads, last.Layers, last.Steps, last.ReadGBps, last.FMA, last.VNNI)
	}
	return err
}

func (c *benchAttention) row(r *bench.AttentionRow) []string {
	out := []string{fmt.Sprint(r.Context), r.Spec, fmt.Sprintf("%.1f", r.Micros), fmt.Sprintf("%.2f", r.Speedup), fmt.Sprintf("%.1f", r.BytesToken), fmt.Sprintf("%.1f", r.GBps),
		fmt.Sprintf("%.0f", r.KeptMean), percent(r.KeptShare), fmt.Sprintf("%.0f", r.UnionMean), fmt.Sprintf("%.4f", r.Mass), fmt.Sprintf("%.4f", r.OutErr)}
	all := 0.0
	for _, t := range r.Stages {
		all += t
	}
	for _, s := range bench.StageNames() {
		out = append(out, percent(r.Stages[s]/all))
	}
	return out
}
