package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/calibrate"
)

type calibrateCommand struct {
	File    string  `short:"f" placeholder:"FILE" help:"The text to learn from: plain prose, other than what is measured later."`
	Import  string  `placeholder:"FILE" type:"path" help:"Instead, a channel file of Double Sparsity's authors for this model."`
	Out     string  `short:"o" placeholder:"FILE" type:"path" help:"Where to write the calibration."`
	Tokens  int     `default:"4096" placeholder:"N" help:"Tokens of the text, from its start (${default})."`
	Anchors int     `default:"3" placeholder:"N" help:"Layers that select tokens for those after them (${default})."`
	Keep    float64 `default:"0.0625" placeholder:"N" help:"Share of the context that they select, when layers are compared (${default})."`
	Samples int     `default:"32" placeholder:"N" help:"Queries by which they are compared (${default})."`
	modelFlags
}

// Validate is called by the parser.
func (c *calibrateCommand) Validate() error {
	switch {
	case (c.File == "") == (c.Import == ""):
		return errors.New("give the text to learn from as --file, or a published channel file as --import")
	case c.Out == "":
		return errors.New("nowhere to write the calibration: give a file with --out")
	case c.Tokens < 2 || c.Anchors < 1 || c.Samples < 1:
		return fmt.Errorf("--tokens=%d --anchors=%d --samples=%d: expected at least 2, 1 and 1", c.Tokens, c.Anchors, c.Samples)
	case !(c.Keep > 0 && c.Keep <= 1):
		return fmt.Errorf("--keep=%g: expected more than 0, at most 1", c.Keep)
	}
	return c.modelFlags.Validate()
}

// Run is called by the parser.
func (c *calibrateCommand) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	text, err := con.readFile(c.File + c.Import)
	if err != nil {
		return err
	}
	p := con.progress("tok")
	defer p.clear()
	t := &calibrate.Text{Model: c.Model, Text: text, Tokens: c.Tokens, Anchors: c.Anchors, Keep: c.Keep, Samples: c.Samples, Progress: p.report}
	o := c.options()
	if c.Import == "" {
		o = t.Options(o)
	}
	m, err := con.open(ctx, c.Model, o, "")
	if err != nil {
		return err
	}
	defer m.Close()
	var got *attention.Calibration
	if c.Import != "" {
		h := m.Hyper()
		got, err = calibrate.Import([]byte(text), c.Model, &h)
	} else {
		got, err = t.Run(ctx, m)
	}
	p.clear()
	if err != nil {
		return err
	}
	b, err := json.Marshal(got)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Out, append(b, '\n'), 0o666); err != nil {
		return fmt.Errorf("writing the calibration: %w", err)
	}
	fmt.Fprintf(con.err, "wrote channels of %d layers with %d KV heads to %s: double-sparsity:channels-file=%s\n", got.Layers, got.KVHeads, c.Out, c.Out)
	if got.Anchors != nil {
		fmt.Fprintf(con.err, "layers %v hold %.1f%% of the mass in the layers that reuse their choice: tidal:anchors-file=%s\n", got.Anchors, 100*got.Held, c.Out)
	}
	return nil
}
