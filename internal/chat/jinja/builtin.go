package jinja

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"
)

// A builtin is a filter, a test or a method: a function of a value and of arguments that are known by name. Arguments that a call leaves out are nil.
type builtin struct {
	params   string // names, separated by spaces; those behind "|" may be left out; a last "*" takes all further ones, which follow in the slice
	function func(m *machine, v Value, a []Value) (Value, error)
}

// bind puts a call's arguments in the order of the parameters.
func (f *builtin) bind(who string, a *args) ([]Value, error) {
	required := -1
	var names []string
	open := false
	for p := range strings.FieldsSeq(f.params) {
		switch p {
		case "|":
			required = len(names)
		case "*":
			open = true
		default:
			names = append(names, p)
		}
	}
	if required < 0 {
		required = len(names)
	}
	bound := make([]Value, len(names), max(len(names), len(a.pos)))
	if len(a.pos) > len(names) {
		if !open {
			return nil, fmt.Errorf("%s takes at most %d arguments, got %d", who, len(names), len(a.pos))
		}
		bound = append(bound, a.pos[len(names):]...)
	}
	copy(bound, a.pos)
	for _, n := range a.named {
		at := -1
		for i, name := range names {
			if name == n.name {
				at = i
			}
		}
		if at < 0 {
			return nil, fmt.Errorf("%s takes no argument named %q", who, n.name)
		}
		if bound[at] != nil {
			return nil, fmt.Errorf("%s got two values for %q", who, n.name)
		}
		bound[at] = n.value
	}
	for i := range required {
		if bound[i] == nil {
			return nil, fmt.Errorf("%s lacks its argument %q", who, names[i])
		}
	}
	return bound, nil
}

// apply calls a filter, test or method.
func (m *machine) apply(who string, f *builtin, v Value, a *args) (Value, error) {
	if err := m.enter(); err != nil {
		return nil, err
	}
	bound, err := f.bind(who, a)
	if err != nil {
		return nil, err
	}
	v, err = f.function(m, v, bound)
	m.leave()
	if err != nil && !errors.Is(err, ErrLimit) {
		var located *Error
		if !errors.As(err, &located) {
			err = fmt.Errorf("%s: %w", who, err)
		}
	}
	return v, err
}

// A method is a builtin bound to its value.
type method struct {
	of Value
	f  *builtin
}

func (f *method) call(m *machine, a *args) (Value, error) { return m.apply("method", f.f, f.of, a) }

type filterExpr struct {
	of   expr
	name string
	args arguments
}

func (e *filterExpr) eval(m *machine) (Value, error) {
	v, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	a, err := e.args.eval(m)
	if err != nil {
		return nil, err
	}
	return m.filter(e.name, v, a)
}

func (m *machine) filter(name string, v Value, a *args) (Value, error) {
	f, ok := filters[name]
	if !ok {
		return nil, fmt.Errorf("no filter named %q", name)
	}
	return m.apply("filter "+name, f, v, a)
}

type testExpr struct {
	of   expr
	name string
	args arguments
}

func (e *testExpr) eval(m *machine) (Value, error) {
	v, err := m.eval(e.of)
	if err != nil {
		return nil, err
	}
	a, err := e.args.eval(m)
	if err != nil {
		return nil, err
	}
	return m.test(e.name, v, a)
}

func (m *machine) test(name string, v Value, a *args) (Value, error) {
	f, ok := tests[name]
	if !ok {
		return nil, fmt.Errorf("no test named %q", name)
	}
	return m.apply("test "+name, f, v, a)
}

// The builtins that call others by name are completed here, because Go refuses tables that refer to themselves.
var (
	filters map[string]*builtin
	tests   map[string]*builtin
	globals map[string]Value
)

func init() {
	filters, tests, globals = makeFilters(), makeTests(), makeGlobals()
}

// maxRange is what Jinja2's sandbox allows.
const maxRange = 100_000

func makeGlobals() map[string]Value {
	return map[string]Value{
		"range": fn(rangeGlobal),
		"dict": fn(func(m *machine, a *args) (Value, error) {
			return dictOf(m, "dict", a)
		}),
		"namespace": fn(func(m *machine, a *args) (Value, error) {
			d, err := dictOf(m, "namespace", a)
			return &namespace{d}, err
		}),
		"raise_exception": fn(func(m *machine, a *args) (Value, error) {
			if len(a.pos) != 1 || len(a.named) > 0 {
				return nil, errors.New("raise_exception takes one argument")
			}
			text, err := m.str(a.pos[0])
			if err != nil {
				return nil, err
			}
			return nil, &Error{Raised: true, Err: errors.New(text)}
		}),
		"strftime_now": fn(func(m *machine, a *args) (Value, error) {
			if len(a.pos) == 1 && len(a.named) == 0 {
				if format, ok := a.pos[0].(string); ok {
					return m.strftime(format)
				}
			}
			return nil, errors.New("strftime_now takes one string")
		}),
	}
}

