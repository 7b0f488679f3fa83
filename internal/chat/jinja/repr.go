package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// formatFloat is Python's repr of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16.
func formatFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// str is Python's str: what {{ v }} prints.
func (m *machine) str(v Value) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case undefined:
		return "", nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	}
	return m.repr(v)
}

// repr is Python's repr.
func (m *machine) repr(v Value) (string, error) {
	b := &builder{m: m}
	b.repr(v)
	return b.String()
}

// A builder makes a string on the machine's account. After an error it does nothing more.
type builder struct {
	m   *machine
	buf []byte
	err error
}

func (b *builder) write(s string) {
	if b.err == nil {
		if b.err = b.m.grow(len(s)); b.err == nil {
			b.buf = append(b.buf, s...)
		}
	}
}

func (b *builder) String() (string, error) {
	if b.err != nil {
		return "", b.err
	}
	return string(b.buf), nil
}

// nest runs f one level deeper.
func (b *builder) nest(f func()) {
	if b.err != nil {
		return
	}
	if b.err = b.m.enter(); b.err == nil {
		f()
	}
	b.m.leave()
}

func (b *builder) repr(v Value) {
	b.nest(func() {
		switch v := v.(type) {
		case none:
			b.write("None")
		case undefined:
			b.write("Undefined")
		case bool:
			b.write(map[bool]string{true: "True", false: "False"}[v])
		case int64:
			b.write(strconv.FormatInt(v, 10))
		case float64:
			b.write(formatFloat(v))
		case string:
			b.quote(v)
		case *List:
			opening, closing := "[", "]"
			if v.tuple {
				opening, closing = "(", ")"
				if len(v.Items) == 1 {
					closing = ",)"
				}
			}
			b.write(opening)
			for i, item := range v.Items {
				if i > 0 {
					b.write(", ")
				}
				if b.repr(item); b.err != nil {
					return
				}
			}
			b.write(closing)
		case *Dict:
			b.write("{")
			for i := range v.keys {
				if i > 0 {
					b.write(", ")
				}
				b.repr(v.keys[i])
				b.write(": ")
				if b.repr(v.vals[i]); b.err != nil {
					return
				}
			}
			b.write("}")
		case *namespace:
			b.write("<Namespace ")
			b.repr(v.vars)
			b.write(">")
		default:
			b.write("<" + typeName(v) + ">")
		}
	})
}

// quote writes a string as Python's repr does.
func (b *builder) quote(s string) {
	quote := "'"
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = `"`
	}
	b.write(quote)
	start := 0
	for i, r := range s {
		var esc string
		switch {
		case r == '\\' || string(r) == quote:
			esc = `\` + string(r)
		case r == '\n':
			esc = `\n`
		case r == '\r':
			esc = `\r`
		case r == '\t':
			esc = `\t`
		case unicode.IsPrint(r):
			continue
		case r < 0x100:
			esc = fmt.Sprintf(`\x%02x`, r)
		case r < 0x10000:
			esc = fmt.Sprintf(`\u%04x`, r)
		default:
			esc = fmt.Sprintf(`\U%08x`, r)
		}
		b.write(s[start:i])
		b.write(esc)
		if b.err != nil {
			return
		}
		start = i + max(1, utf8.RuneLen(r))
		if r == utf8.RuneError {
			_, n := utf8.DecodeRuneInString(s[i:])
			start = i + n
		}
	}
	b.write(s[start:])
	b.write(quote)
}
