package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// ValueType is the type of a metadata value, numbered as in the file.
type ValueType uint32

// The value types of the format.
const (
	Uint8   ValueType = 0
	Int8    ValueType = 1
	Uint16  ValueType = 2
	Int16   ValueType = 3
	Uint32  ValueType = 4
	Int32   ValueType = 5
	Float32 ValueType = 6
	Bool    ValueType = 7
	String  ValueType = 8
	Array   ValueType = 9
	Uint64  ValueType = 10
	Int64   ValueType = 11
	Float64 ValueType = 12
)

var valueTypes = [...]struct {
	name string
	size uint64 // bytes of a value, 0 where it varies
}{
	Uint8: {"uint8", 1}, Int8: {"int8", 1}, Uint16: {"uint16", 2}, Int16: {"int16", 2}, Uint32: {"uint32", 4}, Int32: {"int32", 4},
	Float32: {"float32", 4}, Bool: {"bool", 1}, String: {"string", 0}, Array: {"array", 0}, Uint64: {"uint64", 8}, Int64: {"int64", 8}, Float64: {"float64", 8},
}

// String is the type's name in Go's words.
func (t ValueType) String() string {
	if int(t) < len(valueTypes) {
		return valueTypes[t].name
	}
	return fmt.Sprintf("value type %d", uint32(t))
}

// size is the number of bytes of a value of a fixed-size type.
func (t ValueType) size() (n uint64, fixed bool) {
	if int(t) >= len(valueTypes) {
		return 0, false
	}
	n = valueTypes[t].size
	return n, n > 0
}

// Value is a metadata value in place in the file, valid until Close.
type Value struct {
	Type ValueType
	Elem ValueType // of an array's elements; equal to Type for a single value
	n    uint64
	data []byte // the elements as they lie in the file
}

// Len is the number of elements, 1 for a single value.
func (v Value) Len() int { return int(v.n) }

// describe is the type as errors name it.
func (v Value) describe() string {
	if v.Type == Array {
		return fmt.Sprintf("array of %d %s", v.n, v.Elem)
	}
	return v.Type.String()
}

// String is the value for people to read: a single value in full, of an array its first elements and its length.
func (v Value) String() string {
	if v.Type != Array {
		return v.element(0, v.data)
	}
	const most = 8
	var b strings.Builder
	b.WriteByte('[')
	data := v.data
	for i := range min(v.n, most) {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(v.element(i, data))
		if v.Elem == String {
			data = data[8+binary.LittleEndian.Uint64(data):]
		}
	}
	if v.n > most {
		fmt.Fprintf(&b, ", ... %d in all", v.n)
	}
	b.WriteByte(']')
	return b.String()
}

// element formats element i; data begins at it where elements are strings, else at the first.
func (v Value) element(i uint64, data []byte) string {
	switch {
	case v.Elem == String && v.Type == Array:
		return fmt.Sprintf("%q", nameAt(data, 0))
	case v.Elem == String:
		return string(nameAt(data, 0))
	case v.Elem == Bool:
		return fmt.Sprint(data[i] != 0)
	}
	n := v.number(i)
	switch v.Elem {
	case Float32:
		return fmt.Sprint(float32(n.float))
	case Float64:
		return fmt.Sprint(n.float)
	case Uint64:
		return fmt.Sprint(n.bits)
	}
	return fmt.Sprint(int64(n.bits))
}

// number is an element of a numeric type, in each of the forms that getters need.
type number struct {
	bits     uint64  // an integer, sign-extended
	negative bool    // bits is a negative int64
	float    float64 // the value; rounded where an integer is beyond 2^53
	integer  bool
}

// number reads element i of a numeric value.
func (v Value) number(i uint64) number {
	unsigned := func(u uint64) number { return number{bits: u, float: float64(u), integer: true} }
	signed := func(s int64) number {
		return number{bits: uint64(s), negative: s < 0, float: float64(s), integer: true}
	}
	le, d := binary.LittleEndian, v.data
	switch v.Elem {
	case Uint8:
		return unsigned(uint64(d[i]))
	case Int8:
		return signed(int64(int8(d[i])))
	case Uint16:
		return unsigned(uint64(le.Uint16(d[2*i:])))
	case Int16:
		return signed(int64(int16(le.Uint16(d[2*i:]))))
	case Uint32:
		return unsigned(uint64(le.Uint32(d[4*i:])))
	case Int32:
		return signed(int64(int32(le.Uint32(d[4*i:]))))
	case Uint64:
		return unsigned(le.Uint64(d[8*i:]))
	case Int64:
		return signed(int64(le.Uint64(d[8*i:])))
	case Float32:
		return number{float: float64(math.Float32frombits(le.Uint32(d[4*i:])))}
	}
	return number{float: math.Float64frombits(le.Uint64(d[8*i:]))}
}

// numeric reports whether elements are numbers.
func (v Value) numeric() bool { return v.Elem != String && v.Elem != Bool }
