package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/catalog"
)

type pullCommand struct {
	Names []string `arg:"" name:"name" help:"Names that 'twilight list' shows, or hf:OWNER/REPO/FILE."`
}

// Run is called by the parser.
func (c *pullCommand) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	p := con.progress("B")
	defer p.clear()
	for _, name := range c.Names {
		path, err := catalog.Pull(ctx, name, catalog.Options{Progress: func(stage string, done, total int64) { p.report(stage+" "+name, done, total) }})
		p.clear()
		if err != nil {
			return err
		}
		fmt.Fprintln(con.out, path)
	}
	return nil
}

type rmCommand struct {
	Names []string `arg:"" name:"name" help:"Names that 'twilight list' shows as fetched."`
}

// Run is called by the parser.
func (c *rmCommand) Run(con *console) error {
	for _, name := range c.Names {
		n, err := catalog.Remove(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(con.err, "removed %s, %s\n", name, size(n))
	}
	return nil
}

type listCommand struct {
	Methods bool `help:"List the parts that attention specs are made of, and the presets."`
	JSON    bool `name:"json" help:"Print JSON, a line each."`
}

type modelRow struct {
	Name        string `json:"name"`
	Bytes       int64  `json:"bytes"`
	Parameters  int64  `json:"parameters,omitempty"`
	Context     int    `json:"context,omitempty"`
	State       string `json:"state"` // "fetched", "partly fetched" or ""
	Path        string `json:"path,omitempty"`
	Licence     string `json:"licence,omitempty"`
	Description string `json:"description,omitempty"`
}

// Run is called by the parser.
func (c *listCommand) Run(con *console) error {
	if c.Methods {
		return c.methods(con)
	}
	rows, err := models()
	if err != nil {
		return err
	}
	text := [][]string{{"NAME", "SIZE", "CONTEXT", "STATE", "DESCRIPTION"}}
	for _, r := range rows {
		if c.JSON {
			if err := writeJSON(con.out, r); err != nil {
				return err
			}
			continue
		}
		context := ""
		if r.Context > 0 {
			context = fmt.Sprint(r.Context)
		}
		text = append(text, []string{r.Name, size(r.Bytes), context, cmp.Or(r.State, "-"), strings.Join(nonEmpty(r.Description, r.Licence), "; ")})
	}
	if !c.JSON {
		table(con.out, text)
	}
	return nil
}

// models are those of the catalog, then what else was fetched.
func models() (rows []modelRow, err error) {
	known := map[string]bool{}
	for _, e := range catalog.List() {
		r := modelRow{Name: e.Name, Bytes: e.Bytes, Parameters: e.Parameters, Context: e.Context, Licence: e.License, Description: e.Description}
		switch {
		case e.Present:
			r.State, r.Path = "fetched", e.Path
		case e.Pulled > 0:
			r.State = "partly fetched"
		}
		known[e.Name] = true
		rows = append(rows, r)
	}
	files, err := catalog.Cached()
	for _, f := range files {
		if !known[f.Name] {
			rows = append(rows, modelRow{Name: f.Name, Bytes: f.Bytes, State: "fetched", Path: f.Path})
		}
	}
	return rows, err
}

func nonEmpty(in ...string) (out []string) {
	for _, s := range in {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

type methodRow struct {
	Stage string `json:"stage"`
	Name  string `json:"name"`
	Args  string `json:"arguments,omitempty"`
	Doc   string `json:"doc"`
	Paper string `json:"arxiv,omitempty"`
	// Bytes a token of one KV head with 64 and with 128 channels.
	Stores []float64 `json:"stores_bytes_per_token,omitempty"`
	Reads  []float64 `json:"reads_bytes_per_token,omitempty"`
}

func (c *listCommand) methods(con *console) error {
	var rows []methodRow
	for _, p := range attention.Presets {
		args := p.Spec
		if args == p.Name {
			args = ""
		}
		rows = append(rows, methodRow{Stage: "preset", Name: p.Name, Args: args, Doc: p.Doc})
	}
	for _, m := range attention.Methods() {
		rows = append(rows, methodRow{m.Stage, m.Name, m.Args, m.Doc, m.Paper, m.Stores, m.Reads})
	}
	text := [][]string{{"STAGE", "NAME", "STORES", "READS", "WHAT IT DOES", "ARGUMENTS OR MEANING"}}
	for _, r := range rows {
		if c.JSON {
			if err := writeJSON(con.out, r); err != nil {
				return err
			}
			continue
		}
		doc := r.Doc
		if r.Paper != "" {
			doc += " (arXiv " + r.Paper + ")"
		}
		text = append(text, []string{r.Stage, r.Name, perToken(r.Stores), perToken(r.Reads), doc, r.Args})
	}
	if !c.JSON {
		table(con.out, text)
		fmt.Fprintf(con.out, "\nSTORES and READS are bytes a token of a KV head with %d/%d channels, whose key and value take %d/%d: kept beside them, and read in a step by a selector for each token "+
			"in sight (hip: of %d, and hardly more of a longer text), by an estimator for each candidate.\n", attention.MethodDims[0], attention.MethodDims[1], 4*attention.MethodDims[0], 4*attention.MethodDims[1], attention.MethodTokens)
		fmt.Fprintf(con.out, "\nA spec is selector+estimator+pruner, each with its arguments after a colon; only the selector must be there. Every pruner takes union, per-head and tail=mean|none.\n"+
			"+when:dense-layers=%d,min-context=%d says which layers and which short texts stay dense. Example: quest:keep=0.25+int4+top-p:0.9\n", attention.DefaultDenseLayers, attention.DefaultMinContext)
	}
	return nil
}

// perToken is bytes by head size, "" for none.
func perToken(bytes []float64) string {
	var out []string
	for _, b := range bytes {
		if b > 0 {
			out = append(out, fmt.Sprintf("%.3g", b))
		}
	}
	return cmp.Or(strings.Join(out, "/"), "-")
}
