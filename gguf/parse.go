package gguf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/twilight-go/twilight/internal/tensor"
)

const (
	magic            = "GGUF"
	maxVersion       = 3
	maxDims          = 4
	defaultAlignment = 32
	alignmentKey     = "general.alignment"

	// The smallest entries that the format allows: counts beyond what fits in the file are refused unread.
	minKeySize    = 8 + 1 + 4 + 1         // name length, one letter, type, one byte
	minTensorSize = 8 + 1 + 4 + 8 + 4 + 8 // name length, one letter, dimension count, one dimension, type, offset
)

// Parse checks a GGUF file that lies in memory. name stands in error messages. The File keeps data, which must not
// change while it is used.
func Parse(name string, data []byte) (*File, error) {
	p := &parser{File: &File{name: name, data: data, alignment: defaultAlignment}}
	if err := p.parse(); err != nil {
		return nil, err
	}
	return p.File, nil
}

// parser reads the header from front to back; at is the next byte.
type parser struct {
	*File
	at uint64
}

func (p *parser) fail(at uint64, field, format string, args ...any) error {
	return &FormatError{File: p.name, Field: field, Offset: at, Problem: fmt.Sprintf(format, args...)}
}

func (p *parser) left() uint64 { return uint64(len(p.data)) - p.at }

// need fails unless n more bytes are in the file.
func (p *parser) need(n uint64, field string) error {
	if n > p.left() {
		return p.fail(p.at, field, "needs %d bytes, but the file ends after %d", n, p.left())
	}
	return nil
}

func (p *parser) uint32(field string) (uint32, error) {
	if err := p.need(4, field); err != nil {
		return 0, err
	}
	p.at += 4
	return binary.LittleEndian.Uint32(p.data[p.at-4:]), nil
}

func (p *parser) uint64(field string) (uint64, error) {
	if err := p.need(8, field); err != nil {
		return 0, err
	}
	p.at += 8
	return binary.LittleEndian.Uint64(p.data[p.at-8:]), nil
}

// string passes over a string, length first, and returns its bytes in place.
func (p *parser) string(field string) ([]byte, error) {
	start := p.at
	n, err := p.uint64(field)
	if err != nil {
		return nil, err
	}
	if n > p.left() {
		return nil, p.fail(start, field, "a string of %d bytes, but the file ends after %d", n, p.left())
	}
	p.at += n
	return p.data[p.at-n : p.at], nil
}

// maxName bounds keys and tensor names, as the format does for keys.
const maxName = math.MaxUint16

// entryName passes over the name that begins an entry.
func (p *parser) entryName(field string) ([]byte, error) {
	start := p.at
	name, err := p.string(field)
	if err == nil && (len(name) == 0 || len(name) > maxName) {
		err = p.fail(start, field, "the name has %d bytes, expected 1 to %d", len(name), maxName)
	}
	return name, err
}

func (p *parser) parse() error {
	if err := p.need(4, "magic"); err != nil {
		return err
	}
	if found := p.data[:4]; string(found) != magic {
		return p.fail(0, "magic", "found %q, expected %q: this is not a GGUF file", found, magic)
	}
	p.at = 4
	var err error
	if p.Version, err = p.uint32("version"); err != nil {
		return err
	}
	switch v := p.Version; {
	case v == 1:
		return p.fail(4, "version", "version 1 is not supported: expected 2 or %d; convert the file", maxVersion)
	case v != 0 && v&0xffff == 0:
		return p.fail(4, "version", "the file is big-endian (version %d): expected little-endian; convert the file", bits.ReverseBytes32(v))
	case v < 2 || v > maxVersion:
		return p.fail(4, "version", "found %d, expected 2 or %d", v, maxVersion)
	}

	countsAt := p.at
	tensors, err := p.uint64("tensor count")
	if err != nil {
		return err
	}
	keys, err := p.uint64("metadata count")
	if err != nil {
		return err
	}
	if most := min(p.left()/minTensorSize, math.MaxUint32); tensors > most {
		return p.fail(countsAt, "tensor count", "%d tensors, but the file has room for %d at most", tensors, most)
	}
	if most := min((p.left()-tensors*minTensorSize)/minKeySize, math.MaxUint32); keys > most {
		return p.fail(countsAt+8, "metadata count", "%d keys beside %d tensors, but the file has room for %d at most", keys, tensors, most)
	}
	if err := p.metadata(keys); err != nil {
		return err
	}
	return p.directory(tensors)
}

