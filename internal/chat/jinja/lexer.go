package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type kind uint8

const (
	tEOF kind = iota
	tData
	tVarBegin
	tVarEnd
	tBlockBegin
	tBlockEnd
	tName
	tString
	tNumber
	tOp
)

func (k kind) String() string {
	return [...]string{"end of template", "text", "{{", "}}", "{%", "%}", "name", "string", "number", "operator"}[k]
}

// A token carries its text: of data, a name, an operator, or a string with its escapes undone. Numbers carry their value.
type token struct {
	kind  kind
	text  string
	value Value
	line  int
}

func (t token) String() string {
	switch t.kind {
	case tName, tOp:
		return strconv.Quote(t.text)
	case tString:
		return "string " + strconv.Quote(t.text)
	}
	return t.kind.String()
}

// A lexer cuts a template into tokens and applies the rules for white space: trim_blocks, lstrip_blocks, and the - and + marks of tags.
type lexer struct {
	src  string
	pos  int
	line int
	toks []token

	lineStart bool // the last match ended with a newline, or nothing was matched yet
}

func lex(source string) ([]token, error) {
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	source = strings.TrimSuffix(source, "\n")
	l := &lexer{src: source, line: 1, lineStart: true}
	for l.pos < len(l.src) {
		if err := l.root(); err != nil {
			return nil, err
		}
	}
	l.emit(tEOF, "")
	return l.toks, nil
}

func (l *lexer) fail(format string, args ...any) error {
	return &Error{Line: l.line, Err: fmt.Errorf(format, args...)}
}

func (l *lexer) emit(k kind, text string) {
	l.toks = append(l.toks, token{kind: k, text: text, line: l.line})
}

// advance moves on by n bytes.
func (l *lexer) advance(n int) {
	if n > 0 {
		l.line += strings.Count(l.src[l.pos:l.pos+n], "\n")
		l.lineStart = l.src[l.pos+n-1] == '\n'
		l.pos += n
	}
}

// spaces returns the length of the white space at the start of s.
func spaces(s string) int { return len(s) - len(strings.TrimLeftFunc(s, isSpace)) }

// isSpace is Python's str.isspace, one character at a time.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// text emits what stands before a tag that begins with the given mark.
func (l *lexer) text(text string, mark byte, variable bool) {
	line := l.line
	switch {
	case mark == '-':
		text = strings.TrimRightFunc(text, isSpace)
	case mark != '+' && !variable:
		start := strings.LastIndexByte(text, '\n') + 1
		if (start > 0 || l.lineStart) && strings.TrimLeftFunc(text[start:], isSpace) == "" {
			text = text[:start]
		}
	}
	if text != "" {
		l.toks = append(l.toks, token{kind: tData, text: text, line: line})
	}
}

// root reads text up to the next tag, and the tag.
func (l *lexer) root() error {
	rest := l.src[l.pos:]
	at := 0
	for {
		i := strings.IndexByte(rest[at:], '{')
		if i < 0 || at+i+1 >= len(rest) {
			l.emit(tData, rest)
			l.advance(len(rest))
			return nil
		}
		at += i
		if c := rest[at+1]; c == '{' || c == '%' || c == '#' {
			break
		}
		at++
	}
	mark, open := byte(0), 2
	if at+2 < len(rest) && (rest[at+2] == '-' || rest[at+2] == '+') {
		mark, open = rest[at+2], 3
	}
	l.text(rest[:at], mark, rest[at+1] == '{')
	l.advance(at + open)
	switch rest[at+1] {
	case '#':
		return l.comment()
	case '{':
		l.emit(tVarBegin, "")
		return l.tag(tVarEnd, "}}")
	}
	if n, ok := l.word("raw"); ok && strings.HasPrefix(l.src[l.pos+n:], "-%}") {
		l.advance(n + 3)
		l.advance(spaces(l.src[l.pos:]))
		return l.raw()
	} else if ok && strings.HasPrefix(l.src[l.pos+n:], "%}") {
		l.advance(n + 2)
		return l.raw()
	}
	l.emit(tBlockBegin, "")
	return l.tag(tBlockEnd, "%}")
}

