package main

import (
	"errors"
	"fmt"

	"github.com/twilight-go/twilight/internal/eval"
)

type evalCommand struct {
	Ppl    pplCommand    `cmd:"" help:"Perplexity, and divergence from dense, of a text's last tokens."`
	Needle needleCommand `cmd:"" help:"A sentence hidden in a long text, asked for."`
}

type pplCommand struct {
	File   string `short:"f" placeholder:"FILE" help:"The text."`
	Tokens int    `default:"8192" placeholder:"N" help:"Tokens of the text, from its start (${default})."`
	Score  int    `default:"1024" placeholder:"N" help:"How many of them, the last, are scored (${default})."`
	Time   int    `default:"16" placeholder:"N" help:"Decode steps that are timed; 0: none (${default})."`
	Load   string `placeholder:"CACHE" type:"path" help:"A cache of 'twilight prefill --raw' of the same text."`
	modelFlags
	specsFlag
	JSON bool `name:"json" help:"Print JSON, a line a spec."`
}

// Validate is called by the parser.
func (c *pplCommand) Validate() error {
	switch {
	case c.File == "":
		return errors.New("no text: give one with --file, some tens of kilobytes of plain prose")
	case c.Score < 1 || c.Tokens <= c.Score:
		return fmt.Errorf("--tokens=%d --score=%d: expected at least one token to score, and more tokens than those", c.Tokens, c.Score)
	case c.Time < 0:
		return fmt.Errorf("--time=%d: expected a number of steps", c.Time)
	}
	return c.modelFlags.Validate()
}

// Run is called by the parser.
func (c *pplCommand) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	text, err := con.readFile(c.File)
	if err != nil {
		return err
	}
	p := con.progress("tok")
	defer p.clear()
	e := eval.Perplexity{Model: c.Model, Text: text, Load: c.Load, Tokens: c.Tokens, Score: c.Score, Specs: c.specs(), Time: c.Time, Progress: p.report}
	m, err := con.open(ctx, c.Model, e.Options(c.options()), "")
	if err != nil {
		return err
	}
	defer m.Close()
	rows, err := e.Run(ctx, m)
	p.clear()
	out := [][]string{{"SPEC", "PPL", "KL", "KL P99", "TOP-1", "KEPT", "PRUNED", "READ", "MASS", "OUT ERR", "BYTES", "OF DENSE", "MS/TOKEN", "SPEED-UP"}}
	for _, r := range rows {
		if c.JSON {
			if err := writeJSON(con.out, r); err != nil {
				return err
			}
			continue
		}
		ms, speedup := "-", "-"
		if r.MicrosStep > 0 {
			ms, speedup = fmt.Sprintf("%.1f", r.MicrosStep/1e3), fmt.Sprintf("%.2f", r.Speedup)
		}
		out = append(out, []string{r.Spec, fmt.Sprintf("%.3f", r.Perplexity), fmt.Sprintf("%.5f", r.KL), fmt.Sprintf("%.4f", r.KL99), percent(r.Agree), fmt.Sprintf("%.0f", r.Kept), percent(r.Pruned),
			fmt.Sprintf("%.0f", r.Union), fmt.Sprintf("%.4f", r.Mass), fmt.Sprintf("%.4f", r.OutErr), size(int64(r.Bytes)), percent(r.Bytes / r.DenseBytes), ms, speedup})
	}
	if !c.JSON && len(rows) > 0 {
		table(con.out, out)
		fmt.Fprintf(con.err, "\n%s on %s: %d of %d tokens scored, %.0f in sight on average. KEPT is tokens a head, READ tokens and BYTES bytes a KV head and step.\n",
			c.Model, m.Device(), rows[0].Scored, c.Tokens, rows[0].Mean)
	}
	return err
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }

type needleCommand struct {
	File      string    `short:"f" placeholder:"FILE" help:"The haystack."`
	CtxTokens int       `default:"7000" placeholder:"N" help:"Tokens of the haystack, from its start (${default})."`
	Depths    []float64 `default:"10,50,90" placeholder:"N,..." help:"Where the needle stands, in percent of the haystack (${default})."`
	modelFlags
	specsFlag
	JSON bool `name:"json" help:"Print JSON, a line a depth and spec."`
}

// Validate is called by the parser.
func (c *needleCommand) Validate() error {
	if c.File == "" {
		return errors.New("no haystack: give a long text with --file")
	}
	if c.CtxTokens < 1 {
		return fmt.Errorf("--ctx-tokens=%d: expected at least 1", c.CtxTokens)
	}
	for _, d := range c.Depths {
		if !(d >= 0 && d <= 100) {
			return fmt.Errorf("--depths: %g: expected 0 to 100", d)
		}
	}
	return c.modelFlags.Validate()
}

// Run is called by the parser.
func (c *needleCommand) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	text, err := con.readFile(c.File)
	if err != nil {
		return err
	}
	p := con.progress("tok")
	defer p.clear()
	out := [][]string{{"DEPTH", "SPEC", "CONTEXT", "FOUND", "KEPT", "PRUNED", "OF DENSE", "ANSWER"}}
	e := eval.Needle{Model: c.Model, Text: text, Tokens: c.CtxTokens, Depths: c.Depths, Specs: c.specs(), Progress: p.report}
	e.Row = func(r eval.NeedleRow) {
		p.clear()
		if c.JSON {
			err = errors.Join(err, writeJSON(con.out, r))
			return
		}
		out = append(out, []string{fmt.Sprintf("%g%%", r.Depth), r.Spec, fmt.Sprint(r.Context), map[bool]string{true: "yes", false: "no"}[r.Found], fmt.Sprintf("%.0f", r.Kept), percent(r.Pruned),
			percent(r.Bytes / r.Dense), fmt.Sprintf("%q", r.Answer)})
	}
	m, err := con.open(ctx, c.Model, e.Options(c.options()), "")
	if err != nil {
		return err
	}
	defer m.Close()
	err = errors.Join(e.Run(ctx, m), err)
	p.clear()
	if len(out) > 1 {
		table(con.out, out)
	}
	return err
}
