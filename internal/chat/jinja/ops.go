package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

type unaryExpr struct {
	op string
	of expr
}

func (e *unaryExpr) eval(m *machine) (Value, error) {
	v, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	if e.op == "not" {
		return !truth(v), nil
	}
	if err := defined(v); err != nil {
		return nil, err
	}
	if i, ok := asInt(v); ok {
		if e.op == "-" {
			i = -i
		}
		return i, nil
	}
	f, ok := v.(float64)
	if !ok {
		return nil, fmt.Errorf("bad operand type for unary %s: '%s'", e.op, typeName(v))
	}
	if e.op == "-" {
		f = -f
	}
	return f, nil
}

type binaryExpr struct {
	op          string
	left, right expr
}

func (e *binaryExpr) eval(m *machine) (Value, error) {
	a, err := m.eval(e.left)
	if err != nil {
		return nil, err
	}
	switch {
	case e.op == "or" && truth(a), e.op == "and" && !truth(a):
		return a, nil
	}
	b, err := m.eval(e.right)
	if err != nil || e.op == "or" || e.op == "and" {
		return b, err
	}
	if err := defined(a, b); err != nil {
		return nil, err
	}
	if e.op == "+" && isMarkup(e.left) != isMarkup(e.right) {
		if a, b, err = m.escapePlain(e, a, b); err != nil {
			return nil, err
		}
	}
	return m.arithmetic(e.op, a, b)
}

// isMarkup reports whether an expression gives what Jinja2 calls markup: the result of the filters safe and escape, or a sum with such a part. Adding plain text to
// markup escapes the text for HTML, even where escaping is off, and some templates fall into that; the text that their models know is the escaped one. Markup is
// recognised within one expression only, not through variables.
func isMarkup(e expr) bool {
	switch e := e.(type) {
	case *filterExpr:
		return e.name == "safe" || e.name == "escape" || e.name == "e"
	case *binaryExpr:
		return e.op == "+" && (isMarkup(e.left) || isMarkup(e.right))
	}
	return false
}

// escapePlain escapes the operand of a sum that is plain text, the other one being markup.
func (m *machine) escapePlain(e *binaryExpr, a, b Value) (Value, Value, error) {
	var err error
	if isMarkup(e.left) {
		if s, ok := b.(string); ok {
			b, err = escapeFilter(m, s, nil)
		}
	} else if s, ok := a.(string); ok {
		a, err = escapeFilter(m, s, nil)
	}
	return a, b, err
}

var errOverflow = errors.New("integer beyond 64 bits")

// arithmetic applies + - * / // % ** as Python does, on integers of 64 bits.
func (m *machine) arithmetic(op string, a, b Value) (Value, error) {
	if s, ok := a.(string); ok && op == "%" {
		return m.percent(s, b)
	}
	if i, ok := asInt(a); ok {
		if j, ok := asInt(b); ok {
			return integers(op, i, j)
		}
	}
	if x, ok := asFloat(a); ok {
		if y, ok := asFloat(b); ok {
			return floats(op, x, y)
		}
	}
	switch op {
	case "+":
		if x, ok := a.(string); ok {
			if y, ok := b.(string); ok {
				return x + y, m.grow(len(x) + len(y))
			}
		}
		if x, ok := a.(*List); ok {
			if y, ok := b.(*List); ok && x.tuple == y.tuple {
				n := len(x.Items) + len(y.Items)
				if err := m.grow(n * valueSize); err != nil {
					return nil, err
				}
				return &List{append(append(make([]Value, 0, n), x.Items...), y.Items...), x.tuple}, nil
			}
		}
	case "*":
		if n, ok := asInt(b); ok {
			return m.repeat(a, n)
		}
		if n, ok := asInt(a); ok {
			return m.repeat(b, n)
		}
	}
	return nil, fmt.Errorf("unsupported operand types for %s: '%s' and '%s'", op, typeName(a), typeName(b))
}

// repeat is v * n for strings and lists.
func (m *machine) repeat(v Value, n int64) (Value, error) {
	n = max(n, 0)
	size := func(unit int) error {
		if unit > 0 && n > math.MaxInt/int64(unit) {
			return m.grow(math.MaxInt)
		}
		return m.grow(unit * int(n))
	}
	switch v := v.(type) {
	case string:
		if err := size(len(v)); err != nil {
			return nil, err
		}
		buf := make([]byte, 0, len(v)*int(n))
		for len(v) > 0 && len(buf) < cap(buf) {
			buf = append(buf, v...)
		}
		return string(buf), nil
	case *List:
		if err := size(len(v.Items) * valueSize); err != nil {
			return nil, err
		}
		items := make([]Value, 0, len(v.Items)*int(n))
		for len(v.Items) > 0 && len(items) < cap(items) {
			items = append(items, v.Items...)
		}
		return &List{items, v.tuple}, nil
	}
	return nil, fmt.Errorf("unsupported operand types for *: '%s' and 'int'", typeName(v))
}

func integers(op string, a, b int64) (Value, error) {
	switch op {
	case "+":
		if c := a + b; (c > a) == (b > 0) {
			return c, nil
		}
		return nil, errOverflow
	case "-":
		if c := a - b; (c < a) == (b > 0) {
			return c, nil
		}
		return nil, errOverflow
	case "*":
		return multiply(a, b)
	case "**":
		return power(a, b)
	}
	if b == 0 {
		return nil, errors.New("division by zero")
	}
	switch op {
	case "/":
		return float64(a) / float64(b), nil
	case "//":
		q := a / b
		if b == -1 && a == math.MinInt64 {
			return nil, errOverflow
		}
		if a%b != 0 && (a < 0) != (b < 0) {
			q--
		}
		return q, nil
	}
	r := a % b
	if r != 0 && (r < 0) != (b < 0) {
		r += b
	}
	return r, nil
}

func multiply(a, b int64) (Value, error) {
	magnitude := func(x int64) uint64 {
		if x < 0 {
			return -uint64(x)
		}
		return uint64(x)
	}
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	if hi != 0 || lo > math.MaxInt64 {
		return nil, errOverflow
	}
	return a * b, nil
}

func power(a, b int64) (Value, error) {
	if b < 0 {
		if a == 0 {
			return nil, errors.New("division by zero")
		}
		return math.Pow(float64(a), float64(b)), nil
	}
	if a == 0 || a == 1 || a == -1 {
		b = b%2 + min(b, 2)&^1 // the same power, at most 3
	}
	var v Value = int64(1)
	for ; b > 0; b-- {
		var err error
		if v, err = multiply(v.(int64), a); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func floats(op string, a, b float64) (Value, error) {
	switch op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "**":
		return math.Pow(a, b), nil
	}
	if b == 0 {
		return nil, errors.New("division by zero")
	}
	switch op {
	case "/":
		return a / b, nil
	case "//":
		return math.Floor(a / b), nil
	}
	r := math.Mod(a, b)
	if r != 0 && (r < 0) != (b < 0) {
		r += b
	}
	return r, nil
}
