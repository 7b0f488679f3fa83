// Package jinja renders chat templates: programs in the Jinja language that model files carry and that turn a conversation into the text a model was trained on.
//
// It is an interpreter of the language as Jinja2 defines it with the settings of the transformers library (trim_blocks, lstrip_blocks, loop controls, no escaping,
// lenient undefined values), without what chat templates have no use for: inheritance, inclusion, imports, translation.
//
// Templates are untrusted programs. Nothing here reaches a file, the network or the environment, and each rendering has a budget: evaluation steps, bytes that its
// values may take in all, bytes of output, and depth of nesting. A template that exceeds one ends with an error; the work between two checks is bounded.
package jinja

import (
	"errors"
	"fmt"
	"time"
)

// Limits bound one rendering. Zero fields get the default.
type Limits struct {
	Steps  int64 // evaluated nodes, plus one for every 64 bytes or few items that a built-in function goes through; default 5,000,000, about a second
	Memory int64 // bytes of all values ever made, freed ones included; default 256 MiB
	Output int   // bytes; default 64 MiB
	Depth  int   // nested evaluations, each a few hundred bytes of stack; default 4,000
}

func (l Limits) orDefault() Limits {
	if l.Steps == 0 {
		l.Steps = 5_000_000
	}
	if l.Memory == 0 {
		l.Memory = 256 << 20
	}
	if l.Output == 0 {
		l.Output = 64 << 20
	}
	if l.Depth == 0 {
		l.Depth = 4000
	}
	return l
}

// ErrLimit is wrapped by the errors of templates that exceed a limit.
var ErrLimit = errors.New("limit exceeded")

// An Error says what went wrong where in a template.
type Error struct {
	Line   int  // of the template, from 1
	Raised bool // the template itself refused its input with raise_exception, whose text is Err's
	Err    error
}

func (e *Error) Error() string {
	if e.Raised {
		return e.Err.Error()
	}
	return fmt.Sprintf("jinja: line %d: %v", e.Line, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// A Template is a parsed template. It may be rendered by several goroutines at once.
type Template struct {
	body []stmt
}

// maxSource bounds a template's text; the longest known chat templates have some 20 KB.
const maxSource = 1 << 18

// Parse reads a template.
func Parse(source string) (*Template, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("jinja: template of %d bytes, expected at most %d", len(source), maxSource)
	}
	toks, err := lex(source)
	if err != nil {
		return nil, err
	}
	p := &parser{toks: toks}
	body, err := p.block()
	if err != nil {
		return nil, err
	}
	return &Template{body}, nil
}

// Env is what a template sees.
type Env struct {
	Vars   map[string]Value // by name; lists and dicts among them may be changed by the template
	Now    time.Time        // what strftime_now formats, in its own zone
	Limits Limits
}

// Render runs the template. Errors are of type *Error.
func (t *Template) Render(env Env) (string, error) {
	m := &machine{limits: env.Limits.orDefault(), now: env.Now}
	m.frame = &frame{vars: make(map[string]Value, len(env.Vars))}
	for name, v := range env.Vars {
		m.frame.vars[name] = v
	}
	if err := m.run(t.body); err != nil {
		var e *Error
		switch {
		case errors.Is(err, errBreak), errors.Is(err, errContinue):
			return "", &Error{Line: 1, Err: errors.New("break or continue outside of a loop")}
		case errors.As(err, &e):
			return "", e
		}
		return "", &Error{Line: 1, Err: err}
	}
	return string(m.out), nil
}

// A machine is one rendering.
type machine struct {
	limits Limits
	now    time.Time
	frame  *frame // innermost scope
	out    []byte // of the template, or of the macro or block under way
	steps  int64
	memory int64
	depth  int
}

// A frame holds the variables of one scope: the template, an iteration, a macro call, a with or call block.
type frame struct {
	vars   map[string]Value
	parent *frame
}

func (f *frame) set(name string, v Value) {
	if f.vars == nil {
		f.vars = make(map[string]Value, 4)
	}
	f.vars[name] = v
}

// lookup returns a variable, or what is undefined.
func (m *machine) lookup(name string) Value {
	for f := m.frame; f != nil; f = f.parent {
		m.steps++ // the next evaluation notices if that was one too many
		if v, ok := f.vars[name]; ok {
			return v
		}
	}
	if v, ok := globals[name]; ok {
		return v
	}
	return undefined{"'" + name + "' is undefined"}
}

// spend pays for n steps of work.
func (m *machine) spend(n int) error {
	if m.steps += int64(n); m.steps > m.limits.Steps {
		return fmt.Errorf("%w: more than %d steps", ErrLimit, m.limits.Steps)
	}
	return nil
}

// scan pays for going through n bytes.
func (m *machine) scan(n int) error { return m.spend(1 + n/64) }

// grow pays for a value of n bytes that is about to be made.
func (m *machine) grow(n int) error {
	if n < 0 || int64(n) > m.limits.Memory-m.memory {
		return fmt.Errorf("%w: more than %d bytes of values", ErrLimit, m.limits.Memory)
	}
	m.memory += int64(n)
	return m.scan(n)
}

// valueSize is what an item of a list counts for; entrySize, an entry of a dict or of a scope.
const (
	valueSize = 32
	entrySize = 128
)

// enter pays for one evaluation; leave ends it.
func (m *machine) enter() error {
	if m.depth++; m.depth > m.limits.Depth {
		return fmt.Errorf("%w: nested deeper than %d", ErrLimit, m.limits.Depth)
	}
	return m.spend(1)
}

func (m *machine) leave() { m.depth-- }

// write appends to the output.
func (m *machine) write(s string) error {
	if len(s) > m.limits.Output-len(m.out) {
		return fmt.Errorf("%w: more than %d bytes of output", ErrLimit, m.limits.Output)
	}
	// Outputs of calls under way lie on top of each other, so each byte counts as memory too.
	if err := m.grow(len(s)); err != nil {
		return err
	}
	m.out = append(m.out, s...)
	return nil
}

// capture runs f with an output of its own and returns what it wrote.
func (m *machine) capture(f func() error) (string, error) {
	outer := m.out
	m.out = nil
	err := f()
	text := m.out
	m.out = outer
	if err != nil {
		return "", err
	}
	if err := m.grow(len(text)); err != nil {
		return "", err
	}
	return string(text), nil
}

// scoped runs f in a new scope under parent.
func (m *machine) scoped(parent *frame, f func() error) error {
	if err := m.grow(entrySize); err != nil {
		return err
	}
	outer := m.frame
	m.frame = &frame{parent: parent}
	err := f()
	m.frame = outer
	return err
}
