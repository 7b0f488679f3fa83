package jinja

import (
	"slices"
	"strings"
)

// reserved reports whether a name is a word of the language.
func reserved(name string) bool {
	switch name {
	case "true", "false", "none", "True", "False", "None", "and", "or", "not", "if", "else", "in", "is":
		return true
	}
	return false
}

// tuple reads expressions up to the end of what surrounds them; one without a comma is just itself. conditional allows a if b else c.
func (p *parser) tuple(conditional bool) (expr, error) {
	one := p.expression
	if !conditional {
		one = p.or
	}
	first, err := one()
	if err != nil || !p.isOp(",") {
		return first, err
	}
	items := []expr{first}
	for p.skipOp(",") {
		if k := p.cur().kind; k == tVarEnd || k == tBlockEnd || p.isOp(")") {
			break
		}
		e, err := one()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
	}
	return &listExpr{items, true}, nil
}

func (p *parser) expression() (e expr, err error) {
	err = p.nested(func() error {
		if e, err = p.or(); err != nil {
			return err
		}
		for p.skipName("if") {
			cond, err := p.or()
			if err != nil {
				return err
			}
			var other expr
			if p.skipName("else") {
				if other, err = p.expression(); err != nil {
					return err
				}
			}
			e = &condExpr{cond, e, other}
		}
		return nil
	})
	return e, err
}

// chain reads operands joined by operators of one rank, from left to right.
func (p *parser) chain(operand func() (expr, error), is func(token) bool) (expr, error) {
	left, err := operand()
	for n := 0; err == nil && is(p.cur()); n++ {
		if n > maxNesting {
			return nil, p.fail("more than %d operators in a row", maxNesting)
		}
		op := p.next().text
		var right expr
		if right, err = operand(); err == nil {
			left = &binaryExpr{op, left, right}
		}
	}
	return left, err
}

func names(list ...string) func(token) bool {
	return func(t token) bool { return t.kind == tName && slices.Contains(list, t.text) }
}

func ops(list ...string) func(token) bool {
	return func(t token) bool { return t.kind == tOp && slices.Contains(list, t.text) }
}

var (
	isOr      = names("or")
	isAnd     = names("and")
	isSum     = ops("+", "-")
	isTilde   = ops("~")
	isProduct = ops("*", "/", "//", "%")
	isPower   = ops("**")
)

func (p *parser) or() (expr, error)      { return p.chain(p.and, isOr) }
func (p *parser) and() (expr, error)     { return p.chain(p.not, isAnd) }
func (p *parser) sum() (expr, error)     { return p.chain(p.concat, isSum) }
func (p *parser) product() (expr, error) { return p.chain(p.power, isProduct) }
func (p *parser) power() (expr, error)   { return p.chain(p.unary, isPower) }

func (p *parser) not() (e expr, err error) {
	if !p.skipName("not") {
		return p.comparison()
	}
	err = p.nested(func() error {
		e, err = p.not()
		e = &unaryExpr{"not", e}
		return err
	})
	return e, err
}

func (p *parser) comparison() (expr, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := &compareExpr{first: first}
	for {
		op := ""
		switch t := p.cur(); {
		case t.kind == tOp && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text):
			op = t.text
		case p.isName("in"):
			op = "in"
		case p.isName("not") && p.peek().kind == tName && p.peek().text == "in":
			op = "not in"
			p.pos++
		}
		if op == "" {
			if len(c.ops) == 0 {
				return first, nil
			}
			return c, nil
		}
		p.pos++
		right, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, right)
	}
}

func (p *parser) concat() (expr, error) {
	first, err := p.product()
	if err != nil || !isTilde(p.cur()) {
		return first, err
	}
	c := &concatExpr{[]expr{first}}
	for p.skipOp("~") {
		e, err := p.product()
		if err != nil {
			return nil, err
		}
		c.parts = append(c.parts, e)
	}
	return c, nil
}

func (p *parser) unary() (expr, error) {
	e, err := p.signed()
	if err != nil {
		return nil, err
	}
	return p.filters(e)
}

// signed reads an optional sign and an operand with what follows it, filters and tests excepted: they apply to the signed value.
func (p *parser) signed() (e expr, err error) {
	if !p.isOp("-") && !p.isOp("+") {
		if e, err = p.primary(); err != nil {
			return nil, err
		}
		return p.postfix(e)
	}
	op := p.next().text
	err = p.nested(func() error {
		e, err = p.signed()
		e = &unaryExpr{op, e}
		return err
	})
	return e, err
}

func (p *parser) primary() (expr, error) {
	t := p.cur()
	switch t.kind {
	case tName:
		p.pos++
		switch t.text {
		case "true", "True":
			return constExpr{true}, nil
		case "false", "False":
			return constExpr{false}, nil
		case "none", "None":
			return constExpr{None}, nil
		}
		for _, m := range p.macros {
			m.varargs = m.varargs || t.text == "varargs"
			m.kwargs = m.kwargs || t.text == "kwargs"
			m.caller = m.caller || t.text == "caller"
		}
		return nameExpr(t.text), nil
	case tString:
		var b strings.Builder
		for p.cur().kind == tString {
			b.WriteString(p.next().text)
		}
		return constExpr{b.String()}, nil
	case tNumber:
		p.pos++
		return constExpr{t.value}, nil
	case tOp:
		switch t.text {
		case "(":
			p.pos++
			if p.skipOp(")") {
				return &listExpr{tuple: true}, nil
			}
			var e expr
			err := p.nested(func() (err error) {
				e, err = p.tuple(true)
				return err
			})
			if err != nil {
				return nil, err
			}
			return e, p.expectOp(")")
		case "[":
			p.pos++
			items, err := p.listed("]")
			return &listExpr{items, false}, err
		case "{":
			p.pos++
			return p.dict()
		}
	}
	return nil, p.fail("found %v, expected an expression", t)
}

