package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting of JSON that becomes a value.
const maxJSONDepth = 200

// FromJSON turns JSON text into a value. Objects keep the order of their keys; numbers without fraction and exponent become integers if they fit in 64 bits.
func FromJSON(data []byte) (Value, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := decode(dec, 0)
	if err != nil {
		return nil, fmt.Errorf("json: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("json: more text behind the value")
	}
	return v, nil
}

func decode(dec *json.Decoder, depth int) (Value, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxJSONDepth)
	}
	t, err := dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case nil:
		return None, nil
	case json.Number:
		if i, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			return i, nil
		}
		return t.Float64()
	case json.Delim:
		if t == '[' {
			l := NewList()
			for dec.More() {
				v, err := decode(dec, depth+1)
				if err != nil {
					return nil, err
				}
				l.Items = append(l.Items, v)
			}
			_, err := dec.Token()
			return l, err
		}
		d := NewDict()
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := decode(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.Set(key.(string), v) // the decoder refuses other keys
		}
		_, err := dec.Token()
		return d, err
	}
	return t, nil // string, bool
}

// FromGo turns a Go value into a value, by way of its JSON where it is not one already. Maps have the order of their keys.
func FromGo(v any) (Value, error) {
	switch v := v.(type) {
	case nil:
		return None, nil
	case none, bool, int64, float64, string, *List, *Dict:
		return v, nil
	case int:
		return int64(v), nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return FromJSON(data)
}

// jsonStyle is how tojson writes: Python's json.dumps.
type jsonStyle struct {
	item, colon string // separators
	indent      string
	lines       bool // one entry a line
	ascii       bool
	sorted      bool
}

func (b *builder) json(v Value, style *jsonStyle, depth int) {
	b.nest(func() {
		switch v := v.(type) {
		case none:
			b.write("null")
		case bool:
			b.write(strconv.FormatBool(v))
		case int64:
			b.write(strconv.FormatInt(v, 10))
		case float64:
			s := formatFloat(v)
			if r, ok := map[string]string{"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[s]; ok {
				s = r
			}
			b.write(s)
		case string:
			b.jsonString(v, style.ascii)
		case *List:
			b.jsonBlock("[", "]", len(v.Items), style, depth, func(i int) { b.json(v.Items[i], style, depth+1) })
		case *Dict:
			order, err := b.m.jsonOrder(v, style.sorted)
			if err != nil {
				b.err = err
				return
			}
			b.jsonBlock("{", "}", len(order), style, depth, func(i int) {
				b.jsonKey(v.keys[order[i]], style)
				b.write(style.colon)
				b.json(v.vals[order[i]], style, depth+1)
			})
		default:
			b.err = fmt.Errorf("object of type %s is not JSON serializable", typeName(v))
		}
	})
}

// jsonOrder returns the numbers of a dict's entries in the order of writing.
func (m *machine) jsonOrder(d *Dict, sorted bool) ([]int, error) {
	if err := m.grow(d.Len() * 8); err != nil {
		return nil, err
	}
	order := make([]int, d.Len())
	for i := range order {
		order[i] = i
	}
	if !sorted {
		return order, nil
	}
	err := m.sort(len(order), func(i, j int) (int, error) { return m.compare(d.keys[order[i]], d.keys[order[j]]) },
		func(perm []int) { order = perm })
	return order, err
}

func (b *builder) jsonKey(k Value, style *jsonStyle) {
	switch k := k.(type) {
	case string:
		b.jsonString(k, style.ascii)
	case none, bool, int64, float64:
		b.write(`"`)
		b.json(k, style, 0)
		b.write(`"`)
	default:
		b.err = fmt.Errorf("keys must be strings or numbers, not %s", typeName(k))
	}
}

// jsonBlock writes n entries between brackets.
func (b *builder) jsonBlock(opening, closing string, n int, style *jsonStyle, depth int, entry func(i int)) {
	b.write(opening)
	for i := 0; i < n && b.err == nil; i++ {
		if i > 0 {
			b.write(style.item)
		}
		b.newline(style, depth+1)
		entry(i)
	}
	if n > 0 {
		b.newline(style, depth)
	}
	b.write(closing)
}

func (b *builder) newline(style *jsonStyle, depth int) {
	if style.lines {
		b.write("\n")
		for i := 0; i < depth && b.err == nil; i++ {
			b.write(style.indent)
		}
	}
}

// jsonString writes a string as json.dumps does: it escapes what JSON requires and, in ASCII style, everything beyond.
func (b *builder) jsonString(s string, ascii bool) {
	b.write(`"`)
	start := 0
	for i, r := range s {
		var esc string
		switch {
		case r == '"' || r == '\\':
			esc = `\` + string(r)
		case r < 0x20:
			if at := strings.IndexRune("\b\f\n\r\t", r); at >= 0 {
				esc = `\` + "bfnrt"[at:at+1]
			} else {
				esc = fmt.Sprintf(`\u%04x`, r)
			}
		case ascii && r >= 0x10000:
			esc = fmt.Sprintf(`\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		case ascii && r > 0x7e:
			esc = fmt.Sprintf(`\u%04x`, r)
		default:
			continue
		}
		b.write(s[start:i])
		b.write(esc)
		if b.err != nil {
			return
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		start = i + n
	}
	b.write(s[start:])
	b.write(`"`)
}

// tojsonFilter is json.dumps with the defaults of transformers: not escaped for HTML, characters beyond ASCII as they are.
func tojsonFilter(m *machine, v Value, a []Value) (Value, error) {
	style := &jsonStyle{item: ", ", colon: ": ", ascii: truth(orNone(a[0])), sorted: truth(orNone(a[3]))}
	switch indent := a[1].(type) {
	case nil, none:
	case string:
		style.lines, style.indent = true, indent
	default:
		n, ok := asInt(indent)
		if !ok {
			return nil, fmt.Errorf("indent of type '%s', expected an integer or a string", typeName(indent))
		}
		pad, err := m.repeat(" ", n)
		if err != nil {
			return nil, err
		}
		style.lines, style.indent = true, pad.(string)
	}
	if style.lines {
		style.item = ","
	}
	if a[2] != nil && a[2] != None {
		l, ok := a[2].(*List)
		if !ok || len(l.Items) != 2 {
			return nil, errors.New("separators: expected two strings")
		}
		item, ok1 := l.Items[0].(string)
		colon, ok2 := l.Items[1].(string)
		if !ok1 || !ok2 {
			return nil, errors.New("separators: expected two strings")
		}
		style.item, style.colon = item, colon
	}
	b := &builder{m: m}
	b.json(v, style, 0)
	return b.String()
}

func fromJSONFilter(m *machine, v Value, _ []Value) (Value, error) {
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("found '%s', expected a string", typeName(v))
	}
	// No value takes more than its text's length in entries.
	if err := m.grow(len(s) * entrySize); err != nil {
		return nil, err
	}
	return FromJSON([]byte(s))
}
