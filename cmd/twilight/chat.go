package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/twilight-go/twilight"
)

type chatCommand struct {
	systemFlag
	modelFlags
	attentionFlag
	samplingFlags
}

const chatHelp = `/reset   forget the conversation
/stats   what the last answer cost
/exit    leave, as does Ctrl-D; Ctrl-C ends an answer`

// conversation is a chat under way. Its session keeps what was said in the cache.
type conversation struct {
	*chatCommand
	con      *console
	s        *twilight.Session
	messages []twilight.Message
	last     *summary
}

// Validate is called by the parser.
func (c *chatCommand) Validate() error {
	return cmp.Or(c.modelFlags.Validate(), c.samplingFlags.Validate())
}

// Run is called by the parser.
func (c *chatCommand) Run(con *console) error {
	ctx, stop := con.interruptible()
	s, done, err := con.session(ctx, &c.modelFlags, c.Attention)
	stop()
	if err != nil {
		return err
	}
	defer done()
	v := &conversation{chatCommand: c, con: con, s: s}
	v.reset()
	read := con.lines("> ")
	if isTerminal(con.in) {
		fmt.Fprintf(con.err, "%s on %s, attention %s; /help lists commands\n", c.Model, s.Model().Device(), c.Attention)
	}
	for {
		line, err := read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a line: %w", err)
		}
		if done, err := v.line(strings.TrimSpace(line)); done || err != nil {
			return err
		}
	}
}

// line does what one line asks for. Only what ends the conversation is an error.
func (v *conversation) line(line string) (done bool, err error) {
	switch {
	case line == "":
	case line == "/exit" || line == "/quit":
		return true, nil
	case line == "/reset":
		v.reset()
	case line == "/stats" && v.last != nil:
		v.last.print(v.con.err)
	case line == "/stats":
		fmt.Fprintln(v.con.err, "nothing was asked yet")
	case line == "/help":
		fmt.Fprintln(v.con.err, chatHelp)
	case strings.HasPrefix(line, "/"):
		fmt.Fprintf(v.con.err, "unknown command %s\n%s\n", line, chatHelp)
	default:
		return false, v.answer(line)
	}
	return false, nil
}

func (v *conversation) reset() {
	v.messages = v.system(v.s.Model())
}

// answer adds a turn of each side.
func (v *conversation) answer(text string) error {
	ctx, stop := v.con.interruptible()
	defer stop()
	p := v.con.progress("tok")
	r := twilight.Request{MaxTokens: v.MaxTokens, Sampling: v.sampling(), Stop: v.Stop,
		Progress: func(done, total int) { p.report("reading", int64(done), int64(total)) },
		Emit: func(text string) error {
			p.clear()
			_, err := io.WriteString(v.con.out, text)
			return err
		}}
	turn := append(v.messages, twilight.Message{Role: "user", Content: text})
	res, err := v.s.Chat(ctx, turn, r)
	p.clear()
	switch {
	case errors.Is(err, twilight.ErrContext):
		fmt.Fprintf(v.con.err, "%v; /reset begins anew\n", err)
		return nil
	case errors.Is(err, context.Canceled) && v.con.ctx.Err() == nil: // Ctrl-C ends the answer, not the conversation
	case err != nil:
		return err
	}
	fmt.Fprintln(v.con.out)
	v.messages = append(turn, twilight.Message{Role: "assistant", Content: res.Text})
	v.last = summarize(&res, v.Model, v.s.Model(), string(v.Attention), &r.Sampling)
	return nil
}

// lines reads lines: edited ones with a history from a terminal, plain ones elsewhere.
func (c *console) lines(prompt string) func() (string, error) {
	f, ok := c.in.(*os.File)
	if !ok || !isTerminal(f) || !isTerminal(c.out) {
		s := bufio.NewReader(io.LimitReader(c.in, maxText))
		return func() (string, error) {
			line, err := s.ReadString('\n')
			if line != "" && errors.Is(err, io.EOF) {
				err = nil
			}
			return line, err
		}
	}
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{c.in, c.out}, prompt)
	return func() (string, error) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return "", err
		}
		defer term.Restore(int(f.Fd()), old) //nolint:errcheck // nothing better can be done
		if w, h, err := term.GetSize(int(f.Fd())); err == nil {
			t.SetSize(w, h) //nolint:errcheck // a line that wraps oddly is still read
		}
		line, err := t.ReadLine()
		if errors.Is(err, term.ErrPasteIndicator) {
			err = nil
		}
		return line, err
	}
}
