package jinja

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// A Value is one of: None, bool, int64, float64, string, *List, *Dict, or a value that only templates make (undefined, namespaces, macros, methods, loops).
type Value any

type none struct{}

// None is Python's None, JSON's null.
var None Value = none{}

// undefined is the value of what does not exist. It is false, empty and prints as nothing; to look into it, call it or calculate with it is an error that says
// what was missing.
type undefined struct{ why string }

// A List is a list or a tuple. Lists are shared by reference, as in Python.
type List struct {
	Items []Value
	tuple bool
}

// NewList returns a list of items.
func NewList(items ...Value) *List { return &List{Items: items} }

// A Dict keeps its entries in the order of their insertion.
type Dict struct {
	keys  []Value
	vals  []Value
	index map[any]int
}

// NewDict returns an empty dict.
func NewDict() *Dict { return &Dict{index: make(map[any]int)} }

// Set sets a string key.
func (d *Dict) Set(key string, v Value) { d.set(key, key, v) }

// Get returns the value of a string key.
func (d *Dict) Get(key string) (Value, bool) { return d.get(key) }

// Len returns the number of entries.
func (d *Dict) Len() int { return len(d.keys) }

func (d *Dict) get(hash any) (Value, bool) {
	i, ok := d.index[hash]
	if !ok {
		return nil, false
	}
	return d.vals[i], true
}

func (d *Dict) set(hash any, key, v Value) {
	if i, ok := d.index[hash]; ok {
		d.vals[i] = v
		return
	}
	d.index[hash] = len(d.keys)
	d.keys = append(d.keys, key)
	d.vals = append(d.vals, v)
}

// remove deletes an entry; the ones behind it move up.
func (d *Dict) remove(hash any) {
	at, ok := d.index[hash]
	if !ok {
		return
	}
	d.keys = append(d.keys[:at:at], d.keys[at+1:]...)
	d.vals = append(d.vals[:at:at], d.vals[at+1:]...)
	delete(d.index, hash)
	for h, i := range d.index {
		if i > at {
			d.index[h] = i - 1
		}
	}
}

// A namespace holds what loops and blocks may change outside of their own scope.
type namespace struct{ vars *Dict }

type tupleKey string // the representation of a tuple that is a key

// hash returns what identifies v as a dict's key: equal values have equal hashes.
func (m *machine) hash(v Value) (any, error) {
	switch v := v.(type) {
	case string:
		return v, m.scan(len(v))
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case float64:
		if i, ok := exactInt(v); ok {
			return i, nil
		}
		return v, nil
	case *List:
		if !v.tuple {
			return nil, fmt.Errorf("unhashable type: 'list'")
		}
		s, err := m.repr(v)
		return tupleKey(s), err
	case *Dict:
		return nil, fmt.Errorf("unhashable type: 'dict'")
	case undefined:
		return undefined{}, nil
	}
	return v, nil // int64, None, and pointers to macros and the like
}

func exactInt(f float64) (int64, bool) {
	if f == math.Trunc(f) && f >= -(1<<63) && f < 1<<63 {
		return int64(f), true
	}
	return 0, false
}

func typeName(v Value) string {
	switch v := v.(type) {
	case none:
		return "NoneType"
	case undefined:
		return "Undefined"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case *List:
		if v.tuple {
			return "tuple"
		}
		return "list"
	case *Dict:
		return "dict"
	case *namespace:
		return "Namespace"
	case *loop:
		return "LoopContext"
	}
	return "function"
}

func truth(v Value) bool {
	switch v := v.(type) {
	case none, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *List:
		return len(v.Items) > 0
	case *Dict:
		return v.Len() > 0
	}
	return true
}

