package jinja

import (
	"errors"
	"fmt"
)

// A stmt is a statement of a template.
type stmt interface {
	exec(m *machine) error
}

// Loop controls travel as errors up to their loop.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

// run executes statements in order.
func (m *machine) run(body []stmt) error {
	if err := m.enter(); err != nil {
		return err
	}
	defer m.leave()
	for _, s := range body {
		if err := m.spend(1); err != nil {
			return err
		}
		if err := s.exec(m); err != nil {
			return err
		}
	}
	return nil
}

// at gives an error the line where it came up, unless it has one.
func at(line int, err error) error {
	var located *Error
	if err == nil || err == errBreak || err == errContinue || errors.As(err, &located) {
		return err
	}
	return &Error{Line: line, Err: err}
}

type dataStmt struct{ text string }

func (s *dataStmt) exec(m *machine) error { return m.write(s.text) }

type printStmt struct {
	value expr
	line  int
}

func (s *printStmt) exec(m *machine) error {
	v, err := m.eval(s.value)
	if err != nil {
		return at(s.line, err)
	}
	text, err := m.str(v)
	if err != nil {
		return at(s.line, err)
	}
	return at(s.line, m.write(text))
}

type doStmt struct {
	value expr
	line  int
}

func (s *doStmt) exec(m *machine) error {
	_, err := m.eval(s.value)
	return at(s.line, err)
}

type groupStmt struct{ body []stmt }

func (s *groupStmt) exec(m *machine) error { return m.run(s.body) }

type jumpStmt struct{ to error }

func (s *jumpStmt) exec(*machine) error { return s.to }

type ifStmt struct {
	conds  []expr
	bodies [][]stmt
	other  []stmt
	line   int
}

func (s *ifStmt) exec(m *machine) error {
	for i, cond := range s.conds {
		v, err := m.eval(cond)
		if err != nil {
			return at(s.line, err)
		}
		if truth(v) {
			return m.run(s.bodies[i])
		}
	}
	return m.run(s.other)
}

// A target is what a value is assigned to: a name, a namespace's attribute, or parts that take the value's items.
type target struct {
	name, attr string
	parts      []target
	tuple      bool // parts count even if there is only one
}

