package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"reflect"

	"github.com/twilight-go/twilight/internal/tensor"
)

// KV is a metadata entry to write. Value is a bool, a string, an integer of 8 to 64 bits, a float32 or float64, a slice of
// one of these, or a Value of an open file.
type KV struct {
	Key   string
	Value any
}

// Write writes a file of version 3. Tensors are laid out in the given order, each at the next multiple of the alignment
// (general.alignment in meta, else 32), whatever their Offset says; the same arguments always give the same bytes.
// Converters and tests call it.
func Write(w io.Writer, meta []KV, tensors []Tensor) error {
	return WriteVersion(w, maxVersion, meta, tensors)
}

// WriteVersion is Write for version 2 or 3, which differ in the version number alone.
func WriteVersion(w io.Writer, version uint32, meta []KV, tensors []Tensor) error {
	if version < 2 || version > maxVersion {
		return fmt.Errorf("gguf: writing: version %d, expected 2 or %d", version, maxVersion)
	}
	le := binary.LittleEndian
	header := append([]byte(magic), 0, 0, 0, 0)
	le.PutUint32(header[4:], version)
	header = le.AppendUint64(header, uint64(len(tensors)))
	header = le.AppendUint64(header, uint64(len(meta)))
	alignment := uint64(defaultAlignment)
	seen := names{}
	for _, kv := range meta {
		var err error
		header = appendString(header, kv.Key)
		if header, err = appendValue(header, kv.Value); err == nil {
			err = seen.add(kv.Key)
		}
		if kv.Key == alignmentKey && err == nil {
			a, ok := kv.Value.(uint32)
			if alignment = uint64(a); !ok || bits.OnesCount32(a) != 1 {
				err = fmt.Errorf("found %v (%[1]T), expected a uint32 that is a power of two", kv.Value)
			}
		}
		if err != nil {
			return fmt.Errorf("gguf: writing metadata key %q: %w", kv.Key, err)
		}
	}
	pad := func(n uint64) uint64 { return -n & (alignment - 1) }
	offset := uint64(0)
	seen = names{}
	for _, t := range tensors {
		err := t.check()
		if err == nil {
			err = seen.add(t.Name)
		}
		if err != nil {
			return fmt.Errorf("gguf: writing tensor %q: %w", t.Name, err)
		}
		header = appendString(header, t.Name)
		header = le.AppendUint32(header, uint32(len(t.Dims)))
		for _, d := range t.Dims {
			header = le.AppendUint64(header, d)
		}
		header = le.AppendUint32(header, uint32(t.Type))
		header = le.AppendUint64(header, offset)
		offset += uint64(len(t.Data)) + pad(uint64(len(t.Data)))
	}
	if len(tensors) > 0 {
		header = append(header, make([]byte, pad(uint64(len(header))))...)
	}

	out := bufio.NewWriter(w) // its first error stands until Flush
	out.Write(header)
	for _, t := range tensors {
		out.Write(t.Data)
		out.Write(make([]byte, pad(uint64(len(t.Data)))))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("gguf: writing: %w", err)
	}
	return nil
}

// names are the keys or tensor names written so far.
type names map[string]bool

func (n names) add(name string) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("the name has %d bytes, expected 1 to %d", len(name), maxName)
	}
	if n[name] {
		return errors.New("the name stands twice")
	}
	n[name] = true
	return nil
}

// check fails where a tensor's dimensions, type and data disagree.
func (t Tensor) check() error {
	if len(t.Dims) < 1 || len(t.Dims) > maxDims {
		return fmt.Errorf("found %d dimensions, expected 1 to %d", len(t.Dims), maxDims)
	}
	rows := uint64(1)
	for _, d := range t.Dims[1:] {
		high, low := bits.Mul64(rows, d)
		if high != 0 {
			return fmt.Errorf("dimensions %d overflow", t.Dims)
		}
		rows = low
	}
	row, err := tensor.RowBytes(t.Type, int(min(t.Dims[0], math.MaxInt)))
	if err != nil {
		return err
	}
	if high, size := bits.Mul64(rows, uint64(row)); high != 0 || size == 0 || size != uint64(len(t.Data)) {
		return fmt.Errorf("found %d bytes of data, expected %d rows of %d bytes (%d × %d %s)", len(t.Data), rows, row, rows, t.Dims[0], t.Type)
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

// appendValue appends a value's type and bytes.
func appendValue(b []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case Value:
		return append(appendType(b, v.Type, v.Elem, v.Len()), v.data...), nil
	case string:
		return appendString(appendType(b, String, String, 1), v), nil
	case []string:
		b = appendType(b, Array, String, len(v))
		for _, s := range v {
			b = appendString(b, s)
		}
		return b, nil
	}
	elem, known := elemTypes[reflect.TypeOf(value)]
	if known {
		return binary.Append(appendType(b, elem, elem, 1), binary.LittleEndian, value)
	}
	if r := reflect.ValueOf(value); r.Kind() == reflect.Slice {
		if elem, known = elemTypes[r.Type().Elem()]; known {
			return binary.Append(appendType(b, Array, elem, r.Len()), binary.LittleEndian, value)
		}
	}
	return nil, fmt.Errorf("the format has no type for a %T", value)
}

// elemTypes are the fixed-size Go types that have a value type.
var elemTypes = map[reflect.Type]ValueType{
	reflect.TypeFor[uint8](): Uint8, reflect.TypeFor[int8](): Int8, reflect.TypeFor[uint16](): Uint16, reflect.TypeFor[int16](): Int16,
	reflect.TypeFor[uint32](): Uint32, reflect.TypeFor[int32](): Int32, reflect.TypeFor[uint64](): Uint64, reflect.TypeFor[int64](): Int64,
	reflect.TypeFor[float32](): Float32, reflect.TypeFor[float64](): Float64, reflect.TypeFor[bool](): Bool,
}

// appendType appends a value's type, and an array's element type and length.
func appendType(b []byte, typ, elem ValueType, n int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(typ))
	if typ == Array {
		b = binary.LittleEndian.AppendUint32(b, uint32(elem))
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	return b
}
