package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/twilight-go/twilight/internal/eval"
)

// textFlags are shared by the evaluations that score texts.
type textFlags struct {
	File  []string `short:"f" sep:"none" placeholder:"FILE" help:"A text; repeat it for more."`
	Load  string   `placeholder:"CACHE" type:"path" help:"A saved cache: without --file its own text is scored; with it, one of 'twilight prefill --raw' of the same text."`
	Score int      `default:"1024" placeholder:"N" help:"How many tokens, the last, are scored (${default})."`
	Time  int      `default:"16" placeholder:"N" help:"Decode steps that are timed; 0: none (${default})."`
	evalFlags
}

// Validate is called by the parser.
func (c *textFlags) Validate() error {
	switch {
	case len(c.File) == 0 && c.Load == "":
		return errors.New("no text: give one with --file, some tens of kilobytes of plain prose, or a saved cache with --load")
	case len(c.File) > 1 && c.Load != "":
		return errors.New("--load goes with one --file at most")
	case c.Score < 1 || len(c.Length) > 0 && slices.Min(c.Length) <= c.Score:
		return fmt.Errorf("--length=%v --score=%d: expected at least one token to score, and more tokens than those", c.Length, c.Score)
	case c.Time < 0:
		return fmt.Errorf("--time=%d: expected a number of steps", c.Time)
	}
	return c.evalFlags.Validate()
}

// score runs the evaluation and prints what came out by show.
func (c *textFlags) score(con *console, show func([]eval.Summary)) error {
	ctx, stop := con.interruptible()
	defer stop()
	var docs []eval.Document
	for _, name := range c.File {
		text, err := con.readFile(name)
		if err != nil {
			return err
		}
		docs = append(docs, eval.Document{Name: filepath.Base(name), Text: text})
	}
	e, err := c.start(con)
	if err != nil {
		return err
	}
	t := eval.Texts{Circumstances: e.circumstances(), Documents: docs, Load: c.Load, Lengths: c.Length, Score: c.Score, Specs: c.specs(), Time: c.Time, Log: e.log, Progress: e.progress, Row: e.row}
	o, err := t.Options(c.options())
	if err != nil {
		return errors.Join(err, e.log.Close())
	}
	m, err := con.open(ctx, c.Model, o, "")
	if err != nil {
		return errors.Join(err, e.log.Close())
	}
	defer m.Close()
	var rows []eval.Row
	if err = e.fits(m); err == nil {
		rows, err = t.Run(ctx, m)
	}
	return e.end(rows, 1, err, show)
}

type pplCommand struct{ textFlags }

// Run is called by the parser.
func (c *pplCommand) Run(con *console) error {
	return c.score(con, func(sums []eval.Summary) {
		out := [][]string{{"TEXT", "LENGTH", "ATTENTION", "PPL", "VS DENSE", "95 %", "KL", "TOP-1", "KEPT", "PRUNED", "READ", "MASS", "OF DENSE", "MS/TOKEN", "SPEED-UP"}}
		for _, s := range sums {
			ms, speedup, diff, ends := "-", "-", "-", "-"
			if s.MicrosStep > 0 {
				ms, speedup = fmt.Sprintf("%.1f", s.MicrosStep/1e3), fmt.Sprintf("%.2f", s.Speedup)
			}
			if s.VsDense != nil && s.Spec != "dense" {
				diff, ends = fmt.Sprintf("%+.4f", s.VsDense.Mean), interval(s.VsDense, 1, "%+.4f")
			}
			out = append(out, []string{s.Sample, fmt.Sprint(s.Size), s.Label, fmt.Sprintf("%.3f", s.Perplexity), diff, ends, fmt.Sprintf("%.5f", s.KL), percent(s.Agree),
				fmt.Sprintf("%.0f", s.Kept), percent(s.Pruned), fmt.Sprintf("%.0f", s.Union), fmt.Sprintf("%.4f", s.Mass), percent(s.Bytes / s.DenseBytes), ms, speedup})
		}
		table(con.out, out)
		fmt.Fprintln(con.err, "\nVS DENSE is in nats a token. KEPT is tokens a head, READ tokens a KV head and step.")
	})
}

type klCommand struct{ textFlags }

// Run is called by the parser.
func (c *klCommand) Run(con *console) error {
	return c.score(con, func(sums []eval.Summary) {
		out := [][]string{{"TEXT", "LENGTH", "ATTENTION", "KL", "95 %", "KL P99", "TOP-1", "MASS", "OUT ERR", "KEPT", "PRUNED", "READ", "BYTES", "OF DENSE"}}
		for _, s := range sums {
			out = append(out, []string{s.Sample, fmt.Sprint(s.Size), s.Label, fmt.Sprintf("%.5f", s.KL), interval(s.Divergence, 1, "%.5f"), fmt.Sprintf("%.4f", s.KL99), percent(s.Agree),
				fmt.Sprintf("%.4f", s.Mass), fmt.Sprintf("%.4f", s.OutErr), fmt.Sprintf("%.0f", s.Kept), percent(s.Pruned), fmt.Sprintf("%.0f", s.Union), size(int64(s.Bytes)), percent(s.Bytes / s.DenseBytes)})
		}
		table(con.out, out)
		for _, s := range sums {
			if s.KeptHeads != nil {
				fmt.Fprintf(con.out, "\n%s at %d tokens, %s: by layer\n", s.Sample, s.Size, s.Label)
				table(con.out, layerTable(&s))
			}
		}
	})
}

// layerTable has a row a sparse layer, over its heads. The file of rows has every head.
func layerTable(s *eval.Summary) [][]string {
	out := [][]string{{"LAYER", "KEPT", "LEAST", "MOST", "PRUNED", "MASS", "LEAST"}}
	for l, kept := range s.KeptHeads {
		if len(kept) == 0 {
			continue
		}
		mass, least := "-", "-"
		if s.MassHeads != nil {
			mass, least = fmt.Sprintf("%.4f", average(s.MassHeads[l])), fmt.Sprintf("%.4f", slices.Min(s.MassHeads[l]))
		}
		out = append(out, []string{fmt.Sprint(l), fmt.Sprintf("%.0f", average(kept)), fmt.Sprintf("%.0f", slices.Min(kept)), fmt.Sprintf("%.0f", slices.Max(kept)), percent(1 - average(kept)/s.ContextMean), mass, least})
	}
	return out
}

func average(x []float64) (m float64) {
	for _, v := range x {
		m += v / float64(len(x))
	}
	return m
}
