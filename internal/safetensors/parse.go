package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"
)

const (
	maxHeader   = 100_000_000 // bytes of the header; the format's own bound
	maxDims     = 8
	metadataKey = "__metadata__"
)

// Parse checks a file that lies in memory. name stands in error messages. The File keeps data, which must not change while it
// is used.
func Parse(name string, data []byte) (*File, error) {
	s, f := scanner{file: name, data: data}, &File{name: name, data: data}
	length := field{what: "header length"}
	if len(data) < 8 {
		return nil, s.fail(0, length, "expected 8 bytes, but the file ends after %d", len(data))
	}
	size := binary.LittleEndian.Uint64(data)
	if most := min(maxHeader, uint64(len(data))-8); size > most {
		return nil, s.fail(0, length, "a header of %d bytes, expected at most %d in a file of %d", size, most, len(data))
	}
	f.start = 8 + size
	s.end = f.start
	if header := data[8:f.start]; !utf8.Valid(header) {
		return nil, s.fail(8, field{what: "header"}, "the text is not valid UTF-8")
	}

	// Once to check and count, once to keep: the index is then no larger than it must be.
	tensors, keys := 0, 0
	err := s.header(func(entry) { tensors++ }, func(uint32) { keys++ })
	if err != nil {
		return nil, err
	}
	f.entries, f.metadata = make([]entry, 0, tensors), make([]uint32, 0, keys)
	err = s.header(func(e entry) { f.entries = append(f.entries, e) }, func(at uint32) { f.metadata = append(f.metadata, at) })
	if err != nil {
		return nil, err
	}
	if i, found := f.order(); found {
		return nil, s.fail(uint64(f.entries[i].name), field{"tensor", f.nameOf(i)}, "the name stands twice")
	}
	if err := s.metadataOnce(f.metadata); err != nil {
		return nil, err
	}
	return f, f.placement(&s)
}

// header passes over the header, and calls back for every tensor and for every key of the metadata.
func (s *scanner) header(tensor func(entry), metadata func(at uint32)) error {
	s.at = 8
	f, seen := field{what: "header"}, false
	err := s.list('{', '}', f, func(int) error {
		s.peek()
		start := s.at
		name, err := s.key(f)
		if err != nil {
			return err
		}
		if string(name) == metadataKey {
			if seen {
				return s.fail(start, field{what: "metadata"}, "it stands twice")
			}
			seen = true
			return s.list('{', '}', field{what: "metadata"}, func(int) error {
				s.peek()
				metadata(uint32(s.at))
				key, err := s.key(field{what: "metadata key"})
				if err == nil {
					_, err = s.string(field{"metadata of key", key})
				}
				return err
			})
		}
		e := entry{name: uint32(start + 1), nameSize: uint32(len(name))}
		if err := s.tensor(name, &e); err != nil {
			return err
		}
		tensor(e)
		return nil
	})
	if err != nil {
		return err
	}
	if c := s.peek(); s.at < s.end {
		return s.fail(s.at, f, "found %q behind the header's end", c)
	}
	return nil
}

// tensor passes over the description of a tensor: its three fields, each once, in any order.
func (s *scanner) tensor(name []byte, e *entry) error {
	const hasDType, hasShape, hasOffsets = 1, 2, 4
	seen, elements, start := 0, uint64(1), s.at
	f := field{"tensor", name}
	once := func(bit int, at uint64) error {
		if seen&bit != 0 {
			return s.fail(at, f, "the field stands twice")
		}
		seen |= bit
		return nil
	}
	err := s.list('{', '}', f, func(int) error {
		s.peek()
		at := s.at
		key, err := s.key(f)
		if err != nil {
			return err
		}
		switch string(key) {
		case "dtype":
			if err := once(hasDType, at); err != nil {
				return err
			}
			return s.dtype(name, e)
		case "shape":
			if err := once(hasShape, at); err != nil {
				return err
			}
			elements, err = s.shape(name, e)
			return err
		case "data_offsets":
			if err := once(hasOffsets, at); err != nil {
				return err
			}
			return s.offsets(name, e)
		}
		return s.fail(at, f, "found the field %.50q, expected dtype, shape or data_offsets", key)
	})
	if err != nil {
		return err
	}
	if seen != hasDType|hasShape|hasOffsets {
		return s.fail(start, f, "dtype, shape or data_offsets is missing")
	}
	high, size := bits.Mul64(elements, dtypes[e.dtype].size)
	if high != 0 || e.end < e.begin || e.end-e.begin != size {
		return s.fail(start, f, "data from %d to %d, expected %d elements of type %s", e.begin, e.end, elements, dtypes[e.dtype].name)
	}
	return nil
}

