package jinja

import "fmt"

type callExpr struct {
	f    expr
	args arguments
}

func (e *callExpr) eval(m *machine) (Value, error) {
	f, a, err := e.prepare(m)
	if err != nil {
		return nil, err
	}
	return m.invoke(f, a)
}

// prepare evaluates the function and its arguments.
func (e *callExpr) prepare(m *machine) (Value, *args, error) {
	f, err := m.eval(e.f)
	if err != nil {
		return nil, nil, err
	}
	a, err := e.args.eval(m)
	return f, a, err
}

// A callable is a value that can be called.
type callable interface {
	call(m *machine, a *args) (Value, error)
}

func (m *machine) invoke(f Value, a *args) (Value, error) {
	c, ok := f.(callable)
	if !ok {
		if err := defined(f); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("'%s' object is not callable", typeName(f))
	}
	if err := m.enter(); err != nil {
		return nil, err
	}
	v, err := c.call(m, a)
	m.leave()
	return v, err
}

// A function is a callable of this package. It goes by pointer, so that it can be compared and be a key, as in Python.
type function struct {
	f func(m *machine, a *args) (Value, error)
}

func fn(f func(m *machine, a *args) (Value, error)) *function { return &function{f} }

func (f *function) call(m *machine, a *args) (Value, error) { return f.f(m, a) }

// arguments are those of a call as they stand in the source.
type arguments []argument

type argument struct {
	name   string // "" if positional
	spread int    // 1 for *value, 2 for **value
	value  expr
}

// args are the arguments of a call.
type args struct {
	pos   []Value
	named []named
}

type named struct {
	name  string
	value Value
}

// get returns a named argument.
func (a *args) get(name string) (Value, bool) {
	for _, n := range a.named {
		if n.name == name {
			return n.value, true
		}
	}
	return nil, false
}

func (as arguments) eval(m *machine) (*args, error) {
	a := &args{}
	for _, arg := range as {
		v, err := m.eval(arg.value)
		if err != nil {
			return nil, err
		}
		switch {
		case arg.spread == 1:
			items, err := m.items(v)
			if err == nil {
				err = m.grow(len(items) * valueSize)
			}
			if err != nil {
				return nil, err
			}
			a.pos = append(a.pos, items...)
		case arg.spread == 2:
			d, ok := v.(*Dict)
			if !ok {
				return nil, fmt.Errorf("argument after ** is of type '%s', expected a dict", typeName(v))
			}
			for i, key := range d.keys {
				name, ok := key.(string)
				if !ok {
					return nil, fmt.Errorf("argument after ** has a key of type '%s', expected strings", typeName(key))
				}
				if err := a.add(m, name, d.vals[i]); err != nil {
					return nil, err
				}
			}
		case arg.name != "":
			if err := a.add(m, arg.name, v); err != nil {
				return nil, err
			}
		default:
			a.pos = append(a.pos, v)
		}
	}
	return a, m.grow(len(a.pos) * valueSize)
}

// add adds a named argument, once.
func (a *args) add(m *machine, name string, v Value) error {
	if err := m.grow(valueSize + len(a.named)); err != nil { // the look-up goes through those before
		return err
	}
	if _, ok := a.get(name); ok {
		return fmt.Errorf("two values for argument %q", name)
	}
	a.named = append(a.named, named{name, v})
	return nil
}

// A macroNode is a macro, or the body of a call block, as it stands in the source.
type macroNode struct {
	name                    string
	params                  []string
	defaults                []expr // nil: required
	body                    []stmt
	varargs, kwargs, caller bool // the body uses them
}

type macroStmt struct {
	macro *macroNode
	line  int
}

func (s *macroStmt) exec(m *machine) error {
	return at(s.line, m.assign(target{name: s.macro.name}, &macro{s.macro, m.frame}))
}

// A macro is a macroNode with the scope in which it was defined.
type macro struct {
	*macroNode
	scope *frame
}

func (f *macro) call(m *machine, a *args) (Value, error) {
	var text string
	err := m.scoped(f.scope, func() error {
		if len(a.pos) > len(f.params) && !f.varargs {
			return fmt.Errorf("macro %s takes at most %d arguments, got %d", f.name, len(f.params), len(a.pos))
		}
		used := 0
		for i, name := range f.params {
			v, ok := a.get(name)
			if ok {
				used++
			}
			switch {
			case i < len(a.pos):
				if ok {
					return fmt.Errorf("macro %s got two values for %q", f.name, name)
				}
				v = a.pos[i]
			case !ok && f.defaults[i] != nil:
				var err error
				if v, err = m.eval(f.defaults[i]); err != nil {
					return err
				}
			case !ok:
				v = undefined{fmt.Sprintf("parameter %q was not provided", name)}
			}
			if err := m.assign(target{name: name}, v); err != nil {
				return err
			}
		}
		if err := f.bindRest(m, a, used); err != nil {
			return err
		}
		var err error
		text, err = m.capture(func() error { return m.run(f.body) })
		return err
	})
	return text, err
}

// bindRest binds what a macro takes beyond its parameters. used named arguments belong to parameters.
func (f *macro) bindRest(m *machine, a *args, used int) error {
	if f.varargs {
		rest := &List{tuple: true}
		if len(a.pos) > len(f.params) {
			rest.Items = a.pos[len(f.params):]
		}
		m.frame.set("varargs", rest)
	}
	if f.caller {
		caller, ok := a.get("caller")
		if !ok {
			caller = undefined{"no caller: the macro was not called by a call block"}
		} else {
			used++
		}
		m.frame.set("caller", caller)
	}
	if f.kwargs {
		rest := NewDict()
		for _, n := range a.named {
			if _, ok := m.frame.vars[n.name]; !ok {
				rest.Set(n.name, n.value)
			}
		}
		m.frame.set("kwargs", rest)
	} else if used < len(a.named) {
		return fmt.Errorf("macro %s takes no argument named %q", f.name, f.unknown(a))
	}
	return nil
}

// unknown returns the name of an argument that the macro has no parameter for.
func (f *macro) unknown(a *args) string {
	for _, n := range a.named {
		known := n.name == "caller" && f.caller
		for _, p := range f.params {
			known = known || p == n.name
		}
		if !known {
			return n.name
		}
	}
	return ""
}

type callStmt struct {
	body *macroNode
	call *callExpr
	line int
}

func (s *callStmt) exec(m *machine) error {
	f, a, err := s.call.prepare(m)
	if err != nil {
		return at(s.line, err)
	}
	a.named = append(a.named, named{"caller", &macro{s.body, m.frame}})
	v, err := m.invoke(f, a)
	if err != nil {
		return at(s.line, err)
	}
	text, err := m.str(v)
	if err != nil {
		return at(s.line, err)
	}
	return at(s.line, m.write(text))
}
