package jinja

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// text makes a filter of a function on strings; other values are printed first. The result counts as made anew.
func text(f func(s string) string) *builtin {
	return &builtin{"", func(m *machine, v Value, _ []Value) (Value, error) {
		s, err := m.str(v)
		if err != nil {
			return nil, err
		}
		// Changing case may lengthen a character to three bytes at most.
		if err := m.grow(3 * len(s)); err != nil {
			return nil, err
		}
		return f(s), nil
	}}
}

func makeFilters() map[string]*builtin {
	f := map[string]*builtin{
		// On strings.
		"upper":      text(strings.ToUpper),
		"lower":      text(strings.ToLower),
		"capitalize": text(capitalize),
		"title":      text(title),
		"string":     text(func(s string) string { return s }),
		"safe":       text(func(s string) string { return s }),
		"trim":       {"| chars", trimFilter},
		"replace":    {"old new | count", replaceFilter},
		"indent":     {"| width first blank", indentFilter},
		"center":     {"| width", centerFilter},
		"format":     {"*", formatFilter},
		"truncate":   {"| length killwords end leeway", truncateFilter},
		"escape":     {"", escapeFilter},
		"e":          {"", escapeFilter},
		"wordcount":  {"", wordcountFilter},
		"urlencode":  {"", urlencodeFilter},
		"tojson":     {"| ensure_ascii indent separators sort_keys", tojsonFilter},
		"from_json":  {"", fromJSONFilter},
		// On numbers.
		"int":   {"| default base", intFilter},
		"float": {"| default", floatFilter},
		"abs":   {"", absFilter},
		"round": {"| precision method", roundFilter},
		// On anything.
		"default": {"| default_value boolean", defaultFilter},
		"d":       {"| default_value boolean", defaultFilter},
		"attr":    {"name", attrFilter},
	}
	addSequenceFilters(f)
	return f
}

func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return strings.ToUpper(s[:n]) + strings.ToLower(s[n:])
}

// title raises the first letter of each word; words begin behind spaces, hyphens and opening brackets.
func title(s string) string {
	start := true
	return strings.Map(func(r rune) rune {
		defer func() { start = isSpace(r) || strings.ContainsRune("-([{<", r) }()
		if start {
			return unicode.ToTitle(r)
		}
		return unicode.ToLower(r)
	}, s)
}

func trimFilter(m *machine, v Value, a []Value) (Value, error) {
	s, err := m.str(v)
	if err != nil {
		return nil, err
	}
	return strip(m, s, a[0], true, true)
}

// strip removes white space, or the characters of chars, from the ends of a string.
func strip(m *machine, s string, chars Value, left, right bool) (Value, error) {
	in := isSpace
	if chars != nil && chars != None {
		set, ok := chars.(string)
		if !ok {
			return nil, fmt.Errorf("strip takes a string, not '%s'", typeName(chars))
		}
		// Each character is looked for in the set.
		if err := m.spend(len(s) * (1 + len(set)/64) / 16); err != nil {
			return nil, err
		}
		in = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, in)
	}
	if right {
		s = strings.TrimRightFunc(s, in)
	}
	return s, m.scan(len(s))
}

func replaceFilter(m *machine, v Value, a []Value) (Value, error) {
	var s [3]string
	for i, x := range []Value{v, a[0], a[1]} {
		var err error
		if s[i], err = m.str(x); err != nil {
			return nil, err
		}
	}
	return replace(m, s[0], s[1], s[2], a[2])
}

// replace is Python's str.replace; a count that is nil or None replaces all.
func replace(m *machine, s, old, new string, count Value) (Value, error) {
	n := strings.Count(s, old)
	if count != nil && count != None {
		limit, ok := asInt(count)
		if !ok {
			return nil, fmt.Errorf("replace takes an integer as count, not '%s'", typeName(count))
		}
		if limit >= 0 {
			n = int(min(int64(n), limit))
		}
	}
	size := int64(len(s)) + int64(n)*(int64(len(new))-int64(len(old)))
	if err := m.grow(int(min(size, math.MaxInt32*64))); err != nil {
		return nil, err
	}
	return strings.Replace(s, old, new, n), m.scan(len(s))
}

