package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/twilight-go/twilight/internal/eval"
	pages "github.com/twilight-go/twilight/internal/report" // report is what prints errors here
)

type reportCommand struct {
	Files    []string `arg:"" name:"file" type:"path" help:"Files that 'twilight eval' wrote; what stands in several counts once. - is standard input."`
	Out      string   `short:"o" default:"report.html" placeholder:"FILE" type:"path" help:"The page; - is standard output (${default})."`
	Averages bool     `help:"Leave out the tasks of benchmarks, but for the averages over them."`
	SVG      string   `name:"svg" placeholder:"DIR" type:"path" help:"A folder for all figures too, each as a file."`
}

// Run is called by the parser.
func (c *reportCommand) Run(con *console) error {
	var rows []eval.Row
	for _, name := range c.Files {
		more, err := con.readRows(name)
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	r, err := pages.New(rows, c.Files...)
	if err != nil {
		return err
	}
	if c.Averages {
		r.Averages()
	}
	if err := con.writeTo(c.Out, r.WriteHTML); err != nil {
		return err
	}
	if c.Out != "-" {
		fmt.Fprintf(con.err, "wrote a report of %d rows to %s\n", len(rows), c.Out)
	}
	if c.SVG == "" {
		return nil
	}
	n, err := r.WriteFigures(c.SVG)
	if err == nil {
		fmt.Fprintf(con.err, "wrote %d figures to %s\n", n, c.SVG)
	}
	return err
}

// readRows reads a file of an evaluation.
func (c *console) readRows(name string) ([]eval.Row, error) {
	if name == "-" {
		return pages.Read("standard input", c.in)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading rows: %w", err)
	}
	defer f.Close()
	return pages.Read(name, f)
}

// writeTo writes a whole file, or standard output for -.
func (c *console) writeTo(name string, write func(io.Writer) error) error {
	if name == "-" {
		return write(c.out)
	}
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	w := bufio.NewWriter(f)
	return errors.Join(write(w), w.Flush(), f.Close())
}
