package jinja

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The methods of strings, lists and dicts. Those that change a list or dict do so for everything that shares it, as in Python.
var (
	stringMethods map[string]*builtin
	listMethods   map[string]*builtin
	dictMethods   map[string]*builtin
)

func init() {
	stringMethods, listMethods, dictMethods = makeStringMethods(), makeListMethods(), makeDictMethods()
}

// str makes a method of a function of a string and of its arguments.
func str(params string, f func(m *machine, s string, a []Value) (Value, error)) *builtin {
	return &builtin{params, func(m *machine, v Value, a []Value) (Value, error) {
		s := v.(string)
		if err := m.scan(len(s)); err != nil {
			return nil, err
		}
		return f(m, s, a)
	}}
}

// all makes a method that reports whether a string is not empty and all its characters are of a kind.
func all(is func(rune) bool) *builtin {
	return str("", func(_ *machine, s string, _ []Value) (Value, error) {
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0, nil
	})
}

// search makes a method that returns where a string occurs, in characters.
func search(index func(s, sub string) int, fail bool) *builtin {
	return str("sub", func(m *machine, s string, a []Value) (Value, error) {
		sub, ok := a[0].(string)
		if !ok {
			return nil, fmt.Errorf("must be str, not '%s'", typeName(a[0]))
		}
		i := index(s, sub)
		if i < 0 {
			if fail {
				return nil, errors.New("substring not found")
			}
			return int64(-1), nil
		}
		return int64(utf8.RuneCountInString(s[:i])), nil
	})
}

// affix makes a method that tests for one affix or a tuple of them.
func affix(has func(s, affix string) bool) *builtin {
	return str("affix", func(m *machine, s string, a []Value) (Value, error) {
		options := []Value{a[0]}
		if l, ok := a[0].(*List); ok && l.tuple {
			options = l.Items
		}
		for _, o := range options {
			affix, ok := o.(string)
			if !ok {
				return nil, fmt.Errorf("expected a string or a tuple of strings, not '%s'", typeName(o))
			}
			if has(s, affix) {
				return true, nil
			}
		}
		return false, m.spend(len(options))
	})
}