// equal is Python's ==.
func (m *machine) equal(a, b Value) (bool, error) {
	if err := m.enter(); err != nil {
		return false, err
	}
	defer m.leave()
	if x, ok := asFloat(a); ok {
		y, ok := asFloat(b)
		ai, aInt := asInt(a)
		bi, bInt := asInt(b)
		if ok && aInt && bInt {
			return ai == bi, nil
		}
		return ok && x == y, nil
	}
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		if !ok || len(a) != len(b) {
			return false, nil
		}
		return a == b, m.scan(len(a))
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	case *List:
		b, ok := b.(*List)
		if !ok || a.tuple != b.tuple || len(a.Items) != len(b.Items) {
			return false, nil
		}
		for i := range a.Items {
			if eq, err := m.equal(a.Items[i], b.Items[i]); !eq || err != nil {
				return false, err
			}
		}
		return true, nil
	case *Dict:
		b, ok := b.(*Dict)
		if !ok || a.Len() != b.Len() {
			return false, nil
		}
		for hash, i := range a.index {
			v, ok := b.get(hash)
			if !ok {
				return false, nil
			}
			if eq, err := m.equal(a.vals[i], v); !eq || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return a == b, nil // None, and pointers
}

// compare orders two values as Python's < does, and fails where Python does.
func (m *machine) compare(a, b Value) (int, error) {
	if err := m.enter(); err != nil {
		return 0, err
	}
	defer m.leave()
	if x, ok := asInt(a); ok {
		if y, ok := asInt(b); ok {
			return cmp.Compare(x, y), nil
		}
	}
	if x, ok := asFloat(a); ok {
		if y, ok := asFloat(b); ok {
			return cmp.Compare(x, y), nil
		}
	}
	switch a := a.(type) {
	case string:
		if b, ok := b.(string); ok {
			return strings.Compare(a, b), m.scan(min(len(a), len(b)))
		}
	case *List:
		if b, ok := b.(*List); ok && a.tuple == b.tuple {
			for i := range min(len(a.Items), len(b.Items)) {
				if eq, err := m.equal(a.Items[i], b.Items[i]); err != nil {
					return 0, err
				} else if !eq {
					return m.compare(a.Items[i], b.Items[i])
				}
			}
			return cmp.Compare(len(a.Items), len(b.Items)), nil
		}
	}
	if err := defined(a, b); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("cannot order '%s' and '%s'", typeName(a), typeName(b))
}

// defined fails if one of the values is undefined, and says which.
func defined(vs ...Value) error {
	for _, v := range vs {
		if u, ok := v.(undefined); ok {
			return fmt.Errorf("%s", u.why)
		}
	}
	return nil
}

// asInt returns integers, and bools as 0 and 1.
func asInt(v Value) (int64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return v, true
	}
	return 0, false
}

// asFloat returns any number.
func asFloat(v Value) (float64, bool) {
	if f, ok := v.(float64); ok {
		return f, true
	}
	i, ok := asInt(v)
	return float64(i), ok
}

// items returns what iterating over v yields: items, characters, or keys.
func (m *machine) items(v Value) ([]Value, error) {
	switch v := v.(type) {
	case *List:
		return v.Items, m.spend(1)
	case *Dict:
		// A copy of the slice header is not enough: the body may change the dict.
		return append([]Value(nil), v.keys...), m.grow(len(v.keys) * valueSize)
	case string:
		n := utf8.RuneCountInString(v)
		if err := m.grow(n * valueSize); err != nil {
			return nil, err
		}
		items := make([]Value, 0, n)
		for i := 0; i < len(v); {
			_, size := utf8.DecodeRuneInString(v[i:])
			items = append(items, v[i:i+size])
			i += size
		}
		return items, nil
	case undefined:
		return nil, nil
	}
	return nil, fmt.Errorf("'%s' object is not iterable", typeName(v))
}

// length is Python's len.
func (m *machine) length(v Value) (int, error) {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v), m.scan(len(v))
	case *List:
		return len(v.Items), nil
	case *Dict:
		return v.Len(), nil
	case undefined:
		return 0, nil
	}
	return 0, fmt.Errorf("object of type '%s' has no len()", typeName(v))
}

// list makes a list, on the machine's account.
func (m *machine) list(items []Value) (Value, error) {
	return &List{Items: items}, m.grow(len(items) * valueSize)
}
