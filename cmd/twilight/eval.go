package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/eval"
)

type evalCommand struct {
	Ppl         pplCommand       `cmd:"" help:"Perplexity of a text's last tokens."`
	Kl          klCommand        `cmd:"" help:"Divergence from dense attention over a text's last tokens; budget, pruned share and true mass by layer."`
	Passkey     passkeyCommand   `cmd:"" help:"A number hidden in noise at some depths, asked for."`
	Needle      needleCommand    `cmd:"" help:"A sentence hidden in a long text at some depths, asked for."`
	Ruler       rulerCommand     `cmd:"" help:"RULER: needles of eight kinds, variable tracking, common and frequent words, questions."`
	Longbench   longbenchCommand `cmd:"" help:"LongBench: questions, summaries, classification and code over long texts."`
	KVRetrieval kvCommand        `cmd:"" name:"kv-retrieval" help:"A value of a long list of keys and values (Lost in the Middle)."`
	Lines       linesCommand     `cmd:"" help:"A number of a long list of lines (LongChat)."`
	Gsm8k       gsm8kCommand     `cmd:"" name:"gsm8k" help:"GSM8K: problems of arithmetic in words, solved in steps."`
}

// evalFlags are shared by all evaluations.
type evalFlags struct {
	modelFlags
	specsFlag
	Length []int  `short:"n" default:"4096" placeholder:"N,..." help:"Tokens of a sample or text, all included; repeat it to compare (${default})."`
	Out    string `short:"o" default:"twilight-eval.jsonl" placeholder:"FILE" help:"Where a row of every result is added; what stands there already is not computed again. Empty: nowhere (${default})."`
	JSON   bool   `name:"json" help:"Print the summary as JSON, a line a task, length and attention."`
}

// Validate reports values out of range.
func (f *evalFlags) Validate() error {
	if len(f.Length) == 0 || slices.Min(f.Length) < 1 {
		return fmt.Errorf("--length=%v: expected numbers of tokens", f.Length)
	}
	return f.modelFlags.Validate()
}

// evaluation is a run under way: the console's side of it.
type evaluation struct {
	*evalFlags
	con        *console
	log        *eval.Log
	bar        *progress
	found, new int
	versions   map[string]bool // of the rows that were found
}

func (f *evalFlags) start(con *console) (*evaluation, error) {
	log, err := eval.OpenLog(f.Out)
	if err != nil {
		return nil, err
	}
	slices.Sort(f.Length)
	f.Length = slices.Compact(f.Length)
	return &evaluation{evalFlags: f, con: con, log: log, bar: con.progress("tok"), versions: map[string]bool{}}, nil
}

func (e *evaluation) circumstances() eval.Circumstances {
	return eval.Circumstances{Model: e.Model, Version: version().String(), Threads: cmp.Or(e.Threads, runtime.GOMAXPROCS(0))}
}

func (e *evaluation) progress(done, total int64) { e.bar.report("evaluating", done, total) }

func (e *evaluation) row(r *eval.Row, found bool) {
	if !found {
		e.new++
		return
	}
	e.found++
	e.versions[r.Version] = true
}

// fits reports lengths that the model was not trained for, unless --ctx asks for as many.
func (e *evaluation) fits(m *twilight.Model) error {
	if n, trained := slices.Max(e.Length), m.Hyper().Context; n > trained && n > e.Ctx {
		return misuse{fmt.Errorf("--length=%d: %s was trained for %d tokens; --ctx=%d asks for more all the same", n, e.Model, trained, n)}
	}
	return nil
}

// end prints the summaries as JSON or by show, and says what the file has, after an error too. rows are those there are.
func (e *evaluation) end(rows []eval.Row, seed uint64, failed error, show func([]eval.Summary)) error {
	e.bar.clear()
	failed = errors.Join(failed, e.log.Close())
	if len(rows) == 0 {
		return failed
	}
	sums := eval.Summarize(rows, seed)
	if !e.JSON {
		show(sums)
	}
	for _, s := range sums {
		if e.JSON {
			failed = errors.Join(failed, writeJSON(e.con.out, s))
		}
	}
	fmt.Fprintf(e.con.err, "\n%s on %s", e.Model, rows[len(rows)-1].Device)
	if e.Out != "" {
		fmt.Fprintf(e.con.err, "; %d new rows in %s, %d found there", e.new, e.Out, e.found)
		delete(e.versions, version().String())
		for v := range e.versions {
			fmt.Fprintf(e.con.err, ", some of version %s", v)
		}
	}
	fmt.Fprintln(e.con.err)
	return failed
}

func percent(share float64) string { return fmt.Sprintf("%.1f%%", 100*share) }

// interval writes a mean's ends, times a factor.
func interval(m *eval.Mean, factor float64, format string) string {
	if m == nil || m.CI95 == nil {
		return "-"
	}
	return fmt.Sprintf(format+" to "+format, factor*m.CI95[0], factor*m.CI95[1])
}
