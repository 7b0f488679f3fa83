package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/tokenizer"
)

type prefillCommand struct {
	promptFlags
	modelFlags
	Save string `placeholder:"CACHE" type:"path" help:"Where to write the cache of what was read."`
	Load string `placeholder:"CACHE" type:"path" help:"A saved cache to check; with --file, the text continues it."`
	JSON bool   `name:"json" help:"Print the result as JSON."`
}

type prefillResult struct {
	Model   string  `json:"model"`
	Tokens  int     `json:"tokens"`
	Cached  int     `json:"cached_tokens"` // of them, from --load
	Seconds float64 `json:"prompt_s"`
	Rate    float64 `json:"prompt_tokens_per_s"`
	LoadSec float64 `json:"load_s"`
	SaveSec float64 `json:"save_s"`
	KVBytes int     `json:"kv_bytes"`
	Path    string  `json:"saved"`
}

// Validate is called by the parser.
func (c *prefillCommand) Validate() error {
	switch {
	case c.File == "" && c.Load == "":
		return errors.New("nothing to read: give a text with --file, or a saved cache with --load")
	case c.File != "" && c.Save == "":
		return errors.New("nowhere to keep the cache: give a file with --save")
	case c.Load != "" && c.System != nil:
		return errors.New("--system stands before the saved text of --load: give it when that is saved")
	}
	return cmp.Or(c.promptFlags.Validate(), c.modelFlags.Validate())
}

// Run is called by the parser.
func (c *prefillCommand) Run(con *console) error {
	ctx, stop := con.interruptible()
	defer stop()
	text, err := con.readFile(c.File)
	if err != nil {
		return err
	}
	s, done, err := con.session(ctx, &c.modelFlags, "dense")
	if err != nil {
		return err
	}
	defer done()
	r := prefillResult{Model: c.Model, Path: c.Save}
	start := time.Now()
	if c.Load != "" {
		if err := s.Load(c.Load); err != nil {
			return err
		}
		r.LoadSec, r.Cached = time.Since(start).Seconds(), s.Len()
	}
	if text != "" {
		text, _ = s.Model().Head(text, c.HeadTokens)
		tokens, err := c.tokens(s, text)
		if err != nil {
			return err
		}
		p := con.progress("tok")
		start = time.Now()
		_, _, err = s.Prefill(ctx, tokens, func(done, total int) { p.report("reading the text", int64(done), int64(total)) })
		p.clear()
		if err != nil {
			return err
		}
		r.Seconds = time.Since(start).Seconds()
		r.Rate = float64(len(tokens)-r.Cached) / r.Seconds
	}
	if c.Save != "" {
		start = time.Now()
		if err := s.Save(c.Save); err != nil {
			return err
		}
		r.SaveSec = time.Since(start).Seconds()
	}
	r.Tokens = s.Len()
	r.KVBytes, _ = s.CacheBytes()
	if c.JSON {
		return writeJSON(con.out, r)
	}
	return c.print(con, &r)
}

// tokens is the text as the beginning of a conversation that 'run --load' goes on with, or the text as it stands.
func (c *prefillCommand) tokens(s *twilight.Session, text string) ([]int32, error) {
	m := s.Model()
	saved := append([]int32(nil), s.Tokens()...)
	switch {
	case len(saved) > 0:
		return append(saved, m.Tokenizer().Encode(text, tokenizer.EncodeOptions{})...), nil
	case c.Raw:
		return m.Encode(text), nil
	}
	head, _, err := m.SplitChat(append(c.system(m), twilight.Message{Role: "user", Content: text + cut}), cut)
	return head, err
}

func (c *prefillCommand) print(con *console, r *prefillResult) error {
	if c.Load != "" {
		fmt.Fprintf(con.err, "loaded %d tokens from %s in %.2f s\n", r.Cached, c.Load, r.LoadSec)
	}
	if r.Seconds > 0 {
		fmt.Fprintf(con.err, "read %d tokens in %.1f s, %.1f/s\n", r.Tokens-r.Cached, r.Seconds, r.Rate)
	}
	if c.Save != "" {
		fmt.Fprintf(con.err, "saved %d tokens, %s, to %s in %.2f s\n", r.Tokens, size(int64(r.KVBytes)), c.Save, r.SaveSec)
	}
	return nil
}