// listed reads expressions between commas up to the closing bracket.
func (p *parser) listed(end string) (items []expr, err error) {
	for !p.skipOp(end) {
		if len(items) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.skipOp(end) {
				break
			}
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
	}
	return items, nil
}

func (p *parser) dict() (expr, error) {
	d := &dictExpr{}
	for !p.skipOp("}") {
		if len(d.keys) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.skipOp("}") {
				break
			}
		}
		key, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err := p.expectOp(":"); err != nil {
			return nil, err
		}
		value, err := p.expression()
		if err != nil {
			return nil, err
		}
		d.keys, d.values = append(d.keys, key), append(d.values, value)
	}
	return d, nil
}

// postfix reads attributes, subscripts and calls.
func (p *parser) postfix(e expr) (expr, error) {
	for n := 0; ; n++ {
		if n > maxNesting {
			return nil, p.fail("more than %d attributes in a row", maxNesting)
		}
		var err error
		switch {
		case p.skipOp("."):
			switch t := p.next(); t.kind {
			case tName:
				e = &attrExpr{e, t.text}
			case tNumber:
				e = &itemExpr{e, constExpr{t.value}}
			default:
				p.pos--
				return nil, p.fail("found %v, expected the name of an attribute", t)
			}
		case p.skipOp("["):
			e, err = p.subscript(e)
		case p.isOp("("):
			e, err = p.call(e)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// subscript reads what follows an opening bracket.
func (p *parser) subscript(of expr) (expr, error) {
	var parts [3]expr
	colons := 0
	for !p.skipOp("]") {
		if p.skipOp(":") {
			if colons++; colons > 2 {
				return nil, p.fail("slice with more than two colons")
			}
			continue
		}
		if parts[colons] != nil {
			return nil, p.fail("found %v, expected \"]\"", p.cur())
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		parts[colons] = e
	}
	if colons > 0 {
		return &sliceExpr{of, parts}, nil
	}
	if parts[0] == nil {
		return nil, p.fail("subscript without an index")
	}
	return &itemExpr{of, parts[0]}, nil
}

func (p *parser) call(f expr) (expr, error) {
	args, err := p.arguments()
	return &callExpr{f, args}, err
}

// arguments reads the arguments of a call, brackets included.
func (p *parser) arguments() (arguments, error) {
	var a arguments
	if err := p.expectOp("("); err != nil {
		return a, err
	}
	for n := 0; !p.skipOp(")"); n++ {
		if n > 0 {
			if err := p.expectOp(","); err != nil {
				return a, err
			}
			if p.skipOp(")") {
				break
			}
		}
		var arg argument
		switch {
		case p.skipOp("*"):
			arg.spread = 1
		case p.skipOp("**"):
			arg.spread = 2
		case p.cur().kind == tName && p.peek().kind == tOp && p.peek().text == "=":
			arg.name = p.next().text
			p.pos++
		case len(a) > 0 && (a[len(a)-1].name != "" || a[len(a)-1].spread == 2):
			return a, p.fail("positional argument follows a named one")
		}
		var err error
		if arg.value, err = p.expression(); err != nil {
			return a, err
		}
		a = append(a, arg)
	}
	return a, nil
}

// filters reads filters, tests and calls behind an operand.
func (p *parser) filters(e expr) (expr, error) {
	for n := 0; ; n++ {
		if n > maxNesting {
			return nil, p.fail("more than %d filters in a row", maxNesting)
		}
		var err error
		switch {
		case p.skipOp("|"):
			e, err = p.filter(e)
		case p.skipName("is"):
			e, err = p.test(e)
		case p.isOp("("):
			e, err = p.call(e)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// filter reads a filter behind its bar.
func (p *parser) filter(of expr) (expr, error) {
	name, err := p.expectKind(tName)
	if err != nil {
		return nil, err
	}
	f := &filterExpr{of: of, name: name.text}
	if p.isOp("(") {
		f.args, err = p.arguments()
	}
	return f, err
}

// test reads a test behind is.
func (p *parser) test(of expr) (expr, error) {
	negated := p.skipName("not")
	name, err := p.expectKind(tName)
	if err != nil {
		return nil, err
	}
	t := &testExpr{of: of, name: name.text}
	switch c := p.cur(); {
	case p.isOp("("):
		t.args, err = p.arguments()
	case c.kind == tName && !slices.Contains([]string{"else", "or", "and", "if", "is", "in", "not", "recursive"}, c.text),
		c.kind == tString, c.kind == tNumber, c.kind == tOp && (c.text == "[" || c.text == "{"):
		// A single argument may stand without brackets.
		var arg expr
		if arg, err = p.primary(); err == nil {
			arg, err = p.postfix(arg)
		}
		t.args = arguments{{value: arg}}
	}
	if err != nil {
		return nil, err
	}
	if negated {
		return &unaryExpr{"not", t}, nil
	}
	return t, nil
}