// splitLines is Python's str.splitlines: it knows ten line ends, and a last line may lack one.
func splitLines(s string) []string {
	var lines []string
	for s != "" {
		end := strings.IndexFunc(s, func(r rune) bool {
			return r >= '\n' && r <= '\r' || r >= 0x1c && r <= 0x1e || r == 0x85 || r == 0x2028 || r == 0x2029
		})
		if end < 0 {
			return append(lines, s)
		}
		_, n := utf8.DecodeRuneInString(s[end:])
		if strings.HasPrefix(s[end:], "\r\n") {
			n = 2
		}
		lines = append(lines, s[:end])
		s = s[end+n:]
	}
	return lines
}

func indentFilter(m *machine, v Value, a []Value) (Value, error) {
	s, err := m.str(v)
	if err != nil {
		return nil, err
	}
	indent, ok := a[0].(string)
	if !ok {
		width := int64(4)
		if a[0] != nil {
			if width, ok = asInt(a[0]); !ok {
				return nil, fmt.Errorf("width of type '%s', expected an integer or a string", typeName(a[0]))
			}
		}
		pad, err := m.repeat(" ", width)
		if err != nil {
			return nil, err
		}
		indent = pad.(string)
	}
	// Going through the lines costs like a list of them.
	lines := splitLines(s + "\n")
	if err := m.grow(len(s) + len(lines)*valueSize); err != nil {
		return nil, err
	}
	b := &builder{m: m}
	first, blank := truth(orNone(a[1])), truth(orNone(a[2]))
	for i, line := range lines {
		if i > 0 {
			b.write("\n")
		}
		if i == 0 && first || i > 0 && (blank || line != "") {
			b.write(indent)
		}
		b.write(line)
	}
	return b.String()
}

// orNone gives an argument that was left out a value.
func orNone(v Value) Value {
	if v == nil {
		return None
	}
	return v
}

// orInt returns an integer argument, or def if it was left out.
func orInt(v Value, def int64) (int64, error) {
	if v == nil {
		return def, nil
	}
	i, ok := asInt(v)
	if !ok {
		return 0, fmt.Errorf("found '%s', expected an integer", typeName(v))
	}
	return i, nil
}

func centerFilter(m *machine, v Value, a []Value) (Value, error) {
	s, err := m.str(v)
	if err != nil {
		return nil, err
	}
	width, err := orInt(a[0], 80)
	if err != nil {
		return nil, err
	}
	pad := max(0, width-int64(utf8.RuneCountInString(s)))
	left := pad/2 + pad&width&1
	before, err := m.repeat(" ", left)
	if err != nil {
		return nil, err
	}
	after, err := m.repeat(" ", pad-left)
	if err != nil {
		return nil, err
	}
	return before.(string) + s + after.(string), m.grow(len(s))
}

func formatFilter(m *machine, v Value, a []Value) (Value, error) {
	s, err := m.str(v)
	if err != nil {
		return nil, err
	}
	return m.percent(s, &List{Items: a, tuple: true})
}

func truncateFilter(m *machine, v Value, a []Value) (Value, error) {
	s, err := m.str(v)
	if err != nil {
		return nil, err
	}
	length, err := orInt(a[0], 255)
	if err != nil {
		return nil, err
	}
	leeway, err := orInt(a[3], 5)
	if err != nil {
		return nil, err
	}
	end := "..."
	if a[2] != nil {
		if end, err = m.str(a[2]); err != nil {
			return nil, err
		}
	}
	if err := m.grow(4 * len(s)); err != nil {
		return nil, err
	}
	runes := []rune(s)
	keep := length - int64(utf8.RuneCountInString(end))
	if keep < 0 || leeway < 0 {
		return nil, fmt.Errorf("length %d and leeway %d, expected at least %d and 0", length, leeway, utf8.RuneCountInString(end))
	}
	if int64(len(runes))-leeway <= length {
		return s, nil
	}
	cut := string(runes[:keep])
	if !truth(orNone(a[1])) {
		if at := strings.LastIndexByte(cut, ' '); at >= 0 {
			cut = cut[:at]
		}
	}
	return cut + end, m.grow(len(cut) + len(end))
}

func escapeFilter(m *machine, v Value, _ []Value) (Value, error) {
	s, err := m.str(v)
	if err != nil {
		return nil, err
	}
	// No character becomes longer than five bytes.
	return html.EscapeString(s), m.grow(5 * len(s))
}

