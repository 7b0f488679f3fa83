package jinja

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// An expr is an expression. Call machine.eval, which pays for the evaluation, rather than eval itself.
type expr interface {
	eval(m *machine) (Value, error)
}

func (m *machine) eval(e expr) (Value, error) {
	if err := m.enter(); err != nil {
		return nil, err
	}
	v, err := e.eval(m)
	m.leave()
	return v, err
}

// evalAll evaluates expressions in order.
func (m *machine) evalAll(es []expr) ([]Value, error) {
	if err := m.grow(len(es) * valueSize); err != nil {
		return nil, err
	}
	vs := make([]Value, len(es))
	for i, e := range es {
		var err error
		if vs[i], err = m.eval(e); err != nil {
			return nil, err
		}
	}
	return vs, nil
}

type constExpr struct{ value Value }

func (e constExpr) eval(*machine) (Value, error) { return e.value, nil }

type nameExpr string

func (e nameExpr) eval(m *machine) (Value, error) { return m.lookup(string(e)), nil }

type listExpr struct {
	items []expr
	tuple bool
}

func (e *listExpr) eval(m *machine) (Value, error) {
	items, err := m.evalAll(e.items)
	return &List{items, e.tuple}, err
}

type dictExpr struct{ keys, values []expr }

func (e *dictExpr) eval(m *machine) (Value, error) {
	if err := m.grow(len(e.keys) * entrySize); err != nil {
		return nil, err
	}
	d := NewDict()
	for i := range e.keys {
		key, err := m.eval(e.keys[i])
		if err != nil {
			return nil, err
		}
		value, err := m.eval(e.values[i])
		if err != nil {
			return nil, err
		}
		hash, err := m.hash(key)
		if err != nil {
			return nil, err
		}
		d.set(hash, key, value)
	}
	return d, nil
}

type condExpr struct{ cond, value, other expr }

func (e *condExpr) eval(m *machine) (Value, error) {
	c, err := m.eval(e.cond)
	switch {
	case err != nil:
		return nil, err
	case truth(c):
		return m.eval(e.value)
	case e.other == nil:
		return undefined{"the inline if was false and has no else"}, nil
	}
	return m.eval(e.other)
}

type concatExpr struct{ parts []expr }

func (e *concatExpr) eval(m *machine) (Value, error) {
	b := &builder{m: m}
	for _, part := range e.parts {
		v, err := m.eval(part)
		if err != nil {
			return nil, err
		}
		s, err := m.str(v)
		if err != nil {
			return nil, err
		}
		b.write(s)
	}
	return b.String()
}

type compareExpr struct {
	first expr
	ops   []string
	rest  []expr
}

func (e *compareExpr) eval(m *machine) (Value, error) {
	left, err := m.eval(e.first)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		right, err := m.eval(e.rest[i])
		if err != nil {
			return nil, err
		}
		if ok, err := m.compareOp(op, left, right); !ok || err != nil {
			return false, err
		}
		left = right
	}
	return true, nil
}

// compareOp applies one comparison.
func (m *machine) compareOp(op string, a, b Value) (bool, error) {
	switch op {
	case "==":
		return m.equal(a, b)
	case "!=":
		eq, err := m.equal(a, b)
		return !eq, err
	case "in":
		return m.contains(b, a)
	case "not in":
		in, err := m.contains(b, a)
		return !in, err
	}
	c, err := m.compare(a, b)
	switch op {
	case "<":
		return c < 0, err
	case "<=":
		return c <= 0, err
	case ">":
		return c > 0, err
	}
	return c >= 0, err
}

// contains is Python's item in v.
func (m *machine) contains(v, item Value) (bool, error) {
	switch v := v.(type) {
	case string:
		s, ok := item.(string)
		if !ok {
			return false, fmt.Errorf("'in <string>' requires a string, not '%s'", typeName(item))
		}
		return strings.Contains(v, s), m.scan(len(v) + len(s))
	case *Dict:
		hash, err := m.hash(item)
		_, ok := v.get(hash)
		return ok && err == nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return false, fmt.Errorf("argument of type '%s' is not iterable", typeName(v))
	}
	for _, x := range items {
		if eq, err := m.equal(x, item); eq || err != nil {
			return eq, err
		}
	}
	return false, nil
}

type attrExpr struct {
	of   expr
	name string
}

func (e *attrExpr) eval(m *machine) (Value, error) {
	v, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	return m.attr(v, e.name)
}

