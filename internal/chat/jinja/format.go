package jinja

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxField bounds the width and precision of a formatted field.
const maxField = 1000

// percent is Python's format % values.
func (m *machine) percent(format string, values Value) (Value, error) {
	items := []Value{values}
	if l, ok := values.(*List); ok && l.tuple {
		items = l.Items
	}
	b := &builder{m: m}
	used := 0
	for format != "" && b.err == nil {
		i := strings.IndexByte(format, '%')
		if i < 0 {
			b.write(format)
			break
		}
		b.write(format[:i])
		spec, n, err := parseSpec(format[i+1:])
		if err != nil {
			return nil, err
		}
		format = format[i+1+n:]
		if spec.verb == '%' {
			b.write("%")
			continue
		}
		var v Value
		if spec.key != "" {
			d, ok := values.(*Dict)
			if !ok {
				return nil, errors.New("format requires a mapping")
			}
			if v, ok = d.Get(spec.key); !ok {
				return nil, fmt.Errorf("format: no key %q", spec.key)
			}
			used = len(items)
		} else {
			if used >= len(items) {
				return nil, errors.New("not enough arguments for format string")
			}
			v = items[used]
			used++
		}
		text, err := m.field(spec, v)
		if err != nil {
			return nil, err
		}
		b.write(text)
	}
	if _, isDict := values.(*Dict); used < len(items) && !isDict && b.err == nil {
		return nil, errors.New("not all arguments converted during string formatting")
	}
	return b.String()
}

// A spec is one directive of a format string.
type spec struct {
	key       string // of %(key)s
	flags     string
	width     int
	precision int // -1 if none
	verb      byte
}

// parseSpec reads a directive behind its percent sign and returns its length.
func parseSpec(s string) (spec, int, error) {
	sp := spec{precision: -1}
	i := 0
	if strings.HasPrefix(s, "(") {
		end := strings.IndexByte(s, ')')
		if end < 0 {
			return sp, 0, errors.New("incomplete format key")
		}
		sp.key, i = s[1:end], end+1
	}
	start := i
	for i < len(s) && strings.IndexByte("-+ 0#", s[i]) >= 0 {
		i++
	}
	sp.flags = s[start:i]
	number := func() int {
		n := 0
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			n = min(n*10+int(s[i]-'0'), maxField+1)
			i++
		}
		return n
	}
	sp.width = number()
	if i < len(s) && s[i] == '.' {
		i++
		sp.precision = number()
	}
	if sp.width > maxField || sp.precision > maxField {
		return sp, 0, fmt.Errorf("%w: format field wider than %d", ErrLimit, maxField)
	}
	if i >= len(s) {
		return sp, 0, errors.New("incomplete format")
	}
	sp.verb = s[i]
	return sp, i + 1, nil
}

// field formats one value.
func (m *machine) field(sp spec, v Value) (text string, err error) {
	switch sp.verb {
	case 's', 'r':
		if text, err = m.str(v); sp.verb == 'r' {
			text, err = m.repr(v)
		}
		if err != nil {
			return "", err
		}
		if sp.precision >= 0 {
			text = firstRunes(text, sp.precision)
		}
		sp.flags = strings.ReplaceAll(sp.flags, "0", "")
	case 'd', 'i', 'u', 'x', 'X', 'o', 'c':
		i, ok := asInt(v)
		if f, isFloat := v.(float64); isFloat && strings.IndexByte("diu", sp.verb) >= 0 {
			i, ok = exactInt(math.Trunc(f))
		}
		if !ok {
			return "", fmt.Errorf("%%%c format: a number is required, not '%s'", sp.verb, typeName(v))
		}
		switch sp.verb {
		case 'x':
			text = strconv.FormatInt(i, 16)
		case 'X':
			text = strings.ToUpper(strconv.FormatInt(i, 16))
		case 'o':
			text = strconv.FormatInt(i, 8)
		case 'c':
			if i < 0 || i > utf8.MaxRune {
				return "", fmt.Errorf("%%c format: %d is no character", i)
			}
			text = string(rune(i))
		default:
			text = strconv.FormatInt(i, 10)
		}
	case 'f', 'F', 'e', 'E', 'g', 'G':
		f, ok := asFloat(v)
		if !ok {
			return "", fmt.Errorf("%%%c format: must be a number, not '%s'", sp.verb, typeName(v))
		}
		precision := sp.precision
		if precision < 0 {
			precision = 6
		}
		text = fmt.Sprintf("%.*"+string(sp.verb), precision, f)
	default:
		return "", fmt.Errorf("unsupported format character %q", sp.verb)
	}
	return pad(text, sp), nil
}

// pad applies a directive's sign and width.
func pad(text string, sp spec) string {
	sign := ""
	if strings.IndexByte("sr", sp.verb) < 0 {
		switch {
		case strings.HasPrefix(text, "-"):
			sign, text = "-", text[1:]
		case strings.Contains(sp.flags, "+"):
			sign = "+"
		case strings.Contains(sp.flags, " "):
			sign = " "
		}
	}
	fill := strings.Repeat(" ", max(0, sp.width-utf8.RuneCountInString(text)-len(sign)))
	switch {
	case strings.Contains(sp.flags, "-"):
		return sign + text + fill
	case strings.Contains(sp.flags, "0"):
		return sign + strings.ReplaceAll(fill, " ", "0") + text
	}
	return fill + sign + text
}

func firstRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// braces is Python's format.format(values...) with fields {}, {0} and {name}; fields with attributes or format specifications are an error.
func braces(m *machine, format string, a *args) (Value, error) {
	b := &builder{m: m}
	next := 0
	for format != "" && b.err == nil {
		i := strings.IndexAny(format, "{}")
		if i < 0 {
			b.write(format)
			break
		}
		b.write(format[:i])
		rest := format[i+1:]
		if rest != "" && rest[0] == format[i] {
			b.write(rest[:1])
			format = rest[1:]
			continue
		}
		end := strings.IndexByte(rest, '}')
		if format[i] == '}' || end < 0 {
			return nil, errors.New("single brace in format string")
		}
		name := rest[:end]
		format = rest[end+1:]
		var v Value
		at, err := strconv.Atoi(name)
		switch {
		case name == "":
			at, err = next, nil
			next++
			fallthrough
		case err == nil:
			if at < 0 || at >= len(a.pos) {
				return nil, fmt.Errorf("format has no argument %d", at)
			}
			v = a.pos[at]
		default:
			var ok bool
			if v, ok = a.get(name); !ok {
				return nil, fmt.Errorf("format has no argument %q", name)
			}
		}
		s, err := m.str(v)
		if err != nil {
			return nil, err
		}
		b.write(s)
	}
	return b.String()
}