func rangeGlobal(m *machine, a *args) (Value, error) {
	start, stop, step := int64(0), int64(0), int64(1)
	if len(a.pos) < 1 || len(a.pos) > 3 || len(a.named) > 0 {
		return nil, fmt.Errorf("range takes one to three arguments, got %d", len(a.pos))
	}
	if err := defined(a.pos...); err != nil {
		return nil, err
	}
	var n [3]int64
	for i, v := range a.pos {
		var ok bool
		if n[i], ok = asInt(v); !ok {
			return nil, fmt.Errorf("range takes integers, not '%s'", typeName(v))
		}
	}
	switch len(a.pos) {
	case 1:
		stop = n[0]
	case 2:
		start, stop = n[0], n[1]
	default:
		start, stop, step = n[0], n[1], n[2]
	}
	if step == 0 {
		return nil, errors.New("range step cannot be zero")
	}
	var items []Value
	for i := start; step > 0 && i < stop || step < 0 && i > stop; {
		if len(items) >= maxRange {
			return nil, fmt.Errorf("%w: range of more than %d items", ErrLimit, maxRange)
		}
		items = append(items, i)
		next := i + step
		if (next > i) != (step > 0) {
			break // beyond the largest integer, so beyond stop
		}
		i = next
	}
	return m.list(items)
}

// dictOf makes the dict of a call dict(mapping, name=value...).
func dictOf(m *machine, who string, a *args) (*Dict, error) {
	d := NewDict()
	if len(a.pos) > 1 {
		return d, fmt.Errorf("%s takes at most one positional argument, got %d", who, len(a.pos))
	}
	for _, v := range a.pos {
		if src, ok := v.(*Dict); ok {
			if err := m.grow(src.Len() * entrySize); err != nil {
				return d, err
			}
			for hash, i := range src.index {
				d.index[hash] = i
			}
			d.keys, d.vals = append(d.keys, src.keys...), append(d.vals, src.vals...)
			continue
		}
		pairs, err := m.items(v)
		if err != nil {
			return d, err
		}
		for _, pair := range pairs {
			kv, err := m.items(pair)
			if err != nil || len(kv) != 2 {
				return d, fmt.Errorf("%s takes a dict or pairs", who)
			}
			if err := d.put(m, kv[0], kv[1]); err != nil {
				return d, err
			}
		}
	}
	for _, n := range a.named {
		if err := d.put(m, n.name, n.value); err != nil {
			return d, err
		}
	}
	return d, nil
}

// put sets an entry on the machine's account.
func (d *Dict) put(m *machine, key, v Value) error {
	hash, err := m.hash(key)
	if err != nil {
		return err
	}
	if err := m.grow(entrySize); err != nil {
		return err
	}
	d.set(hash, key, v)
	return nil
}

// sort calls set with the stable order of n things under compare. Comparing stops at the first error.
func (m *machine) sort(n int, compare func(i, j int) (int, error), set func(perm []int)) error {
	if err := m.grow(n * 8); err != nil {
		return err
	}
	perm := make([]int, n)
	for i := range perm {
		perm[i] = i
	}
	var failed error
	sort.SliceStable(perm, func(i, j int) bool {
		if failed != nil {
			return false
		}
		var c int
		c, failed = compare(perm[i], perm[j])
		return c < 0
	})
	if failed == nil {
		set(perm)
	}
	return failed
}

// strftime formats the rendering's time as C's strftime does in the C locale.
func (m *machine) strftime(format string) (Value, error) {
	b := &builder{m: m}
	for i := 0; i < len(format) && b.err == nil; i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.write(format[i : i+1])
			continue
		}
		i++
		unpadded := format[i] == '-' && i+1 < len(format)
		if unpadded {
			i++
		}
		text, ok := directive(m.now, format[i])
		if !ok {
			text = "%" + format[i:i+1]
		} else if unpadded {
			if short := strings.TrimLeft(text, "0 "); short != "" || text == "" {
				text = short
			} else {
				text = "0"
			}
		}
		b.write(text)
	}
	return b.String()
}

// directive formats one %-directive.
func directive(t time.Time, c byte) (string, bool) {
	if layout, ok := map[byte]string{
		'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'y': "06", 'B': "January", 'b': "Jan", 'h': "Jan", 'A': "Monday", 'a': "Mon", 'j': "002",
		'I': "03", 'p': "PM", 'e': "_2", 'Z': "MST", 'z': "-0700", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06", 'x': "01/02/06", 'X': "15:04:05",
		'c': "Mon Jan _2 15:04:05 2006", 'r': "03:04:05 PM",
	}[c]; ok {
		return t.Format(layout), true
	}
	monday := (int(t.Weekday()) + 6) % 7
	switch c {
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 'u':
		return fmt.Sprint(monday + 1), true
	case 'w':
		return fmt.Sprint(int(t.Weekday())), true
	case 'U':
		return fmt.Sprintf("%02d", (t.YearDay()+6-int(t.Weekday()))/7), true
	case 'W':
		return fmt.Sprintf("%02d", (t.YearDay()+6-monday)/7), true
	case 'V':
		_, week := t.ISOWeek()
		return fmt.Sprintf("%02d", week), true
	case 'G':
		year, _ := t.ISOWeek()
		return fmt.Sprintf("%04d", year), true
	case 's':
		return fmt.Sprint(t.Unix()), true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case '%':
		return "%", true
	}
	return "", false
}