func wordcountFilter(m *machine, v Value, _ []Value) (Value, error) {
	s, err := m.str(v)
	if err != nil {
		return nil, err
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	return int64(len(words)), m.grow(len(s) + len(words)*16)
}

func urlencodeFilter(m *machine, v Value, _ []Value) (Value, error) {
	s, err := m.str(v)
	if err != nil {
		return nil, err
	}
	b := &builder{m: m}
	for i := 0; i < len(s) && b.err == nil; i++ {
		if c := s[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_.-~/", c) >= 0 {
			b.write(s[i : i+1])
		} else {
			b.write(fmt.Sprintf("%%%02X", c))
		}
	}
	return b.String()
}

func intFilter(m *machine, v Value, a []Value) (Value, error) {
	def := a[0]
	if def == nil {
		def = int64(0)
	}
	base, err := orInt(a[1], 10)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case string:
		if err := m.scan(len(v)); err != nil {
			return nil, err
		}
		s := strings.TrimFunc(v, isSpace)
		if base == 0 || base >= 2 && base <= 36 {
			if i, err := strconv.ParseInt(unprefixed(s, base), int(base), 64); err == nil {
				return i, nil
			}
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			if i, ok := exactInt(math.Trunc(f)); ok {
				return i, nil
			}
		}
		return def, nil
	case float64:
		if i, ok := exactInt(math.Trunc(v)); ok {
			return i, nil
		}
		return def, nil
	}
	if i, ok := asInt(v); ok {
		return i, nil
	}
	return def, defined(v)
}

// unprefixed takes away the prefix that Python allows before digits of these bases, behind an optional sign.
func unprefixed(s string, base int64) string {
	prefix := map[int64]string{2: "0b", 8: "0o", 16: "0x"}[base]
	sign := ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[:1], s[1:]
	}
	if prefix != "" && len(s) >= 2 && strings.EqualFold(s[:2], prefix) {
		s = s[2:]
	}
	return sign + s
}

func floatFilter(m *machine, v Value, a []Value) (Value, error) {
	if s, ok := v.(string); ok {
		if f, err := strconv.ParseFloat(strings.TrimFunc(s, isSpace), 64); err == nil {
			return f, m.scan(len(s))
		}
	}
	if f, ok := asFloat(v); ok {
		return f, nil
	}
	if err := defined(v); err != nil {
		return nil, err
	}
	if a[0] != nil {
		return a[0], nil
	}
	return 0.0, nil
}

func absFilter(_ *machine, v Value, _ []Value) (Value, error) {
	if i, ok := asInt(v); ok {
		return max(i, -i), nil
	}
	if f, ok := v.(float64); ok {
		return math.Abs(f), nil
	}
	return nil, fmt.Errorf("bad operand type: '%s'", typeName(v))
}

func roundFilter(m *machine, v Value, a []Value) (Value, error) {
	f, ok := asFloat(v)
	if !ok {
		return nil, fmt.Errorf("found '%s', expected a number", typeName(v))
	}
	digits, err := orInt(a[0], 0)
	if err != nil {
		return nil, err
	}
	method := "common"
	if a[1] != nil {
		if method, err = m.str(a[1]); err != nil {
			return nil, err
		}
	}
	digits = min(max(digits, -400), 400)
	_, isInt := asInt(v)
	if isInt && method == "common" && digits >= 0 {
		return v, nil
	}
	scale := math.Pow(10, float64(digits))
	switch method {
	case "common":
		if digits < 0 {
			f = math.RoundToEven(f*scale) / scale
			if i, ok := exactInt(f); ok && isInt {
				return i, nil
			}
			return f, nil
		}
		// Decimal digits of the exact binary value, halves to even: what Python does.
		return strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(digits), 64), 64)
	case "ceil":
		return math.Ceil(f*scale) / scale, nil
	case "floor":
		return math.Floor(f*scale) / scale, nil
	}
	return nil, fmt.Errorf("method %q, expected common, ceil or floor", method)
}

func defaultFilter(_ *machine, v Value, a []Value) (Value, error) {
	_, missing := v.(undefined)
	if missing || truth(orNone(a[1])) && !truth(v) {
		if a[0] == nil {
			return "", nil
		}
		return a[0], nil
	}
	return v, nil
}

func attrFilter(m *machine, v Value, a []Value) (Value, error) {
	name, err := m.str(a[0])
	if err != nil {
		return nil, err
	}
	if _, ok := v.(*Dict); ok && dictMethods[name] == nil {
		return missing(v, name), nil // attr does not look at entries
	}
	return m.attr(v, name)
}
