package jinja

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// addSequenceFilters adds the filters that go through items.
func addSequenceFilters(f map[string]*builtin) {
	count := &builtin{"", func(m *machine, v Value, _ []Value) (Value, error) {
		n, err := m.length(v)
		return int64(n), err
	}}
	pick := func(want, byAttr bool) *builtin {
		return &builtin{"| test *", func(m *machine, v Value, a []Value) (Value, error) { return m.pick(v, a, want, byAttr) }}
	}
	extreme := func(sign int) *builtin {
		return &builtin{"| case_sensitive attribute", func(m *machine, v Value, a []Value) (Value, error) { return m.extreme(v, a, sign) }}
	}
	f["length"], f["count"] = count, count
	f["select"], f["reject"] = pick(true, false), pick(false, false)
	f["selectattr"], f["rejectattr"] = pick(true, true), pick(false, true)
	f["min"], f["max"] = extreme(-1), extreme(1)
	f["first"] = &builtin{"", firstFilter}
	f["last"] = &builtin{"", lastFilter}
	f["list"] = &builtin{"", func(m *machine, v Value, _ []Value) (Value, error) {
		items, err := m.items(v)
		if err != nil {
			return nil, err
		}
		return m.list(append([]Value(nil), items...))
	}}
	f["join"] = &builtin{"| d attribute", joinFilter}
	f["sort"] = &builtin{"| reverse case_sensitive attribute", sortFilter}
	f["unique"] = &builtin{"| case_sensitive attribute", uniqueFilter}
	f["reverse"] = &builtin{"", reverseFilter}
	f["sum"] = &builtin{"| attribute start", sumFilter}
	f["batch"] = &builtin{"linecount | fill_with", batchFilter}
	f["groupby"] = &builtin{"attribute | default case_sensitive", groupbyFilter}
	f["items"] = &builtin{"", func(m *machine, v Value, _ []Value) (Value, error) {
		switch v := v.(type) {
		case undefined:
			return NewList(), nil
		case *Dict:
			return m.pairs(v)
		}
		return nil, fmt.Errorf("found '%s', expected a dict", typeName(v))
	}}
	f["dictsort"] = &builtin{"| case_sensitive by reverse", dictsortFilter}
	f["map"] = &builtin{"| filter attribute default *", mapFilter}
}

// pairs returns the entries of a dict as tuples.
func (m *machine) pairs(d *Dict) (Value, error) {
	if err := m.grow(d.Len() * 3 * valueSize); err != nil {
		return nil, err
	}
	items := make([]Value, d.Len())
	for i := range items {
		items[i] = &List{Items: []Value{d.keys[i], d.vals[i]}, tuple: true}
	}
	return m.list(items)
}

func firstFilter(m *machine, v Value, _ []Value) (Value, error) {
	if s, ok := v.(string); ok && s != "" {
		_, n := utf8.DecodeRuneInString(s)
		return s[:n], nil
	}
	items, err := m.items(v)
	if err == nil && len(items) == 0 {
		return undefined{"no first item, the sequence was empty"}, nil
	}
	if err != nil {
		return nil, err
	}
	return items[0], nil
}

func lastFilter(m *machine, v Value, _ []Value) (Value, error) {
	if s, ok := v.(string); ok && s != "" {
		_, n := utf8.DecodeLastRuneInString(s)
		return s[len(s)-n:], nil
	}
	items, err := m.items(v)
	if err == nil && len(items) == 0 {
		return undefined{"no last item, the sequence was empty"}, nil
	}
	if err != nil {
		return nil, err
	}
	return items[len(items)-1], nil
}

// path looks an attribute up that may be several deep: "a.b.0".
func (m *machine) path(v, attribute, def Value) (Value, error) {
	parts := []Value{attribute}
	if s, ok := attribute.(string); ok {
		if err := m.grow(strings.Count(s, ".") * valueSize); err != nil {
			return nil, err
		}
		parts = parts[:0]
		for part := range strings.SplitSeq(s, ".") {
			if i, err := strconv.ParseInt(part, 10, 64); err == nil {
				parts = append(parts, i)
			} else {
				parts = append(parts, part)
			}
		}
	}
	for _, part := range parts {
		var err error
		if v, err = m.item(v, part); err != nil {
			return nil, err
		}
		if _, missing := v.(undefined); missing && def != nil {
			return def, nil
		}
	}
	return v, m.spend(len(parts))
}

