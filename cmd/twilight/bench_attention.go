package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twilight-go/twilight/internal/bench"
)

type benchAttention struct {
	File    string   `short:"f" placeholder:"FILE" help:"The text that is read."`
	Load    string   `placeholder:"CACHE" type:"path" help:"A saved cache instead: its last tokens are read again."`
	Capture []string `placeholder:"FILE,..." help:"With --device=cuda, instead of a model and a text: files that --save wrote. The sequences of a batch take their texts in turn."`
	Save    string   `placeholder:"FILE" type:"path" help:"Instead of measuring, write queries, keys and values of some layers for --capture on another machine."`
	Layers  []int    `placeholder:"N,..." help:"The layers that --save writes, or --device=cuda measures, of a text or cache; left out: three."`
	Ctx     []int    `short:"c" placeholder:"N,..." help:"Tokens in sight; left out: the whole text, or all that was captured."`
	View    []string `enum:"gqa,mha" default:"gqa" placeholder:"NAME,..." help:"gqa: query heads share KV heads as the model has it; mha: each query head reads a KV head of its own (${default})."`
	Steps   int      `default:"16" placeholder:"N" help:"Measured, or captured, steps at each context (${default})."`
	Batch   []int    `default:"1" placeholder:"N,..." help:"With --device=cuda: sequences of a step (${default})."`
	Heads   int      `placeholder:"N" help:"With --device=cuda: query heads, made by stacking layers; 0: the model's."`
	KVHeads int      `name:"kv-heads" placeholder:"N" help:"The same of KV heads, in view gqa."`
	deviceFlags
	specsFlag
	JSON bool `name:"json" help:"Print JSON, a line a measurement."`
}

// Validate is called by the parser.
func (c *benchAttention) Validate() error {
	sources := 0
	for _, given := range []bool{c.File != "", c.Load != "", len(c.Capture) > 0} {
		if given {
			sources++
		}
	}
	gpu := c.Device == "cuda"
	switch {
	case sources != 1:
		return errors.New("give the text to read either as --file, as --load or as --capture")
	case c.Device != "cpu" && !gpu:
		return fmt.Errorf("--device=%s: its attention cannot be measured by itself; expected cpu or cuda", c.Device)
	case gpu && c.Save != "":
		return errors.New("--save writes what the CPU computes, for --device=cuda on another machine: leave --device out")
	case !gpu && len(c.Capture) > 0:
		return errors.New("--capture goes with --device=cuda")
	case len(c.Capture) > 0 && len(c.Layers) > 0:
		return errors.New("--layers: those of --capture were chosen when it was saved")
	case !gpu && c.Save == "" && len(c.Layers) > 0:
		return errors.New("--layers goes with --save or --device=cuda")
	case !gpu && (!slices.Equal(c.Batch, []int{1}) || c.Heads != 0 || c.KVHeads != 0):
		return errors.New("--batch, --heads and --kv-heads go with --device=cuda")
	case c.Steps < 1:
		return fmt.Errorf("--steps=%d: expected at least 1", c.Steps)
	case len(c.Ctx) > 0 && slices.Min(c.Ctx) < c.Steps+3 && len(c.Capture) == 0:
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
	c.Ctx, c.Layers, c.Batch = sorted(c.Ctx), sorted(c.Layers), sorted(c.Batch)
	b := bench.Attention{Model: c.Model, Text: text, Load: c.Load, Contexts: c.Ctx, Specs: c.specs(), Views: c.View, Steps: c.Steps, Threads: c.Threads, Progress: p.report}
	switch {
	case c.Save != "":
		return c.save(ctx, con, &b)
	case c.Device == "cuda":
		return c.gpu(ctx, con, &b)
	}
	rows := attentionRows{con: con, progress: p, json: c.JSON}
	b.Row = rows.add
	return rows.finish(b.Run(ctx), cpuColumns, bench.StageNames(), func(r *bench.AttentionRow) string {
		return fmt.Sprintf("%s on %s: %d query heads of %d channels, %d KV heads; means of %d layers, medians of %d steps. READ is tokens a KV head reads exactly.\n"+
			"Measured between them with as many threads: %.1f GB/s from memory, %.0f GFLOP/s of float32, %.0f GOP/s of int8.",
			r.Model, r.Device, r.Heads, r.Dim, r.KVHeads, r.Layers, r.Steps, r.ReadGBps, r.FMA, r.VNNI)
	})
}

// save writes a capture.
func (c *benchAttention) save(ctx context.Context, con *console, b *bench.Attention) error {
	got, err := b.Record(ctx, c.Layers)
	if err != nil {
		return err
	}
	if err := got.Save(c.Save); err != nil {
		return err
	}
	fmt.Fprintf(con.err, "saved %d KV heads of %s, %d tokens, queries of %d positions before %d, to %s\n", len(got.Heads), got.Model, got.Tokens(), got.Window, got.Contexts, c.Save)
	return nil
}

// gpu measures on a GPU: what captures hold, or the model attends to on this machine's CPU.
func (c *benchAttention) gpu(ctx context.Context, con *console, b *bench.Attention) error {
	p := con.progress("row")
	defer p.clear()
	g := bench.GPUAttention{Views: c.View, Batches: c.Batch, Contexts: c.Ctx, Specs: c.specs(), Heads: c.Heads, KVHeads: c.KVHeads, Progress: p.report,
		Note: func(s string) { p.clear(); fmt.Fprintln(con.err, s) }}
	for _, path := range c.Capture {
		k, err := bench.ReadCapture(path)
		if err != nil {
			return err
		}
		g.Captures = append(g.Captures, k)
	}
	if len(c.Capture) == 0 {
		k, err := b.Record(ctx, c.Layers)
		if err != nil {
			return err
		}
		g.Captures = append(g.Captures, k)
	}
	rows := attentionRows{con: con, progress: p, json: c.JSON}
	g.Row = rows.add
	return rows.finish(g.Run(ctx), gpuColumns, bench.GPUStageNames(), func(r *bench.AttentionRow) string {
		return fmt.Sprintf("%s on %s: heads of %d channels; medians of %d replays of whole steps. READ is tokens a KV head reads exactly, CODED those whose values it reads as codes.\n"+
			"The error is the mean over all heads; of dense, that of some heads against attention by definition. A plain copy on the device reads and writes %.0f GB/s.", r.Model, r.Device, r.Dim, r.Steps, r.CopyGBps)
	})
}

// sorted is x in ascending order without repetition.
func sorted(x []int) []int {
	x = slices.Clone(x)
	slices.Sort(x)
	return slices.Compact(x)
}
