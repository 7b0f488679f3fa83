package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/twilight-go/twilight/internal/bench"
)

// attentionRows takes rows as they come: prints them as JSON, or keeps them for a table.
type attentionRows struct {
	con      *console
	progress *progress
	json     bool
	rows     []bench.AttentionRow
	failed   error
}

func (a *attentionRows) add(r bench.AttentionRow) {
	a.progress.clear()
	if a.json {
		a.failed = errors.Join(a.failed, writeJSON(a.con.out, r))
		return
	}
	a.rows = append(a.rows, r)
}

// finish prints the table of the rows that came before err, each stage's share of the time, and what there is to say below it.
func (a *attentionRows) finish(err error, columns []column, stages []string, below func(*bench.AttentionRow) string) error {
	a.progress.clear()
	err = errors.Join(err, a.failed)
	if len(a.rows) == 0 {
		return err
	}
	lines := make([][]string, 1+len(a.rows))
	for _, x := range columns {
		lines[0] = append(lines[0], x.name)
	}
	for _, s := range stages {
		lines[0] = append(lines[0], strings.ToUpper(s))
	}
	for i := range a.rows {
		r, all := &a.rows[i], 0.0
		for _, x := range columns {
			lines[i+1] = append(lines[i+1], x.cell(r))
		}
		for _, t := range r.Stages {
			all += t
		}
		for _, s := range stages {
			lines[i+1] = append(lines[i+1], percent(r.Stages[s]/all))
		}
	}
	table(a.con.out, lines)
	fmt.Fprintf(a.con.err, "\n%s\n", below(&a.rows[len(a.rows)-1]))
	return err
}

// column is a column of the table.
type column struct {
	name string
	cell func(*bench.AttentionRow) string
}

func text(name string, f func(*bench.AttentionRow) string) column { return column{name, f} }

// number is a column of what f returns, in the given format.
func number(name, format string, f func(*bench.AttentionRow) float64) column {
	return column{name, func(r *bench.AttentionRow) string { return fmt.Sprintf(format, f(r)) }}
}

var (
	viewColumn    = text("VIEW", func(r *bench.AttentionRow) string { return r.View })
	contextColumn = number("CTX", "%.0f", func(r *bench.AttentionRow) float64 { return float64(r.Context) })
	specColumn    = text("SPEC", func(r *bench.AttentionRow) string { return r.Spec })
	speedupColumn = number("SPEED-UP", "%.2f", func(r *bench.AttentionRow) float64 { return r.Speedup })
	bytesColumn   = number("BYTES/TOKEN", "%.1f", func(r *bench.AttentionRow) float64 { return r.BytesToken })
	rateColumn    = number("GB/S", "%.1f", func(r *bench.AttentionRow) float64 { return r.GBps })
	keptColumn    = number("KEPT", "%.0f", func(r *bench.AttentionRow) float64 { return r.KeptMean })
	shareColumn   = text("OF CONTEXT", func(r *bench.AttentionRow) string { return percent(r.KeptShare) })
	readColumn    = number("READ", "%.0f", func(r *bench.AttentionRow) float64 { return r.UnionMean })
	massColumn    = number("MASS", "%.4f", func(r *bench.AttentionRow) float64 { return r.Mass })
	errorColumn   = number("ERROR", "%.4f", func(r *bench.AttentionRow) float64 { return r.OutErr })
)

func micros(r *bench.AttentionRow) float64 { return r.Micros }

var cpuColumns = []column{viewColumn, contextColumn, specColumn, number("µS/LAYER", "%.1f", micros), speedupColumn, bytesColumn, rateColumn, keptColumn, shareColumn, readColumn, massColumn, errorColumn}

var gpuColumns = []column{
	viewColumn, number("BATCH", "%.0f", func(r *bench.AttentionRow) float64 { return float64(r.Batch) }), contextColumn, specColumn, number("µS", "%.1f", micros), speedupColumn, bytesColumn, rateColumn,
	text("OF COPY", func(r *bench.AttentionRow) string { return percent(r.GBps / r.CopyGBps) }),
	number("CANDIDATES", "%.0f", func(r *bench.AttentionRow) float64 { return r.Candidates }), keptColumn, shareColumn, readColumn,
	number("CODED", "%.0f", func(r *bench.AttentionRow) float64 { return r.Coded }), massColumn,
	number("WORST", "%.4f", func(r *bench.AttentionRow) float64 { return r.MassWorst }), errorColumn,
}