// key prepares an item for comparing: one attribute of it where one is given, in lower case unless case counts.
func (m *machine) key(item, attribute, caseSensitive Value) (Value, error) {
	var err error
	if attribute != nil && attribute != None {
		if item, err = m.path(item, attribute, nil); err != nil {
			return nil, err
		}
	}
	if s, ok := item.(string); ok && !truth(orNone(caseSensitive)) {
		return strings.ToLower(s), m.grow(3 * len(s))
	}
	return item, nil
}

func (m *machine) keys(items []Value, attribute, caseSensitive Value) ([]Value, error) {
	if err := m.grow(len(items) * valueSize); err != nil {
		return nil, err
	}
	keys := make([]Value, len(items))
	for i, item := range items {
		var err error
		if keys[i], err = m.key(item, attribute, caseSensitive); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func joinFilter(m *machine, v Value, a []Value) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	sep := ""
	if a[0] != nil {
		if sep, err = m.str(a[0]); err != nil {
			return nil, err
		}
	}
	b := &builder{m: m}
	for i, item := range items {
		if a[1] != nil {
			if item, err = m.path(item, a[1], nil); err != nil {
				return nil, err
			}
		}
		s, err := m.str(item)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.write(sep)
		}
		b.write(s)
		if b.err != nil {
			break
		}
	}
	return b.String()
}

// mapFilter applies a filter to each item, or takes an attribute of each.
func mapFilter(m *machine, v Value, a []Value) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	if err := m.grow(len(items) * valueSize); err != nil {
		return nil, err
	}
	out := make([]Value, len(items))
	for i, item := range items {
		switch name, ok := a[0].(string); {
		case a[0] == nil && a[1] != nil:
			out[i], err = m.path(item, a[1], a[2])
		case ok:
			out[i], err = m.filter(name, item, &args{pos: rest(a)})
		default:
			err = errors.New("expected the name of a filter, or attribute=")
		}
		if err != nil {
			return nil, err
		}
	}
	return m.list(out)
}

// rest returns the positional arguments behind the first one.
func rest(a []Value) []Value {
	out := a[1:]
	for len(out) > 0 && out[len(out)-1] == nil {
		out = out[:len(out)-1]
	}
	return out
}

// pick keeps the items for which a test holds, or does not; by default the test is truth. With byAttr it looks at an attribute of each item.
func (m *machine) pick(v Value, a []Value, want, byAttr bool) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	var attribute Value
	if byAttr {
		attribute, a = a[0], append(a[1:len(a):len(a)], nil)
		if attribute == nil {
			return nil, errors.New("expected the name of an attribute")
		}
	}
	var out []Value
	for _, item := range items {
		if err := m.spend(1); err != nil {
			return nil, err
		}
		x := item
		if byAttr {
			if x, err = m.path(item, attribute, nil); err != nil {
				return nil, err
			}
		}
		if a[0] != nil {
			name, ok := a[0].(string)
			if !ok {
				return nil, errors.New("expected the name of a test")
			}
			if x, err = m.test(name, x, &args{pos: rest(a)}); err != nil {
				return nil, err
			}
		}
		if truth(x) == want {
			out = append(out, item)
		}
	}
	return m.list(out)
}

func sortFilter(m *machine, v Value, a []Value) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	attributes := []Value{a[2]}
	if s, ok := a[2].(string); ok {
		if err := m.grow(strings.Count(s, ",") * valueSize); err != nil {
			return nil, err
		}
		attributes = attributes[:0]
		for part := range strings.SplitSeq(s, ",") {
			attributes = append(attributes, part)
		}
	}
	// By the last attribute first: sorting is stable.
	var sorted Value
	for i := len(attributes) - 1; i >= 0; i-- {
		keys, err := m.keys(items, attributes[i], a[1])
		if err != nil {
			return nil, err
		}
		if sorted, err = m.sorted(items, keys, truth(orNone(a[0]))); err != nil {
			return nil, err
		}
		items = sorted.(*List).Items
	}
	return sorted, nil
}

// sorted returns items in the order of their keys; equal ones keep theirs.
func (m *machine) sorted(items, keys []Value, reverse bool) (Value, error) {
	var out []Value
	err := m.sort(len(items), func(i, j int) (int, error) {
		if reverse {
			i, j = j, i
		}
		return m.compare(keys[i], keys[j])
	}, func(perm []int) {
		out = make([]Value, len(perm))
		for i, p := range perm {
			out[i] = items[p]
		}
	})
	if err != nil {
		return nil, err
	}
	return m.list(out)
}