// attr is v.name: a method or attribute, else an entry.
func (m *machine) attr(v Value, name string) (Value, error) {
	switch v := v.(type) {
	case undefined:
		return nil, defined(v)
	case *namespace:
		if x, ok := v.vars.Get(name); ok {
			return x, nil
		}
	case *loop:
		if x, ok := v.attr(name); ok {
			return x, nil
		}
	case *macro:
		if name == "name" {
			return v.name, nil
		}
	case string:
		if name == "format" {
			return fn(func(m *machine, a *args) (Value, error) { return braces(m, v, a) }), nil
		}
		if f, ok := stringMethods[name]; ok {
			return &method{v, f}, nil
		}
	case *List:
		if f, ok := listMethods[name]; ok {
			return &method{v, f}, nil
		}
	case *Dict:
		if f, ok := dictMethods[name]; ok {
			return &method{v, f}, nil
		}
		if x, ok := v.Get(name); ok {
			return x, nil
		}
	}
	return missing(v, name), nil
}

// missing is the value of an attribute or entry that v does not have.
func missing(v Value, name string) Value {
	return undefined{fmt.Sprintf("'%s' object has no attribute '%.64s'", typeName(v), name)}
}

type itemExpr struct{ of, index expr }

func (e *itemExpr) eval(m *machine) (Value, error) {
	v, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	index, err := m.eval(e.index)
	if err != nil {
		return nil, err
	}
	return m.item(v, index)
}

// item is v[index]: an entry, else an attribute.
func (m *machine) item(v, index Value) (Value, error) {
	switch v := v.(type) {
	case undefined:
		return nil, defined(v)
	case *Dict:
		hash, err := m.hash(index)
		if err != nil {
			return nil, err
		}
		if x, ok := v.get(hash); ok {
			return x, nil
		}
	case *List:
		if i, ok := asInt(index); ok {
			n := int64(len(v.Items))
			if i < 0 {
				i += n
			}
			if i < 0 || i >= n {
				return undefined{fmt.Sprintf("%s has no element %d", typeName(v), i)}, nil
			}
			return v.Items[i], nil
		}
	case string:
		if i, ok := asInt(index); ok {
			return m.character(v, i)
		}
	}
	name, ok := index.(string)
	if !ok {
		return undefined{fmt.Sprintf("'%s' object has no such element", typeName(v))}, nil
	}
	return m.attr(v, name)
}

// character returns the i-th character of a string, from its end where i is negative.
func (m *machine) character(s string, i int64) (Value, error) {
	if err := m.scan(len(s)); err != nil {
		return nil, err
	}
	if i < 0 {
		i += int64(utf8.RuneCountInString(s))
	}
	if i >= 0 {
		for at := range s {
			if i == 0 {
				_, n := utf8.DecodeRuneInString(s[at:])
				return s[at : at+n], nil
			}
			i--
		}
	}
	return undefined{"str has no such element"}, nil
}

type sliceExpr struct {
	of    expr
	parts [3]expr // from, to, step; nil where left out
}

func (e *sliceExpr) eval(m *machine) (Value, error) {
	v, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	var bounds [3]*int64
	for i, part := range e.parts {
		if part == nil {
			continue
		}
		x, err := m.eval(part)
		if err != nil {
			return nil, err
		}
		if x == None {
			continue
		}
		n, ok := asInt(x)
		if !ok {
			return nil, fmt.Errorf("slice bound of type '%s', expected an integer", typeName(x))
		}
		bounds[i] = &n
	}
	switch v.(type) {
	case string, *List:
	default:
		if err := defined(v); err != nil {
			return nil, err
		}
		return undefined{fmt.Sprintf("'%s' object cannot be sliced", typeName(v))}, nil
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	picked, err := slice(items, bounds)
	if err != nil {
		return nil, err
	}
	if err := m.grow(len(picked) * valueSize); err != nil {
		return nil, err
	}
	if l, ok := v.(*List); ok {
		return &List{picked, l.tuple}, nil
	}
	b := &builder{m: m}
	for _, c := range picked {
		b.write(c.(string))
	}
	return b.String()
}

// slice is Python's items[from:to:step].
func slice(items []Value, bounds [3]*int64) ([]Value, error) {
	n := int64(len(items))
	step := int64(1)
	if bounds[2] != nil {
		step = *bounds[2]
	}
	if step == 0 {
		return nil, fmt.Errorf("slice step cannot be zero")
	}
	low, high := int64(0), n // the range of a bound
	if step < 0 {
		low, high = -1, n-1
	}
	bound := func(p *int64, def int64) int64 {
		if p == nil {
			return def
		}
		i := *p
		if i < 0 {
			i += n
		}
		return min(max(i, low), high)
	}
	var picked []Value
	if step > 0 {
		for i, end := bound(bounds[0], low), bound(bounds[1], high); i < end; i += step {
			picked = append(picked, items[i])
			if step >= n {
				break
			}
		}
		return picked, nil
	}
	for i, end := bound(bounds[0], high), bound(bounds[1], low); i > end; i += step {
		picked = append(picked, items[i])
		if step <= -n {
			break
		}
	}
	return picked, nil
}
