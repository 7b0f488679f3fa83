package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Keys lists the metadata keys in file order.
func (f *File) Keys() []string {
	out := make([]string, len(f.keys.at))
	for i, at := range f.keys.at {
		out[i] = string(nameAt(f.data, at))
	}
	return out
}

// Has reports whether the file has the key.
func (f *File) Has(key string) bool {
	_, ok := f.keys.find(f.data, key)
	return ok
}

// Value is the value of a key, of whatever type.
func (f *File) Value(key string) (Value, bool) {
	at, ok := f.keys.find(f.data, key)
	if !ok {
		return Value{}, false
	}
	return f.valueAt(at), true
}

// valueAt reads the value of the checked entry at the offset.
func (f *File) valueAt(at uint64) Value {
	at += 8 + uint64(len(nameAt(f.data, at)))
	v := Value{Type: ValueType(binary.LittleEndian.Uint32(f.data[at:])), n: 1}
	v.Elem = v.Type
	at += 4
	if v.Type == Array {
		v.Elem, v.n = ValueType(binary.LittleEndian.Uint32(f.data[at:])), binary.LittleEndian.Uint64(f.data[at+4:])
		at += 12
	}
	end := at
	if size, fixed := v.Elem.size(); fixed {
		end += v.n * size
	} else {
		for range v.n {
			end += 8 + binary.LittleEndian.Uint64(f.data[end:])
		}
	}
	v.data = f.data[at:end:end]
	return v
}

// get is the value of key if accept takes it; want says in the error what would have been taken.
func (f *File) get(key, want string, accept func(Value) bool) (Value, error) {
	v, ok := f.Value(key)
	if !ok {
		return Value{}, fmt.Errorf("gguf: %s: metadata key %q: %w (expected %s)", f.name, key, ErrNotFound, want)
	}
	if !accept(v) {
		return Value{}, f.mismatch(key, want, v)
	}
	return v, nil
}

func (f *File) mismatch(key, want string, v Value) error {
	return fmt.Errorf("gguf: %s: metadata key %q: found %s, expected %s", f.name, key, v.describe(), want)
}

func (v Value) single() bool { return v.Type != Array && v.numeric() }

// Uint is the value of key, of any integer type, not negative.
func (f *File) Uint(key string) (uint64, error) {
	const want = "an unsigned integer"
	v, err := f.get(key, want, Value.single)
	if err != nil {
		return 0, err
	}
	n := v.number(0)
	if !n.integer || n.negative {
		return 0, f.unfit(key, want, v)
	}
	return n.bits, nil
}

// Int is the value of key, of any integer type that fits an int64.
func (f *File) Int(key string) (int64, error) {
	const want = "an integer"
	v, err := f.get(key, want, Value.single)
	if err != nil {
		return 0, err
	}
	n := v.number(0)
	if !n.integer || !n.negative && n.bits > math.MaxInt64 {
		return 0, f.unfit(key, want, v)
	}
	return int64(n.bits), nil
}

// unfit is the error for a single number of the wrong kind or range.
func (f *File) unfit(key, want string, v Value) error {
	return fmt.Errorf("gguf: %s: metadata key %q: found %s %s, expected %s", f.name, key, v.describe(), v, want)
}

// Float is the value of key, of any numeric type.
func (f *File) Float(key string) (float64, error) {
	v, err := f.get(key, "a number", Value.single)
	if err != nil {
		return 0, err
	}
	return v.number(0).float, nil
}

// String is the value of key, a string.
func (f *File) String(key string) (string, error) {
	v, err := f.get(key, "a string", func(v Value) bool { return v.Type == String })
	if err != nil {
		return "", err
	}
	return string(nameAt(v.data, 0)), nil
}

// Bool is the value of key, a bool.
func (f *File) Bool(key string) (bool, error) {
	v, err := f.get(key, "a bool", func(v Value) bool { return v.Type == Bool })
	if err != nil {
		return false, err
	}
	return v.data[0] != 0, nil
}

// Strings is the value of key, an array of strings. They share one copy of the array's bytes, so a vocabulary of 256K
// tokens costs two allocations.
func (f *File) Strings(key string) ([]string, error) {
	v, err := f.get(key, "an array of strings", func(v Value) bool { return v.Type == Array && v.Elem == String })
	if err != nil {
		return nil, err
	}
	text, at := string(v.data), uint64(0)
	out := make([]string, v.n)
	for i := range out {
		n := binary.LittleEndian.Uint64(v.data[at:])
		at += 8
		out[i] = text[at : at+n]
		at += n
	}
	return out, nil
}

func (v Value) numbers() bool { return v.Type == Array && v.numeric() }

// Floats is the value of key, an array of any numeric type, as float32.
func (f *File) Floats(key string) ([]float32, error) {
	v, err := f.get(key, "an array of numbers", Value.numbers)
	if err != nil {
		return nil, err
	}
	out := make([]float32, v.n)
	for i := range out {
		out[i] = float32(v.number(uint64(i)).float)
	}
	return out, nil
}

// Ints is the value of key, an array of any integer type whose values fit an int32.
func (f *File) Ints(key string) ([]int32, error) {
	const want = "an array of 32-bit integers"
	v, err := f.get(key, want, Value.numbers)
	if err != nil {
		return nil, err
	}
	out := make([]int32, v.n)
	for i := range out {
		n := v.number(uint64(i))
		if s := int64(n.bits); !n.integer || s != int64(int32(s)) || (s < 0) != n.negative {
			return nil, fmt.Errorf("gguf: %s: metadata key %q: found %s whose element %d is %s, expected %s", f.name, key, v.describe(), i, v.element(uint64(i), v.data), want)
		}
		out[i] = int32(n.bits)
	}
	return out, nil
}

// Bools is the value of key, an array of bools.
func (f *File) Bools(key string) ([]bool, error) {
	v, err := f.get(key, "an array of bools", func(v Value) bool { return v.Type == Array && v.Elem == Bool })
	if err != nil {
		return nil, err
	}
	out := make([]bool, v.n)
	for i := range out {
		out[i] = v.data[i] != 0
	}
	return out, nil
}