// metadata checks the keys and their values.
func (p *parser) metadata(n uint64) error {
	p.keys.at = make([]uint64, n)
	for i := range p.keys.at {
		start := p.at
		p.keys.at[i] = start
		key, err := p.entryName("name of a metadata key")
		if err != nil {
			return err
		}
		if err := p.value(key); err != nil {
			return err
		}
	}
	if at, found := p.keys.order(p.data); found {
		return p.fail(at, keyField(nameAt(p.data, at)), "the key stands twice")
	}
	at, ok := p.keys.find(p.data, alignmentKey)
	if !ok {
		return nil
	}
	v := p.valueAt(at)
	field := keyField([]byte(alignmentKey))
	if v.Type != Uint32 {
		return p.fail(at, field, "found type %s, expected %s", v.Type, Uint32)
	}
	p.alignment = uint64(binary.LittleEndian.Uint32(v.data))
	if bits.OnesCount64(p.alignment) != 1 {
		return p.fail(at, field, "found %d, expected a power of two", p.alignment)
	}
	return nil
}

// value checks the type and the bytes of a key's value.
func (p *parser) value(key []byte) error {
	typ, count, start := ValueType(0), uint64(1), p.at
	raw, err := p.uint32("")
	if typ = ValueType(raw); err == nil && typ == Array {
		if raw, err = p.uint32(""); err == nil {
			typ = ValueType(raw)
			count, err = p.uint64("")
		}
	}
	size, known := typ.size()
	switch {
	case err != nil:
		return p.fail(start, keyField(key), "the file ends in the value's type")
	case typ == Array:
		return p.fail(start, keyField(key), "an array of arrays is not supported")
	case typ == String:
		return p.strings(key, count)
	case !known:
		return p.fail(start, keyField(key), "unknown %s", typ)
	case count > p.left()/size:
		return p.fail(start, keyField(key), "%d values of type %s, but the file ends after %d bytes", count, typ, p.left())
	}
	values := p.data[p.at : p.at+count*size]
	if typ == Bool {
		if i := slices.IndexFunc(values, func(b byte) bool { return b > 1 }); i >= 0 {
			return p.fail(p.at+uint64(i), keyField(key), "found %d for a bool, expected 0 or 1", values[i])
		}
	}
	p.at += count * size
	return nil
}

// strings passes over count strings. Vocabularies have hundreds of thousands, so the loop builds no error text ahead.
func (p *parser) strings(key []byte, count uint64) error {
	data, at := p.data, p.at
	for i := range count {
		left := uint64(len(data)) - at
		if left < 8 {
			return p.fail(at, keyField(key), "the file ends before string %d of %d", i, count)
		}
		n := binary.LittleEndian.Uint64(data[at:])
		if n > left-8 {
			return p.fail(at, keyField(key), "string %d of %d has %d bytes, but the file ends after %d", i, count, n, left-8)
		}
		at += 8 + n
	}
	p.at = at
	return nil
}

// directory checks the tensors' entries, and that their data lie in the file, aligned, without overlap.
func (p *parser) directory(n uint64) error {
	p.tensors.at = make([]uint64, n)
	for i := range p.tensors.at {
		p.tensors.at[i] = p.at
		if err := p.tensor(); err != nil {
			return err
		}
	}
	if at, found := p.tensors.order(p.data); found {
		return p.fail(at, tensorField(nameAt(p.data, at)), "the name stands twice")
	}
	p.headerEnd, p.dataStart = p.at, p.at
	if n == 0 { // vocabulary-only files end here, some without padding
		return nil
	}
	p.dataStart = (p.at + p.alignment - 1) &^ (p.alignment - 1)
	if p.dataStart > uint64(len(p.data)) {
		return p.fail(p.at, "tensor data", "expected from offset %d on, but the file has %d bytes", p.dataStart, len(p.data))
	}
	return p.placement()
}

