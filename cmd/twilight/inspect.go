package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/catalog"
	"github.com/twilight-go/twilight/internal/inspect"
)

type inspectCommand struct {
	Model  string `arg:"" help:"A name that 'twilight list' shows, the path of a GGUF file or of a checkpoint folder, or hf:OWNER/REPO/FILE."`
	Fit    []int  `placeholder:"N,..." help:"Say how many texts of these lengths in tokens --device has room for at once, by attention spec."`
	Device string `enum:"${devices}" default:"cpu" placeholder:"NAME" help:"Whose room --fit means (${default})."`
	gpuFlags
	specsFlag
	JSON bool `name:"json" help:"Print JSON."`
}

// Validate is called by the parser.
func (c *inspectCommand) Validate() error {
	if len(c.Fit) > 0 && slices.Min(c.Fit) < 1 {
		return fmt.Errorf("--fit=%v: expected numbers of tokens", c.Fit)
	}
	return c.check(c.Device)
}

// Run is called by the parser.
func (c *inspectCommand) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	p := con.progress("B")
	path, err := catalog.Resolve(ctx, c.Model, catalog.Options{Progress: func(stage string, done, total int64) { p.report(stage+" "+c.Model, done, total) }})
	p.clear()
	if err != nil {
		return err
	}
	m, err := inspect.Read(path)
	if err != nil {
		return err
	}
	var plans []twilight.Plan
	if len(c.Fit) > 0 {
		if plans, err = twilight.PlanTexts(ctx, path, twilight.Options{Device: c.Device, KVOffload: c.KVOffload, GPUMemory: int64(c.GPUMemory)}, c.specs(), c.Fit); err != nil {
			return err
		}
	}
	if c.JSON {
		return writeJSON(con.out, struct {
			*inspect.Model
			Plans []twilight.Plan `json:"plans,omitempty"`
		}{m, plans})
	}
	print := func(name, format string, args ...any) {
		fmt.Fprintf(con.out, "%-13s "+format+"\n", append([]any{name}, args...)...)
	}
	print("file", "%s, %s, %s", m.Path, size(m.Bytes), m.Format)
	print("model", "%s, architecture %s, %.1f M parameters", cmp.Or(m.Name, "unnamed"), m.Arch, float64(m.Parameters)/1e6)
	print("layers", "%d of %d channels, feed-forward %d", m.Layers, m.Embed, m.FFN)
	print("attention", "%d query heads, %d KV heads of %d channels (%d a group)", m.Heads, m.KVHeads, m.HeadDim, m.Heads/m.KVHeads)
	if m.Sliding > 0 {
		print("window", "%d tokens in %d of %d layers", m.Window, m.Sliding, m.Layers)
	}
	print("context", "%d tokens, rope base %g", m.Context, m.RopeBase)
	for i, t := range m.Types {
		print([...]string{"tensors", ""}[min(i, 1)], "%-6s %4d  %8s", t.Name, t.Tensors, size(t.Bytes))
	}
	t := m.Tokenizer
	print("tokenizer", "%s, %d tokens, special: %s", strings.Join(nonEmpty(t.Kind, t.Pre), "/"), t.Tokens, specials(t))
	print("chat template", "%s", map[bool]string{true: "yes", false: "none; ChatML is used"}[m.Template])
	print("cache", "%s a token of keys and values, and %s of codes for attention twilight", size(int64(m.KVToken)), size(int64(m.CodesToken)))
	if m.Available > 0 {
		print("memory", "%s available: %s of weights and %d tokens of cache fit", size(m.Available), size(m.Weights), m.Fits)
	}
	if len(plans) > 0 {
		rows := [][]string{{"SPEC", "TOKENS", "TEXTS", "BYTES A TEXT", "ON THE HOST"}}
		for _, x := range plans {
			rows = append(rows, []string{x.Spec, fmt.Sprint(x.Tokens), fmt.Sprint(x.Texts), size(x.Bytes), size(x.Host)})
		}
		fmt.Fprintln(con.out)
		table(con.out, rows)
	}
	return nil
}

func specials(t inspect.Tokenizer) string {
	var out []string
	for _, s := range []struct{ name, token string }{{"BOS", t.BOS}, {"EOS", t.EOS}, {"EOT", t.EOT}} {
		if s.token != "" {
			out = append(out, s.name+" "+s.token)
		}
	}
	text := cmp.Or(strings.Join(out, ", "), "none")
	if t.AddBOS {
		text += "; texts begin with BOS"
	}
	return text
}