func (s *scanner) dtype(name []byte, e *entry) error {
	f := field{"dtype of tensor", name}
	raw, err := s.string(f)
	if err != nil {
		return err
	}
	for i, d := range dtypes {
		if string(raw[1:len(raw)-1]) == string(d.name) {
			e.dtype = uint8(i)
			return nil
		}
	}
	return s.fail(s.at-uint64(len(raw)), f, "%.50s is not supported", raw)
}

// shape passes over the dimensions and gives their product.
func (s *scanner) shape(name []byte, e *entry) (elements uint64, err error) {
	f, empty := field{"shape of tensor", name}, false
	s.peek()
	e.shape, elements = uint32(s.at), 1
	err = s.integers(f, func(i int, n uint64) error {
		if i >= maxDims {
			return s.fail(s.at, f, "more than %d dimensions", maxDims)
		}
		e.dims++
		if n == 0 { // the others are still held to the bound
			empty = true
			return nil
		}
		high, low := bits.Mul64(elements, n)
		if high != 0 || low > math.MaxInt64 {
			return s.fail(s.at, f, "dimension %d of %d makes the number of elements overflow", i, n)
		}
		elements = low
		return nil
	})
	if empty {
		elements = 0
	}
	return elements, err
}

func (s *scanner) offsets(name []byte, e *entry) error {
	f, found := field{"data_offsets of tensor", name}, 0
	s.peek()
	start := s.at
	err := s.integers(f, func(i int, n uint64) error {
		switch found++; i {
		case 0:
			e.begin = n
		case 1:
			e.end = n
		}
		return nil
	})
	if err == nil && found != 2 {
		err = s.fail(start, f, "found %d numbers, expected 2", found)
	}
	return err
}

// metadataOnce fails where a key of the metadata stands twice.
func (s *scanner) metadataOnce(keys []uint32) error {
	key := func(at uint32) []byte {
		k := scanner{data: s.data, at: uint64(at), end: s.end}
		raw, _ := k.key(field{}) // passed before
		return raw
	}
	slices.SortFunc(keys, func(a, b uint32) int { return cmp.Or(bytes.Compare(key(a), key(b)), cmp.Compare(a, b)) })
	for i := 1; i < len(keys); i++ {
		if bytes.Equal(key(keys[i-1]), key(keys[i])) {
			return s.fail(uint64(keys[i]), field{"metadata key", key(keys[i])}, "the key stands twice")
		}
	}
	return nil
}

// placement checks that the tensors' data fill the rest of the file, without overlap or hole.
func (f *File) placement(s *scanner) error {
	byOffset := make([]uint32, len(f.entries))
	for i := range byOffset {
		byOffset[i] = uint32(i)
	}
	slices.SortFunc(byOffset, func(a, b uint32) int {
		x, y := f.entries[a], f.entries[b]
		return cmp.Or(cmp.Compare(x.begin, y.begin), cmp.Compare(x.end, y.end), cmp.Compare(a, b))
	})
	room, next := uint64(len(f.data))-f.start, uint64(0)
	for _, i := range byOffset {
		e := f.entries[i]
		what := field{"data_offsets of tensor", f.nameOf(i)}
		if e.end > room {
			return s.fail(uint64(e.name), what, "data from %d to %d reach beyond the end of the file (%d bytes of data)", e.begin, e.end, room)
		}
		if e.begin != next {
			return s.fail(uint64(e.name), what, "data from %d on, expected from %d on, where the tensor before ends", e.begin, next)
		}
		next = e.end
	}
	if next != room {
		return s.fail(f.start+next, field{what: "tensor data"}, "%d bytes belong to no tensor", room-next)
	}
	return nil
}