func makeStringMethods() map[string]*builtin {
	trim := func(left, right bool) *builtin {
		return str("| chars", func(m *machine, s string, a []Value) (Value, error) { return strip(m, s, a[0], left, right) })
	}
	cut := func(f func(s, affix string) string) *builtin {
		return str("affix", func(m *machine, s string, a []Value) (Value, error) {
			affix, ok := a[0].(string)
			if !ok {
				return nil, fmt.Errorf("expected a string, not '%s'", typeName(a[0]))
			}
			return f(s, affix), nil
		})
	}
	justify := func(left bool) *builtin {
		return str("width | fillchar", func(m *machine, s string, a []Value) (Value, error) {
			width, err := orInt(a[0], 0)
			if err != nil {
				return nil, err
			}
			fill := " "
			if a[1] != nil {
				var ok bool
				if fill, ok = a[1].(string); !ok || utf8.RuneCountInString(fill) != 1 {
					return nil, errors.New("expected one character to fill with")
				}
			}
			padding, err := m.repeat(fill, width-int64(utf8.RuneCountInString(s)))
			if err != nil {
				return nil, err
			}
			if left {
				return s + padding.(string), m.grow(len(s))
			}
			return padding.(string) + s, m.grow(len(s))
		})
	}
	return map[string]*builtin{
		"upper":        text(strings.ToUpper),
		"lower":        text(strings.ToLower),
		"casefold":     text(strings.ToLower),
		"capitalize":   text(capitalize),
		"title":        text(titleWords),
		"strip":        trim(true, true),
		"lstrip":       trim(true, false),
		"rstrip":       trim(false, true),
		"removeprefix": cut(strings.TrimPrefix),
		"removesuffix": cut(strings.TrimSuffix),
		"ljust":        justify(true),
		"rjust":        justify(false),
		"startswith":   affix(strings.HasPrefix),
		"endswith":     affix(strings.HasSuffix),
		"find":         search(strings.Index, false),
		"rfind":        search(strings.LastIndex, false),
		"index":        search(strings.Index, true),
		"rindex":       search(strings.LastIndex, true),
		"isdigit":      all(unicode.IsDigit),
		"isnumeric":    all(unicode.IsNumber),
		"isalpha":      all(unicode.IsLetter),
		"isalnum":      all(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
		"isspace":      all(isSpace),
		"isupper":      str("", func(_ *machine, s string, _ []Value) (Value, error) { return isCased(s, strings.ToUpper(s)), nil }),
		"islower":      str("", func(_ *machine, s string, _ []Value) (Value, error) { return isCased(s, strings.ToLower(s)), nil }),
		"split":        str("| sep maxsplit", func(m *machine, s string, a []Value) (Value, error) { return split(m, s, a, false) }),
		"rsplit":       str("| sep maxsplit", func(m *machine, s string, a []Value) (Value, error) { return split(m, s, a, true) }),
		"splitlines":   str("| keepends", splitlinesMethod),
		"partition": str("sep", func(m *machine, s string, a []Value) (Value, error) {
			return partition(m, s, a[0], strings.Index, false)
		}),
		"rpartition": str("sep", func(m *machine, s string, a []Value) (Value, error) {
			return partition(m, s, a[0], strings.LastIndex, true)
		}),
		"replace": str("old new | count", func(m *machine, s string, a []Value) (Value, error) {
			old, ok1 := a[0].(string)
			new, ok2 := a[1].(string)
			if !ok1 || !ok2 {
				return nil, fmt.Errorf("expected strings, not '%s' and '%s'", typeName(a[0]), typeName(a[1]))
			}
			return replace(m, s, old, new, a[2])
		}),
		"join": str("iterable", func(m *machine, s string, a []Value) (Value, error) {
			items, err := m.items(a[0])
			if err != nil {
				return nil, err
			}
			for i, item := range items {
				if _, ok := item.(string); !ok {
					return nil, fmt.Errorf("sequence item %d: expected str, found '%s'", i, typeName(item))
				}
			}
			return joinFilter(m, a[0], []Value{s, nil})
		}),
		"count": str("sub", func(m *machine, s string, a []Value) (Value, error) {
			sub, ok := a[0].(string)
			if !ok {
				return nil, fmt.Errorf("must be str, not '%s'", typeName(a[0]))
			}
			return int64(strings.Count(s, sub)), nil
		}),
		"zfill": str("width", func(m *machine, s string, a []Value) (Value, error) {
			width, err := orInt(a[0], 0)
			if err != nil {
				return nil, err
			}
			zeros, err := m.repeat("0", width-int64(utf8.RuneCountInString(s)))
			if err != nil {
				return nil, err
			}
			if s != "" && (s[0] == '-' || s[0] == '+') {
				return s[:1] + zeros.(string) + s[1:], m.grow(len(s))
			}
			return zeros.(string) + s, m.grow(len(s))
		}),
	}
}

// isCased reports whether a string has letters with case, all of the case that converted has.
func isCased(s, converted string) bool {
	return s == converted && strings.ToUpper(s) != strings.ToLower(s)
}

// titleWords is Python's str.title: every run of letters is a word.
func titleWords(s string) string {
	inWord := false
	return strings.Map(func(r rune) rune {
		defer func() { inWord = unicode.IsLetter(r) }()
		if inWord {
			return unicode.ToLower(r)
		}
		return unicode.ToTitle(r)
	}, s)
}

// split is Python's str.split, and str.rsplit if fromEnd.
func split(m *machine, s string, a []Value, fromEnd bool) (Value, error) {
	limit, err := orInt(a[1], -1)
	if err != nil {
		return nil, err
	}
	if limit < 0 {
		limit = math.MaxInt
	}
	var parts []string
	if a[0] == nil || a[0] == None {
		parts = splitSpace(s, limit, fromEnd)
	} else {
		sep, ok := a[0].(string)
		if !ok || sep == "" {
			return nil, errors.New("separator: expected a string that is not empty")
		}
		parts = splitAt(s, sep, limit, fromEnd)
	}
	// At most one part a byte, so paying behind is soon enough.
	if err := m.grow(len(parts) * 2 * valueSize); err != nil {
		return nil, err
	}
	items := make([]Value, len(parts))
	for i, p := range parts {
		items[i] = p
	}
	return &List{Items: items}, nil
}

func splitAt(s, sep string, limit int64, fromEnd bool) []string {
	if !fromEnd {
		if limit >= int64(len(s))+1 {
			return strings.Split(s, sep)
		}
		return strings.SplitN(s, sep, int(limit)+1)
	}
	var parts []string
	for ; limit > 0; limit-- {
		i := strings.LastIndex(s, sep)
		if i < 0 {
			break
		}
		parts = append(parts, s[i+len(sep):])
		s = s[:i]
	}
	return reversed(append(parts, s))
}

// splitSpace splits at runs of white space; no part is empty.
func splitSpace(s string, limit int64, fromEnd bool) []string {
	var parts []string
	for {
		if fromEnd {
			s = strings.TrimRightFunc(s, isSpace)
		} else {
			s = strings.TrimLeftFunc(s, isSpace)
		}
		i := -1
		if fromEnd && limit > 0 {
			i = strings.LastIndexFunc(s, isSpace)
		} else if limit > 0 {
			i = strings.IndexFunc(s, isSpace)
		}
		switch {
		case s == "":
			return ordered(parts, fromEnd)
		case i < 0:
			return ordered(append(parts, s), fromEnd)
		case fromEnd:
			_, n := utf8.DecodeRuneInString(s[i:])
			parts, s = append(parts, s[i+n:]), s[:i]
		default:
			parts, s = append(parts, s[:i]), s[i:]
		}
		limit--
	}
}

func ordered(parts []string, backwards bool) []string {
	if backwards {
		return reversed(parts)
	}
	return parts
}

func reversed(parts []string) []string {
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return parts
}

func splitlinesMethod(m *machine, s string, a []Value) (Value, error) {
	if truth(orNone(a[0])) {
		return nil, errors.New("keepends is not supported")
	}
	lines := splitLines(s)
	items := make([]Value, len(lines))
	for i, line := range lines {
		items[i] = line
	}
	return m.list(items)
}

// partition cuts a string into what is before a separator, the separator, and what is behind it.
func partition(m *machine, s string, sep Value, index func(s, sub string) int, last bool) (Value, error) {
	sub, ok := sep.(string)
	if !ok || sub == "" {
		return nil, errors.New("separator: expected a string that is not empty")
	}
	parts := []Value{s, "", ""}
	if i := index(s, sub); i >= 0 {
		parts = []Value{s[:i], sub, s[i+len(sub):]}
	} else if last {
		parts = []Value{"", "", s}
	}
	return &List{Items: parts, tuple: true}, m.grow(3 * valueSize)
}

func makeListMethods() map[string]*builtin {
	return map[string]*builtin{
		"append": list("object", func(m *machine, l *List, a []Value) (Value, error) {
			l.Items = append(l.Items, a[0])
			return None, m.grow(2 * valueSize)
		}),
		"extend": list("iterable", func(m *machine, l *List, a []Value) (Value, error) {
			items, err := m.items(a[0])
			if err == nil {
				err = m.grow(2 * len(items) * valueSize)
			}
			if err == nil {
				l.Items = append(l.Items, items...)
			}
			return None, err
		}),
		"insert": list("index object", func(m *machine, l *List, a []Value) (Value, error) {
			i, err := orInt(a[0], 0)
			if err != nil {
				return nil, err
			}
			n := int64(len(l.Items))
			if i < 0 {
				i += n
			}
			i = min(max(i, 0), n)
			if err := m.grow(int(n+1) * valueSize); err != nil {
				return nil, err
			}
			l.Items = append(append(append(make([]Value, 0, n+1), l.Items[:i]...), a[1]), l.Items[i:]...)
			return None, nil
		}),
		"pop": list("| index", func(m *machine, l *List, a []Value) (Value, error) {
			i, err := orInt(a[0], -1)
			if err != nil {
				return nil, err
			}
			n := int64(len(l.Items))
			if i < 0 {
				i += n
			}
			if i < 0 || i >= n {
				return nil, errors.New("pop index out of range")
			}
			v := l.Items[i]
			// Loops over the list go on over what they began with.
			l.Items = append(l.Items[:i:i], l.Items[i+1:]...)
			return v, m.grow(int(n-i) * valueSize)
		}),
		"index": list("value", func(m *machine, l *List, a []Value) (Value, error) {
			for i, item := range l.Items {
				if eq, err := m.equal(item, a[0]); err != nil {
					return nil, err
				} else if eq {
					return int64(i), nil
				}
			}
			return nil, errors.New("value is not in list")
		}),
		"count": list("value", func(m *machine, l *List, a []Value) (Value, error) {
			n := int64(0)
			for _, item := range l.Items {
				if eq, err := m.equal(item, a[0]); err != nil {
					return nil, err
				} else if eq {
					n++
				}
			}
			return n, nil
		}),
		"copy": list("", func(m *machine, l *List, _ []Value) (Value, error) {
			return m.list(append([]Value(nil), l.Items...))
		}),
	}
}

// list makes a method of lists. Tuples have only those that change nothing; here they may not be changed through the others either.
func list(params string, f func(m *machine, l *List, a []Value) (Value, error)) *builtin {
	return &builtin{params, func(m *machine, v Value, a []Value) (Value, error) {
		l := v.(*List)
		if l.tuple && params != "value" {
			return nil, errors.New("a tuple cannot be changed")
		}
		return f(m, l, a)
	}}
}

// dict makes a method of dicts.
func dict(params string, f func(m *machine, d *Dict, a []Value) (Value, error)) *builtin {
	return &builtin{params, func(m *machine, v Value, a []Value) (Value, error) { return f(m, v.(*Dict), a) }}
}

func makeDictMethods() map[string]*builtin {
	return map[string]*builtin{
		"items": dict("", func(m *machine, d *Dict, _ []Value) (Value, error) { return m.pairs(d) }),
		"keys":  dict("", func(m *machine, d *Dict, _ []Value) (Value, error) { return m.list(append([]Value(nil), d.keys...)) }),
		"values": dict("", func(m *machine, d *Dict, _ []Value) (Value, error) {
			return m.list(append([]Value(nil), d.vals...))
		}),
		"get": dict("key | default", func(m *machine, d *Dict, a []Value) (Value, error) {
			hash, err := m.hash(a[0])
			if err != nil {
				return nil, err
			}
			if v, ok := d.get(hash); ok {
				return v, nil
			}
			return orNone(a[1]), nil
		}),
		"pop": dict("key | default", func(m *machine, d *Dict, a []Value) (Value, error) {
			hash, err := m.hash(a[0])
			if err != nil {
				return nil, err
			}
			v, ok := d.get(hash)
			if !ok {
				if a[1] == nil {
					return nil, errors.New("no such key")
				}
				return a[1], nil
			}
			if err := m.grow(d.Len() * 2 * valueSize); err != nil {
				return nil, err
			}
			d.remove(hash)
			return v, nil
		}),
		"setdefault": dict("key | default", func(m *machine, d *Dict, a []Value) (Value, error) {
			hash, err := m.hash(a[0])
			if err != nil {
				return nil, err
			}
			if v, ok := d.get(hash); ok {
				return v, nil
			}
			return orNone(a[1]), d.put(m, a[0], orNone(a[1]))
		}),
		"update": dict("other", func(m *machine, d *Dict, a []Value) (Value, error) {
			src, err := dictOf(m, "update", &args{pos: a})
			if err != nil {
				return nil, err
			}
			for i := range src.keys {
				if err := d.put(m, src.keys[i], src.vals[i]); err != nil {
					return nil, err
				}
			}
			return None, nil
		}),
		"copy": dict("", func(m *machine, d *Dict, _ []Value) (Value, error) { return dictOf(m, "copy", &args{pos: []Value{d}}) }),
	}
}