func uniqueFilter(m *machine, v Value, a []Value) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	keys, err := m.keys(items, a[1], a[0])
	if err != nil {
		return nil, err
	}
	seen := make(map[any]bool)
	var out []Value
	for i, item := range items {
		hash, err := m.hash(keys[i])
		if err != nil {
			return nil, err
		}
		if !seen[hash] {
			seen[hash] = true
			out = append(out, item)
		}
	}
	if err := m.grow(len(out) * entrySize); err != nil {
		return nil, err
	}
	return m.list(out)
}

// extreme returns the smallest item (sign -1) or the largest one.
func (m *machine) extreme(v Value, a []Value, sign int) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	keys, err := m.keys(items, a[1], a[0])
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return undefined{"no item, the sequence was empty"}, nil
	}
	best := 0
	for i := range items[1:] {
		c, err := m.compare(keys[i+1], keys[best])
		if err != nil {
			return nil, err
		}
		if c*sign > 0 {
			best = i + 1
		}
	}
	return items[best], nil
}

func reverseFilter(m *machine, v Value, _ []Value) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	out := make([]Value, len(items))
	for i, item := range items {
		out[len(items)-1-i] = item
	}
	if _, ok := v.(string); !ok {
		return m.list(out)
	}
	b := &builder{m: m}
	for _, c := range out {
		b.write(c.(string))
	}
	return b.String()
}

func sumFilter(m *machine, v Value, a []Value) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	var total Value = int64(0)
	if a[1] != nil {
		total = a[1]
	}
	for _, item := range items {
		if a[0] != nil && a[0] != None {
			if item, err = m.path(item, a[0], nil); err != nil {
				return nil, err
			}
		}
		if err := defined(item); err != nil {
			return nil, err
		}
		if total, err = m.arithmetic("+", total, item); err != nil {
			return nil, err
		}
	}
	return total, m.spend(len(items))
}

func batchFilter(m *machine, v Value, a []Value) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	n, err := orInt(a[0], 0)
	if err != nil || n < 1 {
		return nil, errors.New("expected a positive number of items")
	}
	if err := m.grow(len(items) * 2 * valueSize); err != nil {
		return nil, err
	}
	var out []Value
	for len(items) > 0 {
		k := int(min(n, int64(len(items))))
		out = append(out, &List{Items: items[:k:k]})
		items = items[k:]
	}
	if fill := a[1]; fill != nil && fill != None && len(out) > 0 {
		last := out[len(out)-1].(*List)
		missing := n - int64(len(last.Items))
		padding, err := m.repeat(NewList(fill), missing)
		if err != nil {
			return nil, err
		}
		last.Items = append(last.Items, padding.(*List).Items...)
	}
	return m.list(out)
}

// groupbyFilter returns (value, items) for each value of an attribute, sorted by it.
func groupbyFilter(m *machine, v Value, a []Value) (Value, error) {
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	if err := m.grow(len(items) * 3 * valueSize); err != nil {
		return nil, err
	}
	paired := make([]Value, len(items)) // (comparable key, value as it stands, item)
	keys := make([]Value, len(items))
	for i, item := range items {
		value, err := m.path(item, a[0], a[1])
		if err != nil {
			return nil, err
		}
		if keys[i], err = m.key(value, nil, a[2]); err != nil {
			return nil, err
		}
		paired[i] = &List{Items: []Value{keys[i], value, item}}
	}
	sorted, err := m.sorted(paired, keys, false)
	if err != nil {
		return nil, err
	}
	var out []Value
	var group *List
	var last Value
	for _, p := range sorted.(*List).Items {
		p := p.(*List).Items
		same := false
		if group != nil {
			if same, err = m.equal(last, p[0]); err != nil {
				return nil, err
			}
		}
		if !same {
			group, last = NewList(), p[0]
			out = append(out, &List{Items: []Value{p[1], group}, tuple: true})
		}
		group.Items = append(group.Items, p[2])
	}
	return m.list(out)
}

func dictsortFilter(m *machine, v Value, a []Value) (Value, error) {
	d, ok := v.(*Dict)
	if !ok {
		return nil, fmt.Errorf("found '%s', expected a dict", typeName(v))
	}
	by := d.keys
	switch a[1] {
	case nil, "key":
	case "value":
		by = d.vals
	default:
		return nil, errors.New(`by: expected "key" or "value"`)
	}
	keys, err := m.keys(by, nil, a[0])
	if err != nil {
		return nil, err
	}
	pairs, err := m.pairs(d)
	if err != nil {
		return nil, err
	}
	return m.sorted(pairs.(*List).Items, keys, truth(orNone(a[2])))
}