func (m *machine) assign(t target, v Value) error {
	if len(t.parts) > 0 {
		items, err := m.items(v)
		if err != nil {
			return fmt.Errorf("cannot unpack: %w", err)
		}
		if len(items) != len(t.parts) {
			return fmt.Errorf("cannot unpack %d values into %d names", len(items), len(t.parts))
		}
		for i := range items {
			if err := m.assign(t.parts[i], items[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := m.grow(entrySize); err != nil {
		return err
	}
	if t.attr == "" {
		m.frame.set(t.name, v)
		return nil
	}
	ns, ok := m.lookup(t.name).(*namespace)
	if !ok {
		return fmt.Errorf("cannot assign attribute %q: %q is not a namespace", t.attr, t.name)
	}
	ns.vars.Set(t.attr, v)
	return nil
}

type setStmt struct {
	target target
	value  expr   // of set x = value
	body   []stmt // of a block set
	filter expr   // applied to the block's text; nil if none
	line   int
}

func (s *setStmt) exec(m *machine) error {
	var v Value
	var err error
	if s.value != nil {
		v, err = m.eval(s.value)
	} else {
		v, err = m.captureFiltered(s.body, s.filter)
	}
	if err != nil {
		return at(s.line, err)
	}
	return at(s.line, m.assign(s.target, v))
}

type filterStmt struct {
	filter expr
	body   []stmt
	line   int
}

func (s *filterStmt) exec(m *machine) error {
	v, err := m.captureFiltered(s.body, s.filter)
	if err != nil {
		return at(s.line, err)
	}
	text, err := m.str(v)
	if err != nil {
		return at(s.line, err)
	}
	return at(s.line, m.write(text))
}

// captured stands for the text of a block in the filters that are applied to it. The text travels in a variable that no template can name.
type captured struct{}

const capturedName = "block text"

func (*captured) eval(m *machine) (Value, error) { return m.lookup(capturedName), nil }

// captureFiltered renders a block in a scope of its own and applies filters to the text.
func (m *machine) captureFiltered(body []stmt, filter expr) (Value, error) {
	var text string
	err := m.scoped(m.frame, func() (err error) {
		text, err = m.capture(func() error { return m.run(body) })
		return err
	})
	if err != nil || filter == nil {
		return text, err
	}
	var v Value
	err = m.scoped(m.frame, func() (err error) {
		m.frame.set(capturedName, text)
		v, err = m.eval(filter)
		return err
	})
	return v, err
}

type withStmt struct {
	targets []string
	values  []expr
	body    []stmt
	line    int
}

func (s *withStmt) exec(m *machine) error {
	values := make([]Value, len(s.values))
	for i, e := range s.values {
		var err error
		if values[i], err = m.eval(e); err != nil {
			return at(s.line, err)
		}
	}
	return m.scoped(m.frame, func() error {
		for i, name := range s.targets {
			if err := m.assign(target{name: name}, values[i]); err != nil {
				return at(s.line, err)
			}
		}
		return m.run(s.body)
	})
}

type forStmt struct {
	target    target
	iter      expr
	cond      expr // nil if none
	recursive bool
	body      []stmt
	other     []stmt
	line      int
}

func (s *forStmt) exec(m *machine) error {
	v, err := m.eval(s.iter)
	if err != nil {
		return at(s.line, err)
	}
	return at(s.line, m.loop(s, v, m.frame, 0))
}

// A loop is the variable of that name.
type loop struct {
	stmt    *forStmt
	items   []Value
	at      int // 0-based
	depth   int // of recursion, 0-based
	parent  *frame
	changed Value // what changed() saw last; nil before
}

// loop runs a for statement over v.
func (m *machine) loop(s *forStmt, v Value, parent *frame, depth int) error {
	if err := m.enter(); err != nil {
		return err
	}
	defer m.leave()
	items, err := m.items(v)
	if err != nil {
		return err
	}
	if s.cond != nil {
		var kept []Value
		for _, item := range items {
			err := m.scoped(parent, func() error {
				if err := m.assign(s.target, item); err != nil {
					return err
				}
				v, err := m.eval(s.cond)
				if truth(v) {
					kept = append(kept, item)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		items = kept
	}
	if len(items) == 0 {
		return m.run(s.other)
	}
	l := &loop{stmt: s, items: items, depth: depth, parent: parent}
	for i, item := range items {
		l.at = i
		err := m.scoped(parent, func() error {
			m.frame.set("loop", l)
			if err := m.assign(s.target, item); err != nil {
				return err
			}
			return m.run(s.body)
		})
		if err == errBreak {
			break
		}
		if err != nil && err != errContinue {
			return err
		}
	}
	return nil
}

// attr returns an attribute of the loop variable.
func (l *loop) attr(name string) (Value, bool) {
	n := len(l.items)
	neighbour := func(i int, why string) Value {
		if i < 0 || i >= n {
			return undefined{why}
		}
		return l.items[i]
	}
	switch name {
	case "index":
		return int64(l.at + 1), true
	case "index0":
		return int64(l.at), true
	case "revindex":
		return int64(n - l.at), true
	case "revindex0":
		return int64(n - l.at - 1), true
	case "first":
		return l.at == 0, true
	case "last":
		return l.at == n-1, true
	case "length":
		return int64(n), true
	case "depth":
		return int64(l.depth + 1), true
	case "depth0":
		return int64(l.depth), true
	case "previtem":
		return neighbour(l.at-1, "there is no previous item"), true
	case "nextitem":
		return neighbour(l.at+1, "there is no next item"), true
	case "cycle":
		return fn(func(_ *machine, a *args) (Value, error) {
			if len(a.pos) == 0 {
				return nil, errors.New("cycle() without items")
			}
			return a.pos[l.at%len(a.pos)], nil
		}), true
	case "changed":
		return fn(func(m *machine, a *args) (Value, error) {
			now := &List{Items: a.pos, tuple: true}
			if l.changed != nil {
				if eq, err := m.equal(l.changed, now); eq || err != nil {
					return false, err
				}
			}
			l.changed = now
			return true, nil
		}), true
	}
	return nil, false
}

// call runs a recursive loop over other items.
func (l *loop) call(m *machine, a *args) (Value, error) {
	if !l.stmt.recursive {
		return nil, errors.New("loop called, but the for has no \"recursive\"")
	}
	if len(a.pos) != 1 || len(a.named) > 0 {
		return nil, errors.New("loop called without one argument")
	}
	return m.capture(func() error {
		outer := m.frame
		err := m.loop(l.stmt, a.pos[0], l.parent, l.depth+1)
		m.frame = outer
		return err
	})
}
