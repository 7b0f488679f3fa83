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
	maxName          = math.MaxUint16 // bytes of a key or a tensor name; the format says so of keys
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

// field is what is being read. It becomes text only when something is wrong with it.
type field struct {
	what string
	name []byte // of the key or the tensor that it belongs to, if known
}

func (f field) String() string {
	if f.name == nil {
		return f.what
	}
	return f.what + " " + quote(f.name)
}

// quote makes a name from the file fit for a message: quoted, and no longer than a line.
func quote(name []byte) string {
	const most = 100
	if len(name) > most {
		return fmt.Sprintf("%q...", name[:most])
	}
	return fmt.Sprintf("%q", name)
}

func (p *parser) fail(at uint64, f field, format string, args ...any) error {
	return &FormatError{File: p.name, Field: f.String(), Offset: at, Problem: fmt.Sprintf(format, args...)}
}

func (p *parser) left() uint64 { return uint64(len(p.data)) - p.at }

// take passes over n bytes.
func (p *parser) take(n uint64, f field) ([]byte, error) {
	if n > p.left() {
		return nil, p.fail(p.at, f, "expected %d bytes, but the file ends after %d", n, p.left())
	}
	p.at += n
	return p.data[p.at-n : p.at], nil
}

func (p *parser) uint32(f field) (uint32, error) {
	b, err := p.take(4, f)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (p *parser) uint64(f field) (uint64, error) {
	b, err := p.take(8, f)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// entryName passes over the name, length first, that begins an entry.
func (p *parser) entryName(f field) ([]byte, error) {
	start := p.at
	n, err := p.uint64(f)
	if err != nil {
		return nil, err
	}
	if n == 0 || n > maxName {
		return nil, p.fail(start, f, "the name has %d bytes, expected 1 to %d", n, maxName)
	}
	return p.take(n, f)
}

func (p *parser) parse() error {
	found, err := p.take(4, field{what: "magic"})
	if err != nil {
		return err
	}
	if string(found) != magic {
		return p.fail(0, field{what: "magic"}, "found %q, expected %q: this is not a GGUF file", found, magic)
	}
	version := field{what: "version"}
	if p.Version, err = p.uint32(version); err != nil {
		return err
	}
	switch v := p.Version; {
	case v == 1:
		return p.fail(4, version, "version 1 is not supported, expected 2 or %d: convert the file", maxVersion)
	case v != 0 && v&0xffff == 0:
		return p.fail(4, version, "the file is big-endian (version %d), expected little-endian: convert the file", bits.ReverseBytes32(v))
	case v < 2 || v > maxVersion:
		return p.fail(4, version, "found %d, expected 2 or %d", v, maxVersion)
	}
	tensorCount, keyCount := field{what: "tensor count"}, field{what: "metadata count"}
	tensors, err := p.uint64(tensorCount)
	if err != nil {
		return err
	}
	keys, err := p.uint64(keyCount)
	if err != nil {
		return err
	}
	if most := min(p.left()/minTensorSize, math.MaxUint32); tensors > most {
		return p.fail(p.at-16, tensorCount, "%d tensors, but the file has room for %d at most", tensors, most)
	}
	if most := min((p.left()-tensors*minTensorSize)/minKeySize, math.MaxUint32); keys > most {
		return p.fail(p.at-8, keyCount, "%d keys beside %d tensors, but the file has room for %d at most", keys, tensors, most)
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
		p.keys.at[i] = p.at
		key, err := p.entryName(field{what: "name of a metadata key"})
		if err == nil {
			err = p.value(key)
		}
		if err != nil {
			return err
		}
	}
	if at, found := p.keys.order(p.data); found {
		return p.fail(at, field{"metadata key", nameAt(p.data, at)}, "the key stands twice")
	}
	at, found := p.keys.find(p.data, alignmentKey)
	if !found {
		return nil
	}
	v, f := p.valueAt(at), field{"metadata key", nameAt(p.data, at)}
	if v.Type != Uint32 {
		return p.fail(at, f, "found %s, expected %s", v.describe(), Uint32)
	}
	p.alignment = uint64(binary.LittleEndian.Uint32(v.data))
	if bits.OnesCount64(p.alignment) != 1 {
		return p.fail(at, f, "found %d, expected a power of two", p.alignment)
	}
	return nil
}

// value checks the type and the bytes of a key's value.
func (p *parser) value(key []byte) error {
	f, start, count := field{"value type of metadata key", key}, p.at, uint64(1)
	raw, err := p.uint32(f)
	if err != nil {
		return err
	}
	if ValueType(raw) == Array {
		f.what = "element type of metadata key"
		if raw, err = p.uint32(f); err != nil {
			return err
		}
		if count, err = p.uint64(field{"array length of metadata key", key}); err != nil {
			return err
		}
	}
	typ := ValueType(raw)
	size, fixed := typ.size()
	switch {
	case typ == Array:
		return p.fail(start, f, "an array of arrays is not supported")
	case typ == String:
		return p.strings(key, count)
	case !fixed:
		return p.fail(start, f, "%s is unknown", typ)
	}
	f.what = "metadata key"
	if count > p.left()/size {
		return p.fail(start, f, "%d values of type %s, but the file ends after %d bytes", count, typ, p.left())
	}
	values, err := p.take(count*size, f)
	if err != nil || typ != Bool {
		return err
	}
	if i := slices.IndexFunc(values, func(b byte) bool { return b > 1 }); i >= 0 {
		return p.fail(p.at-count+uint64(i), f, "found %d for a bool, expected 0 or 1", values[i])
	}
	return nil
}

// strings passes over the count strings of a key, which may be hundreds of thousands.
func (p *parser) strings(key []byte, count uint64) error {
	f := field{"metadata key", key}
	for i := range count {
		start := p.at
		n, err := p.uint64(f)
		if err != nil {
			return err
		}
		if n > p.left() {
			return p.fail(start, f, "string %d of %d has %d bytes, but the file ends after %d", i, count, n, p.left())
		}
		p.at += n
	}
	return nil
}

// directory checks the tensors' entries and where their data lie.
func (p *parser) directory(n uint64) error {
	p.tensors.at = make([]uint64, n)
	for i := range p.tensors.at {
		p.tensors.at[i] = p.at
		if err := p.tensor(); err != nil {
			return err
		}
	}
	if at, found := p.tensors.order(p.data); found {
		return p.fail(at, field{"tensor", nameAt(p.data, at)}, "the name stands twice")
	}
	p.headerEnd, p.dataStart = p.at, p.at
	if n == 0 { // vocabulary-only files end here, some without padding
		return nil
	}
	p.dataStart = (p.at + p.alignment - 1) &^ (p.alignment - 1)
	if p.dataStart > uint64(len(p.data)) {
		return p.fail(p.at, field{what: "tensor data"}, "expected from offset %d on, but the file has %d bytes", p.dataStart, len(p.data))
	}
	return p.placement()
}

// tensor checks one entry by itself: its name, dimensions, type, and that its size can be counted.
func (p *parser) tensor() error {
	name, err := p.entryName(field{what: "name of a tensor"})
	if err != nil {
		return err
	}
	f := field{"dimension count of tensor", name}
	dims, err := p.uint32(f)
	if err != nil {
		return err
	}
	if dims < 1 || dims > maxDims {
		return p.fail(p.at-4, f, "found %d, expected 1 to %d", dims, maxDims)
	}
	f.what = "dimensions of tensor"
	elements, row := uint64(1), uint64(0)
	for i := range dims {
		d, err := p.uint64(f)
		if err != nil {
			return err
		}
		if d == 0 {
			return p.fail(p.at-8, f, "dimension %d is 0", i)
		}
		// The product is kept so low that a size in bytes, at most 8 an element, cannot overflow either.
		high, low := bits.Mul64(elements, d)
		if high != 0 || low > math.MaxInt64/8 {
			return p.fail(p.at-8, f, "dimension %d of %d makes the number of elements overflow", i, d)
		}
		if elements = low; i == 0 {
			row = d
		}
	}
	f.what = "type of tensor"
	raw, err := p.uint32(f)
	if err != nil {
		return err
	}
	typ := tensor.Type(raw)
	if !typ.Known() {
		return p.fail(p.at-4, f, "%s is unknown, or was removed from the format", typ)
	}
	if block := uint64(typ.BlockLen()); row%block != 0 {
		return p.fail(p.at-4, f, "a row of %d elements is not a whole number of %s blocks (%d elements each)", row, typ, block)
	}
	_, err = p.uint64(field{"data offset of tensor", name})
	return err
}

// placement checks where the tensors' data lie: aligned, inside the file, no two in the same bytes.
func (p *parser) placement() error {
	room := uint64(len(p.data)) - p.dataStart
	for _, at := range p.tensors.at {
		e := p.entry(at)
		f := field{"data offset of tensor", e.name}
		if e.offset%p.alignment != 0 {
			return p.fail(at, f, "found %d, expected a multiple of the alignment %d", e.offset, p.alignment)
		}
		if e.offset > room || e.size > room-e.offset {
			return p.fail(at, f, "%d bytes at data offset %d reach beyond the end of the file (%d bytes of tensor data)", e.size, e.offset, room)
		}
	}
	byOffset := slices.Clone(p.tensors.at)
	slices.SortFunc(byOffset, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(p.entry(a).offset, p.entry(b).offset), cmp.Compare(a, b))
	})
	for i := 1; i < len(byOffset); i++ {
		if a, b := p.entry(byOffset[i-1]), p.entry(byOffset[i]); a.offset+a.size > b.offset {
			return p.fail(byOffset[i], field{"data offset of tensor", b.name}, "found %d, inside tensor %s (%d bytes at %d)", b.offset, quote(a.name), a.size, a.offset)
		}
	}
	return nil
}