// tensor checks one entry by itself: its name, dimensions, type, and a size that can be counted.
func (p *parser) tensor() error {
	name, err := p.entryName("name of a tensor")
	if err != nil {
		return err
	}
	field, start := func() string { return tensorField(name) }, p.at
	dims, err := p.uint32("dimension count of a tensor")
	if err != nil {
		return p.fail(start, field(), "the file ends in the dimension count")
	}
	if dims < 1 || dims > maxDims {
		return p.fail(start, field(), "found %d dimensions, expected 1 to %d", dims, maxDims)
	}
	elements, first := uint64(1), uint64(0)
	for i := range dims {
		at := p.at
		d, err := p.uint64("dimension of a tensor")
		if err != nil {
			return p.fail(at, field(), "the file ends in dimension %d of %d", i, dims)
		}
		if d == 0 {
			return p.fail(at, field(), "dimension %d is 0", i)
		}
		// The product is kept below 2^59, so that a size in bytes (at most 8 an element) cannot overflow either.
		high, low := bits.Mul64(elements, d)
		if high != 0 || low > math.MaxInt64>>4 {
			return p.fail(at, field(), "dimension %d of %d makes the number of elements overflow", i, d)
		}
		if elements = low; i == 0 {
			first = d
		}
	}
	at := p.at
	raw, err := p.uint32("type of a tensor")
	if err != nil {
		return p.fail(at, field(), "the file ends in the type")
	}
	typ := tensor.Type(raw)
	if !typ.Known() {
		return p.fail(at, field(), "%s is unknown or was removed from the format", typ)
	}
	if block := uint64(typ.BlockLen()); first%block != 0 {
		return p.fail(at, field(), "a row of %d elements is not a whole number of %s blocks (%d elements each)", first, typ, block)
	}
	at = p.at
	if _, err := p.uint64("offset of a tensor"); err != nil {
		return p.fail(at, field(), "the file ends in the data offset")
	}
	return nil
}

// placement checks where the tensors' data lie: aligned, inside the file, no two in the same bytes.
func (p *parser) placement() error {
	room := uint64(len(p.data)) - p.dataStart
	for _, at := range p.tensors.at {
		e := p.entry(at)
		if e.offset%p.alignment != 0 {
			return p.fail(at, tensorField(e.name), "data offset %d is not a multiple of the alignment %d", e.offset, p.alignment)
		}
		if e.offset > room || e.size > room-e.offset {
			return p.fail(at, tensorField(e.name), "%d bytes at data offset %d reach beyond the end of the file (%d bytes of tensor data)", e.size, e.offset, room)
		}
	}
	byOffset := slices.Clone(p.tensors.at)
	slices.SortFunc(byOffset, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(p.entry(a).offset, p.entry(b).offset), cmp.Compare(a, b))
	})
	for i := 1; i < len(byOffset); i++ {
		if a, b := p.entry(byOffset[i-1]), p.entry(byOffset[i]); a.offset+a.size > b.offset {
			return p.fail(byOffset[i], tensorField(b.name), "data offset %d lies inside tensor %s (offset %d, %d bytes)", b.offset, quote(a.name), a.offset, a.size)
		}
	}
	return nil
}

func keyField(key []byte) string     { return "metadata key " + quote(key) }
func tensorField(name []byte) string { return "tensor " + quote(name) }

// quote makes a name from the file fit for a message: quoted, and no longer than a line.
func quote(name []byte) string {
	const most = 100
	if len(name) > most {
		return fmt.Sprintf("%q...", name[:most])
	}
	return fmt.Sprintf("%q", name)
}
