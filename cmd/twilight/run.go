package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/tokenizer"
)

type runCommand struct {
	Prompt []string `arg:"" optional:"" help:"The prompt; left out, it is read from standard input."`
	promptFlags
	modelFlags
	attentionFlag
	samplingFlags
	Load string `placeholder:"CACHE" type:"path" help:"A cache of 'twilight prefill': the prompt continues the saved text."`
	JSON bool   `name:"json" help:"Print one JSON object instead of the text."`
}

// promptFlags say what is read before a question, and how it is dressed.
type promptFlags struct {
	File       string `short:"f" placeholder:"FILE" help:"A text that stands before the prompt; - is standard input."`
	HeadTokens int    `placeholder:"N" help:"Take only the first N tokens of --file."`
	systemFlag
	Raw bool `help:"Continue the text as it stands, without the model's chat template."`
}

// Validate reports flags that do not fit together.
func (f *promptFlags) Validate() error {
	switch {
	case f.HeadTokens < 0:
		return fmt.Errorf("--head-tokens=%d: expected a number of tokens", f.HeadTokens)
	case f.HeadTokens > 0 && f.File == "":
		return errors.New("--head-tokens needs --file")
	case f.Raw && f.System != nil:
		return errors.New("--system needs the chat template, which --raw leaves out")
	}
	return nil
}

// Validate is called by the parser.
func (c *runCommand) Validate() error {
	if c.Load != "" && c.System != nil {
		return errors.New("--system stands before the saved text of --load: give it to 'twilight prefill'")
	}
	return cmp.Or(c.promptFlags.Validate(), c.modelFlags.Validate(), c.samplingFlags.Validate())
}

// Run is called by the parser.
func (c *runCommand) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	text, err := c.text(con, strings.Join(c.Prompt, " "), c.Load == "" || !c.Raw)
	if err != nil {
		return err
	}
	s, done, err := con.session(ctx, &c.modelFlags, c.Attention)
	if err != nil {
		return err
	}
	defer done()
	r := twilight.Request{MaxTokens: c.MaxTokens, Sampling: c.sampling(), Stop: c.Stop}
	if r.Prompt, err = c.tokens(s, text); err != nil {
		return err
	}
	return con.generate(ctx, s, &r, answerStyle{c.Model, string(c.Attention), c.JSON})
}

// text is the prompt: what stands in --file, then what was typed, or standard input if neither is there.
func (c *runCommand) text(con *console, typed string, need bool) (prompt, error) {
	p := prompt{typed: typed}
	var err error
	if c.File == "" && typed == "" && (need || !isTerminal(con.in)) {
		if isTerminal(con.in) {
			return p, misuse{errors.New("no prompt: give one as an argument, with --file or on standard input")}
		}
		p.typed, err = readAll(con.in, "standard input")
		p.typed = strings.TrimRight(p.typed, "\r\n")
	} else {
		p.file, err = con.readFile(c.File)
	}
	if err == nil && need && p.file == "" && p.typed == "" {
		err = misuse{errors.New("the prompt is empty")}
	}
	return p, err
}

// prompt is a text that was read and a question that was typed.
type prompt struct{ file, typed string }

func (p prompt) String() string {
	if p.file == "" || p.typed == "" {
		return p.file + p.typed
	}
	return strings.TrimRight(p.file, "\r\n") + "\n\n" + p.typed
}

// tokens is the whole prompt, after the saved one if there is one.
func (c *runCommand) tokens(s *twilight.Session, p prompt) ([]int32, error) {
	m := s.Model()
	if c.HeadTokens > 0 {
		p.file, _ = m.Head(p.file, c.HeadTokens)
	}
	if c.Load == "" {
		return c.encode(m, p.String())
	}
	if err := s.Load(c.Load); err != nil {
		return nil, err
	}
	saved := append([]int32(nil), s.Tokens()...)
	if c.Raw {
		return append(saved, m.Tokenizer().Encode(p.String(), tokenizer.EncodeOptions{})...), nil
	}
	_, tail, err := m.SplitChat([]twilight.Message{{Role: "user", Content: cut + "\n\n" + p.String()}}, cut)
	return append(saved, tail...), err
}

// cut marks where the saved text ends in a conversation that is rendered without it.
const cut = "\u2063twilight\u2063"

func (f *promptFlags) encode(m *twilight.Model, text string) ([]int32, error) {
	if f.Raw {
		return m.Encode(text), nil
	}
	return m.EncodeChat(append(f.system(m), twilight.Message{Role: "user", Content: text}))
}

// open opens a model with progress.
func (c *console) open(ctx context.Context, name string, o twilight.Options, spec string) (*twilight.Model, error) {
	p := c.progress("B")
	defer p.clear()
	if spec != "" {
		o.Attention = spec
	}
	o.Progress = func(stage string, done, total int64) { p.report(stage+" "+name, done, total) }
	return twilight.Open(ctx, name, o)
}

// session opens a model and starts its one text, which decodes by spec. done closes both.
func (c *console) session(ctx context.Context, f *modelFlags, a spec) (s *twilight.Session, done func(), err error) {
	m, err := c.open(ctx, f.Model, f.options(), string(a))
	if err != nil {
		return nil, nil, err
	}
	if s, err = m.NewSession(""); err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return s, func() {
		s.Close()
		m.Close() //nolint:errcheck // what was read only
	}, nil
}

// readFile is the text of a file, "" for no name; - is standard input.
func (c *console) readFile(name string) (string, error) {
	switch name {
	case "":
		return "", nil
	case "-":
		return readAll(c.in, "standard input")
	}
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("reading the text: %w", err)
	}
	defer f.Close()
	return readAll(f, name)
}

// maxText is far beyond any context, and keeps a device or an endless pipe from filling the memory.
const maxText = 1 << 28

func readAll(r io.Reader, name string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	if len(b) > maxText {
		return "", fmt.Errorf("reading %s: it has more than %s, which is beyond any context", name, size(maxText))
	}
	return string(b), nil
}

// answerStyle is how an answer is shown.
type answerStyle struct {
	model, spec string
	json        bool
}

// generate answers a prompt: the text as it comes, then the summary. Interrupted, what was written stays and the summary still comes.
func (c *console) generate(ctx context.Context, s *twilight.Session, r *twilight.Request, style answerStyle) error {
	p := c.progress("tok")
	r.Progress = func(done, total int) { p.report("reading the prompt", int64(done), int64(total)) }
	r.Emit = func(text string) error {
		p.clear()
		if style.json {
			return nil
		}
		_, err := io.WriteString(c.out, text)
		return err
	}
	res, err := s.Generate(ctx, *r)
	p.clear()
	if err != nil && (len(res.Tokens) == 0 || !errors.Is(err, context.Canceled)) {
		return err
	}
	sum := summarize(&res, style.model, s.Model(), style.spec, &r.Sampling)
	if err != nil {
		sum.Reason = "interrupted"
	}
	if style.json {
		return errors.Join(err, writeJSON(c.out, sum))
	}
	if !strings.HasSuffix(res.Text, "\n") {
		fmt.Fprintln(c.out)
	}
	if isTerminal(c.out) && isTerminal(c.err) {
		fmt.Fprintln(c.err)
	}
	sum.print(c.err)
	return err
}