// word looks for a word between optional spaces and returns the length of all three.
func (l *lexer) word(w string) (int, bool) {
	rest := l.src[l.pos:]
	n := spaces(rest)
	if !strings.HasPrefix(rest[n:], w) {
		return 0, false
	}
	n += len(w)
	return n + spaces(rest[n:]), true
}

// closing returns the length of the end of a tag at the current position, with the white space that it takes along; 0 if there is none.
func (l *lexer) closing(end string, trim bool) int {
	rest := l.src[l.pos:]
	if strings.HasPrefix(rest, "-"+end) {
		return 1 + len(end) + spaces(rest[1+len(end):])
	}
	if strings.HasPrefix(rest, end) {
		if trim && strings.HasPrefix(rest[len(end):], "\n") {
			return len(end) + 1
		}
		return len(end)
	}
	if trim && strings.HasPrefix(rest, "+"+end) {
		return 1 + len(end)
	}
	return 0
}

func (l *lexer) comment() error {
	end := strings.Index(l.src[l.pos:], "#}")
	if end < 0 {
		return l.fail("comment without end")
	}
	if end > 0 && strings.IndexByte("+-", l.src[l.pos+end-1]) >= 0 {
		end--
	}
	l.advance(end)
	l.advance(l.closing("#}", true))
	return nil
}

// raw reads up to endraw.
func (l *lexer) raw() error {
	for at := l.pos; ; at += 2 {
		i := strings.Index(l.src[at:], "{%")
		if i < 0 {
			return l.fail("raw without endraw")
		}
		at += i
		mark, open := byte(0), 2
		if at+2 < len(l.src) && (l.src[at+2] == '-' || l.src[at+2] == '+') {
			mark, open = l.src[at+2], 3
		}
		probe := lexer{src: l.src, pos: at + open}
		n, ok := probe.word("endraw")
		if !ok {
			continue
		}
		probe.pos += n
		end := probe.closing("%}", true)
		if end == 0 {
			continue
		}
		l.text(l.src[l.pos:at], mark, false)
		l.advance(probe.pos + end - l.pos)
		return nil
	}
}

// tag reads the tokens of a tag up to its end, which counts only outside of brackets.
func (l *lexer) tag(endKind kind, end string) error {
	var open []byte
	for {
		if l.pos >= len(l.src) {
			return l.fail("tag without %q", end)
		}
		if len(open) == 0 {
			if n := l.closing(end, endKind == tBlockEnd); n > 0 {
				l.emit(endKind, "")
				l.advance(n)
				return nil
			}
		}
		rest := l.src[l.pos:]
		if n := spaces(rest); n > 0 {
			l.advance(n)
			continue
		}
		c := rest[0]
		switch {
		case c >= '0' && c <= '9' || c == '.' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9' && !l.afterOperand():
			if err := l.number(); err != nil {
				return err
			}
			continue
		case c == '\'' || c == '"':
			if err := l.string(c); err != nil {
				return err
			}
			continue
		}
		if n := nameLength(rest); n > 0 {
			l.emit(tName, rest[:n])
			l.advance(n)
			continue
		}
		op := operator(rest)
		switch op {
		case "":
			r, _ := utf8.DecodeRuneInString(rest)
			return l.fail("unexpected character %q", r)
		case "(", "[", "{":
			open = append(open, op[0])
		case ")", "]", "}":
			if len(open) == 0 || strings.IndexByte("([{", open[len(open)-1]) != strings.IndexByte(")]}", op[0]) {
				return l.fail("unexpected %q", op)
			}
			open = open[:len(open)-1]
		}
		l.emit(tOp, op)
		l.advance(len(op))
	}
}

// afterOperand reports whether a dot here would be an attribute access, not the start of a number.
func (l *lexer) afterOperand() bool {
	t := l.toks[len(l.toks)-1]
	return t.kind == tName || t.kind == tString || t.kind == tNumber || t.kind == tOp && strings.Contains(")]}", t.text)
}

func operator(s string) string {
	if len(s) >= 2 {
		switch s[:2] {
		case "//", "**", "==", "!=", ">=", "<=":
			return s[:2]
		}
	}
	if strings.IndexByte("+-/*%~[](){}><=.:|,;", s[0]) >= 0 {
		return s[:1]
	}
	return ""
}

func nameLength(s string) int {
	for i, r := range s {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r) && !unicode.IsMark(r)) {
			return i
		}
	}
	return len(s)
}

