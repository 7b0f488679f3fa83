package jinja

import (
	"fmt"
	"slices"
)

// maxNesting bounds how deep statements and expressions may lie in each other in the source.
const maxNesting = 400

// A parser reads statements; expressions are read in expression.go.
type parser struct {
	toks   []token // ends with tEOF
	pos    int
	depth  int
	macros []*macroNode // whose bodies are being read
}

func (p *parser) cur() token { return p.toks[p.pos] }

// peek returns the token after the current one.
func (p *parser) peek() token { return p.toks[min(p.pos+1, len(p.toks)-1)] }

func (p *parser) next() token {
	t := p.toks[p.pos]
	if t.kind != tEOF {
		p.pos++
	}
	return t
}

func (p *parser) fail(format string, args ...any) error {
	return &Error{Line: p.cur().line, Err: fmt.Errorf(format, args...)}
}

func (p *parser) isOp(op string) bool     { t := p.cur(); return t.kind == tOp && t.text == op }
func (p *parser) isName(name string) bool { t := p.cur(); return t.kind == tName && t.text == name }

func (p *parser) skipOp(op string) bool {
	if p.isOp(op) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) skipName(name string) bool {
	if p.isName(name) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expectOp(op string) error {
	if !p.skipOp(op) {
		return p.fail("found %v, expected %q", p.cur(), op)
	}
	return nil
}

func (p *parser) expectKind(k kind) (token, error) {
	if p.cur().kind != k {
		return token{}, p.fail("found %v, expected %v", p.cur(), k)
	}
	return p.next(), nil
}

// nested runs f one level deeper.
func (p *parser) nested(f func() error) error {
	if p.depth++; p.depth > maxNesting {
		return p.fail("nested deeper than %d", maxNesting)
	}
	err := f()
	p.depth--
	return err
}

// block reads statements up to a tag that begins with one of the names in ends, or without ends up to the end of the template. It stops behind that name.
func (p *parser) block(ends ...string) (body []stmt, err error) {
	start := p.cur().line
	err = p.nested(func() error {
		for {
			switch t := p.next(); t.kind {
			case tEOF:
				if len(ends) > 0 {
					return &Error{Line: start, Err: fmt.Errorf("block without %s", ends[len(ends)-1])}
				}
				return nil
			case tData:
				body = append(body, &dataStmt{t.text})
			case tVarBegin:
				e, err := p.tuple(true)
				if err != nil {
					return err
				}
				if _, err := p.expectKind(tVarEnd); err != nil {
					return err
				}
				body = append(body, &printStmt{e, t.line})
			default: // a tag: nothing else stands outside of tags
				name, err := p.expectKind(tName)
				if err != nil {
					return err
				}
				if slices.Contains(ends, name.text) {
					p.pos--
					return nil
				}
				s, err := p.statement(name)
				if err != nil {
					return err
				}
				if _, err := p.expectKind(tBlockEnd); err != nil {
					return err
				}
				body = append(body, s)
			}
		}
	})
	return body, err
}

// bodyUntil reads the end of the current tag, then statements up to the tag end, and its name.
func (p *parser) bodyUntil(end string) ([]stmt, error) {
	if _, err := p.expectKind(tBlockEnd); err != nil {
		return nil, err
	}
	body, err := p.block(end)
	if err == nil {
		p.pos++ // the name
	}
	return body, err
}

// statement reads what follows the name of a tag, up to the end of the last tag that belongs to it.
func (p *parser) statement(name token) (stmt, error) {
	switch name.text {
	case "if":
		return p.ifStmt(name.line)
	case "for":
		return p.forStmt(name.line)
	case "set":
		return p.setStmt(name.line)
	case "macro":
		return p.macroStmt(name.line)
	case "call":
		return p.callStmt(name.line)
	case "filter":
		return p.filterStmt(name.line)
	case "with":
		return p.withStmt(name.line)
	case "generation", "autoescape":
		// Marks for training, and escaping, which is off: the body counts as it stands.
		if name.text == "autoescape" {
			if _, err := p.expression(); err != nil {
				return nil, err
			}
		}
		body, err := p.bodyUntil("end" + name.text)
		return &groupStmt{body}, err
	case "do":
		e, err := p.tuple(true)
		return &doStmt{e, name.line}, err
	case "break":
		return &jumpStmt{errBreak}, nil
	case "continue":
		return &jumpStmt{errContinue}, nil
	}
	return nil, &Error{Line: name.line, Err: fmt.Errorf("unknown or unsupported tag %q", name.text)}
}

func (p *parser) ifStmt(line int) (stmt, error) {
	s := &ifStmt{line: line}
	for {
		cond, err := p.tuple(false)
		if err != nil {
			return nil, err
		}
		if _, err := p.expectKind(tBlockEnd); err != nil {
			return nil, err
		}
		body, err := p.block("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		s.conds, s.bodies = append(s.conds, cond), append(s.bodies, body)
		switch p.next().text {
		case "else":
			s.other, err = p.bodyUntil("endif")
			return s, err
		case "endif":
			return s, nil
		}
	}
}

func (p *parser) forStmt(line int) (stmt, error) {
	s := &forStmt{line: line}
	var err error
	if s.target, err = p.target(); err != nil {
		return nil, err
	}
	if !p.skipName("in") {
		return nil, p.fail("found %v, expected \"in\"", p.cur())
	}
	if s.iter, err = p.tuple(false); err != nil {
		return nil, err
	}
	if p.skipName("if") {
		if s.cond, err = p.expression(); err != nil {
			return nil, err
		}
	}
	s.recursive = p.skipName("recursive")
	if _, err := p.expectKind(tBlockEnd); err != nil {
		return nil, err
	}
	if s.body, err = p.block("else", "endfor"); err != nil {
		return nil, err
	}
	if p.next().text == "else" {
		s.other, err = p.bodyUntil("endfor")
	}
	return s, err
}

func (p *parser) setStmt(line int) (stmt, error) {
	target, err := p.target()
	if err != nil {
		return nil, err
	}
	if p.skipOp("=") {
		e, err := p.tuple(true)
		return &setStmt{target: target, value: e, line: line}, err
	}
	s := &setStmt{target: target, line: line}
	if p.isOp("|") {
		if s.filter, err = p.filters(&captured{}); err != nil {
			return nil, err
		}
	}
	s.body, err = p.bodyUntil("endset")
	return s, err
}

func (p *parser) filterStmt(line int) (stmt, error) {
	e, err := p.filter(&captured{})
	if err != nil {
		return nil, err
	}
	if e, err = p.filters(e); err != nil {
		return nil, err
	}
	body, err := p.bodyUntil("endfilter")
	return &filterStmt{e, body, line}, err
}

func (p *parser) withStmt(line int) (stmt, error) {
	s := &withStmt{line: line}
	for p.cur().kind != tBlockEnd {
		if len(s.targets) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		name, err := p.expectKind(tName)
		if err != nil {
			return nil, err
		}
		if err := p.expectOp("="); err != nil {
			return nil, err
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		s.targets, s.values = append(s.targets, name.text), append(s.values, e)
	}
	var err error
	s.body, err = p.bodyUntil("endwith")
	return s, err
}

// signature reads the parameters of a macro or call block.
func (p *parser) signature(m *macroNode) error {
	if err := p.expectOp("("); err != nil {
		return err
	}
	for !p.skipOp(")") {
		if len(m.params) > 0 {
			if err := p.expectOp(","); err != nil {
				return err
			}
		}
		name, err := p.expectKind(tName)
		if err != nil {
			return err
		}
		var def expr
		if p.skipOp("=") {
			if def, err = p.expression(); err != nil {
				return err
			}
		} else if len(m.defaults) > 0 && m.defaults[len(m.defaults)-1] != nil {
			return p.fail("parameter %q without a default follows one with a default", name.text)
		}
		m.params, m.defaults = append(m.params, name.text), append(m.defaults, def)
	}
	return nil
}

// macroBody reads the body of a macro or call block and notes what it uses of its call.
func (p *parser) macroBody(m *macroNode, end string) error {
	p.macros = append(p.macros, m)
	var err error
	m.body, err = p.bodyUntil(end)
	p.macros = p.macros[:len(p.macros)-1]
	return err
}

func (p *parser) macroStmt(line int) (stmt, error) {
	name, err := p.expectKind(tName)
	if err != nil {
		return nil, err
	}
	m := &macroNode{name: name.text}
	if err := p.signature(m); err != nil {
		return nil, err
	}
	return &macroStmt{m, line}, p.macroBody(m, "endmacro")
}

func (p *parser) callStmt(line int) (stmt, error) {
	m := &macroNode{name: "caller"}
	if p.isOp("(") {
		if err := p.signature(m); err != nil {
			return nil, err
		}
	}
	e, err := p.expression()
	if err != nil {
		return nil, err
	}
	call, ok := e.(*callExpr)
	if !ok {
		return nil, p.fail("call block without a call")
	}
	return &callStmt{m, call, line}, p.macroBody(m, "endcall")
}

// target reads what is assigned to: a name, the attribute of a namespace, or a tuple of such.
func (p *parser) target() (target, error) {
	var t target
	for {
		if p.skipOp("(") {
			var inner target
			err := p.nested(func() (err error) {
				inner, err = p.target()
				return err
			})
			if err != nil {
				return t, err
			}
			if err := p.expectOp(")"); err != nil {
				return t, err
			}
			t.parts = append(t.parts, inner)
		} else {
			name, err := p.expectKind(tName)
			if err != nil {
				return t, err
			}
			if reserved(name.text) {
				return t, p.fail("cannot assign to %q", name.text)
			}
			one := target{name: name.text}
			if p.skipOp(".") {
				attr, err := p.expectKind(tName)
				if err != nil {
					return t, err
				}
				one.attr = attr.text
			}
			t.parts = append(t.parts, one)
		}
		if !p.skipOp(",") {
			if len(t.parts) == 1 && !t.tuple {
				return t.parts[0], nil
			}
			return t, nil
		}
		t.tuple = true
		if p.isName("in") || p.isOp("=") || p.isOp(")") {
			return t, nil
		}
	}
}
