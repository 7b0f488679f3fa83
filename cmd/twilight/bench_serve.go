package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"

	"github.com/twilight-go/twilight/internal/bench"
)

type benchServe struct {
	File      string  `short:"f" required:"" placeholder:"FILE" help:"The text that prompts are cut from; repeated if it is too short."`
	Requests  int     `default:"64" placeholder:"N" help:"Requests (${default})."`
	Rate      float64 `placeholder:"N" help:"Requests a second, at random times; 0: all at once."`
	Prompt    []int   `default:"256,2048" placeholder:"N,N" help:"The shortest and the longest prompt in tokens; between them evenly by the logarithm (${default})."`
	Answer    []int   `default:"32,256" placeholder:"N,N" help:"The same of answers (${default})."`
	Shared    int     `placeholder:"N" help:"Tokens with which all prompts begin alike."`
	Sequences int     `default:"16" placeholder:"N" help:"Requests under way at once; others wait (${default})."`
	Chunk     int     `placeholder:"N" help:"Tokens of prompts that are read between two tokens of an answer; 0: an eighth of --batch-rows."`
	Seed      uint64  `placeholder:"N" help:"Of lengths and times."`
	modelFlags
	specsFlag
	JSON bool `name:"json" help:"Print JSON, a line a spec."`
}

// Validate is called by the parser.
func (c *benchServe) Validate() error {
	for _, s := range []struct {
		name string
		v    []int
	}{{"prompt", c.Prompt}, {"answer", c.Answer}} {
		if len(s.v) < 1 || len(s.v) > 2 || s.v[0] < 1 || s.v[len(s.v)-1] < s.v[0] {
			return fmt.Errorf("--%s=%v: expected the least and the most tokens", s.name, s.v)
		}
	}
	switch {
	case c.Requests < 1:
		return fmt.Errorf("--requests=%d: expected at least 1", c.Requests)
	case !(c.Rate >= 0):
		return fmt.Errorf("--rate=%g: expected 0 or more", c.Rate)
	case c.Shared < 0 || c.Shared >= c.Prompt[0]:
		return fmt.Errorf("--shared=%d: expected less than the shortest prompt", c.Shared)
	case c.Sequences < 1 || c.Sequences > 512:
		return fmt.Errorf("--sequences=%d: expected 1 to 512", c.Sequences)
	case c.Chunk < 0:
		return fmt.Errorf("--chunk=%d: expected a number of tokens", c.Chunk)
	}
	return c.modelFlags.Validate()
}

// Run is called by the parser.
func (c *benchServe) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	text, err := con.readFile(c.File)
	if err != nil {
		return err
	}
	p := con.progress("req")
	defer p.clear()
	rows := [][]string{{"SPEC", "TOKENS/S", "× DENSE", "MS/TOKEN", "P99", "FIRST TOKEN S", "P99", "PROMPT TOKENS/S", "SHARED", "STEP MS", "WITH PROMPTS", "TEXTS", "MOST", "BEGUN AGAIN"}}
	var failed error
	b := bench.Serve{Model: c.Model, Text: text, Specs: c.specs(), Requests: c.Requests, Prompt: bench.Span{Least: c.Prompt[0], Most: c.Prompt[len(c.Prompt)-1]}, Answer: bench.Span{Least: c.Answer[0], Most: c.Answer[len(c.Answer)-1]},
		Shared: c.Shared, Rate: c.Rate, Sequences: c.Sequences, Chunk: c.Chunk, Threads: cmp.Or(c.Threads, runtime.GOMAXPROCS(0)), Seed: c.Seed, Progress: p.report}
	b.Row = func(r bench.ServeRow) {
		p.clear()
		if c.JSON {
			failed = errors.Join(failed, writeJSON(con.out, r))
			return
		}
		factor := "-"
		if r.DenseFactor > 0 {
			factor = fmt.Sprintf("%.2f", r.DenseFactor)
		}
		rows = append(rows, []string{r.Spec, fmt.Sprintf("%.1f", r.TokensSec), factor, fmt.Sprintf("%.2f", r.MicrosToken/1e3), fmt.Sprintf("%.2f", r.MicrosP99/1e3), fmt.Sprintf("%.3f", r.First), fmt.Sprintf("%.3f", r.FirstP99),
			fmt.Sprintf("%.0f", r.PromptSec), percent(float64(r.SharedTokens) / float64(r.PromptTokens)), fmt.Sprintf("%.2f", r.WriteStep/1e3), fmt.Sprintf("%.2f", r.BusyStep/1e3), fmt.Sprintf("%.1f", r.Batch), fmt.Sprint(r.Most), fmt.Sprint(r.Preempted)})
	}
	m, err := con.open(ctx, c.Model, b.Options(c.options()), "")
	if err != nil {
		return err
	}
	defer m.Close()
	if n := m.Room(m.Context()); n > 0 && !c.JSON {
		p.clear()
		fmt.Fprintf(con.err, "room for %d texts of %d tokens at once\n", n, m.Context())
	}
	err = b.Run(ctx, m)
	p.clear()
	if len(rows) > 1 {
		table(con.out, rows)
		fmt.Fprintf(con.err, "\n%s on %s; %d requests\n", c.Model, m.Device(), c.Requests)
	}
	return errors.Join(err, failed)
}