// number reads an integer or a float.
func (l *lexer) number() error {
	rest := l.src[l.pos:]
	n, float := 0, false
	digits := func() {
		for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '_' && n > 0 && n+1 < len(rest) && rest[n+1] >= '0' && rest[n+1] <= '9') {
			n++
		}
	}
	if len(rest) > 2 && rest[0] == '0' && strings.IndexByte("xXoObB", rest[1]) >= 0 {
		for n = 2; n < len(rest) && (rest[n] == '_' || strings.IndexByte("0123456789abcdefABCDEF", rest[n]) >= 0); {
			n++
		}
	} else {
		// The dot of foo.0.bar belongs to the next attribute, not to the number.
		attribute := len(l.toks) > 0 && l.toks[len(l.toks)-1].kind == tOp && l.toks[len(l.toks)-1].text == "."
		digits()
		if !attribute && n+1 < len(rest) && rest[n] == '.' && rest[n+1] >= '0' && rest[n+1] <= '9' {
			float = true
			n++
			digits()
		}
		if n < len(rest) && (rest[n] == 'e' || rest[n] == 'E') && !attribute {
			m := n + 1
			if m < len(rest) && (rest[m] == '+' || rest[m] == '-') {
				m++
			}
			if m < len(rest) && rest[m] >= '0' && rest[m] <= '9' {
				float = true
				n = m
				digits()
			}
		}
	}
	t := token{kind: tNumber, text: rest[:n], line: l.line}
	if float {
		f, err := strconv.ParseFloat(strings.ReplaceAll(rest[:n], "_", ""), 64)
		if err != nil && !math.IsInf(f, 0) {
			return l.fail("number %q: %v", rest[:n], err)
		}
		t.value = f
	} else {
		i, err := strconv.ParseInt(rest[:n], 0, 64)
		if err != nil || n > 1 && rest[0] == '0' && rest[1] >= '0' && rest[1] <= '9' && i != 0 {
			return l.fail("integer %q: expected one of 64 bits", rest[:n])
		}
		t.value = i
	}
	l.toks = append(l.toks, t)
	l.advance(n)
	return nil
}

// string reads a quoted string and undoes its escapes as Python does.
func (l *lexer) string(quote byte) error {
	rest := l.src[l.pos:]
	var b strings.Builder
	for i := 1; i < len(rest); {
		switch c := rest[i]; c {
		case quote:
			l.emit(tString, b.String())
			l.advance(i + 1)
			return nil
		case '\\':
			if i+1 >= len(rest) {
				return l.fail("string without end")
			}
			n, err := unescape(&b, rest[i+1:])
			if err != nil {
				return l.fail("string: %v", err)
			}
			i += 1 + n
		default:
			b.WriteByte(c)
			i++
		}
	}
	return l.fail("string without end")
}

// unescape writes what the escape at the start of s (behind its backslash) stands for, and returns its length.
func unescape(b *strings.Builder, s string) (int, error) {
	switch c := s[0]; c {
	case '\n':
		return 1, nil
	case '\\', '\'', '"':
		b.WriteByte(c)
		return 1, nil
	case 'a', 'b', 'f', 'n', 'r', 't', 'v':
		b.WriteByte("\a\b\f\n\r\t\v"[strings.IndexByte("abfnrtv", c)])
		return 1, nil
	case 'x', 'u', 'U':
		n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
		if len(s) < 1+n {
			return 0, fmt.Errorf("escape \\%c: expected %d hexadecimal digits", c, n)
		}
		r, err := strconv.ParseUint(s[1:1+n], 16, 32)
		if err != nil || r > unicode.MaxRune {
			return 0, fmt.Errorf("escape \\%s: expected %d hexadecimal digits of a character", s[:1+n], n)
		}
		b.WriteRune(rune(r))
		return 1 + n, nil
	case 'N':
		return 0, fmt.Errorf("escape \\N: characters by name are not supported")
	default:
		n := 0
		for n < 3 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
			n++
		}
		if n == 0 {
			b.WriteByte('\\') // an unknown escape stands for itself
			return 0, nil
		}
		r, err := strconv.ParseUint(s[:n], 8, 32)
		b.WriteRune(rune(r))
		return n, err
	}
}
