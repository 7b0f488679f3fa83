package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"

	"github.com/twilight-go/twilight/internal/bench"
)

type benchKernels struct {
	Threads int  `short:"t" placeholder:"N" help:"Threads; 0: one a processor."`
	JSON    bool `name:"json" help:"Print JSON, a line a measurement."`
}

// Validate is called by the parser.
func (c *benchKernels) Validate() error { return (&deviceFlags{Threads: c.Threads}).Validate() }

// Run is called by the parser.
func (c *benchKernels) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	rows := [][]string{{"OP", "LEVEL", "THREADS", "WORKING SET", "RATE", "OF THE ROOF"}}
	var failed error
	threads, row := cmp.Or(c.Threads, runtime.GOMAXPROCS(0)), func(r bench.KernelRow) {
		if c.JSON {
			failed = errors.Join(failed, writeJSON(con.out, r))
			return
		}
		set := "-"
		if r.Bytes > 0 {
			set = size(int64(r.Bytes))
		}
		share := "-"
		if r.Share > 0 {
			share = percent(r.Share)
		}
		rows = append(rows, []string{r.Op, r.Level, fmt.Sprint(r.Threads), set, fmt.Sprintf("%.1f %s", r.Rate, r.Unit), share})
	}
	err := bench.Kernels(ctx, threads, row)
	if err == nil {
		err = bench.Operations(ctx, threads, row)
	}
	if len(rows) > 1 {
		table(con.out, rows)
	}
	return errors.Join(err, failed)
}
