// Package safetensors reads safetensors, the format of unquantised checkpoints: a JSON header that names tensors and says where
// they lie, then their data, which is used in place from a memory mapping. A checkpoint is one file, or several with an index.
//
// A file is checked whole when it is opened, by the rules of the format's reference: no name twice, data that fill the file
// without overlap or hole. A damaged file gives a [FormatError] with the file, the field and its offset; parsing never panics on
// data, and never allocates more than the data's own size.
package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/twilight-go/twilight/internal/mem"
	"github.com/twilight-go/twilight/internal/tensor"
)

// FormatError says where and how a file departs from the format.
type FormatError struct {
	File    string // the name given to Open or Parse
	Field   string // what was being read, as `shape of tensor "lm_head.weight"`
	Offset  uint64 // where it lies, in bytes from the start of the file
	Problem string // what was found, and what was expected
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("safetensors: %s: %s at offset %d: %s", e.File, e.Field, e.Offset, e.Problem)
}

// DType is an element type, by the format's name for it.
type DType string

// dtype is an element type that is read: its size in bytes, and what tensor.Decode knows it as, if it does.
type dtype struct {
	name    DType
	size    uint64
	typ     tensor.Type
	decodes bool
}

var dtypes = [...]dtype{
	{"F32", 4, tensor.F32, true}, {"F16", 2, tensor.F16, true}, {"BF16", 2, tensor.BF16, true}, {"F64", 8, tensor.F64, true},
	{"I8", 1, tensor.I8, true}, {"I16", 2, tensor.I16, true}, {"I32", 4, tensor.I32, true}, {"I64", 8, tensor.I64, true},
	{name: "U8", size: 1}, {name: "U16", size: 2}, {name: "U32", size: 4}, {name: "U64", size: 8}, {name: "BOOL", size: 1},
	{name: "F8_E4M3", size: 1}, {name: "F8_E5M2", size: 1},
}

// Tensor is a tensor of a file.
type Tensor struct {
	Name  string
	DType DType
	Shape []uint64 // outermost dimension first, as in the file; the last is contiguous; none for a single number
	Data  []byte   // in the file's mapping, at any alignment: read-only, valid until Close
}

// Len is the number of elements.
func (t Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= int(d)
	}
	return n
}

// Type is the element type as tensor.Decode takes it, or an error for one that has no decoder there (U8 and the like).
func (t Tensor) Type() (tensor.Type, error) {
	for _, d := range dtypes {
		if d.name == t.DType && d.decodes {
			return d.typ, nil
		}
	}
	return 0, fmt.Errorf("safetensors: tensor %q: elements of type %s are not supported", t.Name, t.DType)
}

// File is an open file. Its methods may be called from several goroutines at once, Close excepted.
type File struct {
	name   string
	data   []byte
	mapped bool

	// The index holds offsets into the header only, so that parsing needs less memory than the file has bytes.
	entries  []entry  // in the header's order
	byName   []uint32 // entries by name
	metadata []uint32 // where the keys of the metadata begin
	start    uint64   // of the data section
}

// entry is a tensor as the header has it; names and shapes are read anew when asked for.
type entry struct {
	begin, end     uint64 // of its data, from the start of the data section
	name, nameSize uint32 // where the name lies
	shape          uint32 // where the shape's opening bracket lies
	dims, dtype    uint8  // how many dimensions; index in dtypes
}

// Open maps the file at path and checks it. Close ends the mapping.
func Open(path string) (*File, error) {
	data, err := mem.Map(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	f, err := Parse(path, data)
	if err != nil {
		return nil, errors.Join(err, mem.Unmap(data))
	}
	f.mapped = true
	return f, nil
}

// Close ends the file's mapping: Data of its tensors must not be used any more. The file then has no tensors.
func (f *File) Close() error {
	data, mapped := f.data, f.mapped
	*f = File{name: f.name}
	if !mapped {
		return nil
	}
	return mem.Unmap(data)
}

// Name is the name that the file was opened or parsed under.
func (f *File) Name() string { return f.name }

// Tensors lists the tensors in the header's order.
func (f *File) Tensors() []Tensor {
	out := make([]Tensor, len(f.entries))
	for i := range out {
		out[i] = f.tensor(i)
	}
	return out
}

// Tensor finds a tensor by name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := sort.Find(len(f.byName), func(i int) int { return bytes.Compare([]byte(name), f.nameOf(f.byName[i])) })
	if !ok {
		return Tensor{}, false
	}
	return f.tensor(int(f.byName[i])), true
}

// Metadata is the header's free-form text by key, often only "format": "pt".
func (f *File) Metadata() map[string]string {
	out := make(map[string]string, len(f.metadata))
	for _, at := range f.metadata {
		s := scanner{data: f.data, at: uint64(at), end: f.start}
		key, value, err := s.pair()
		if err == nil { // checked when parsed
			out[key] = value
		}
	}
	return out
}

func (f *File) nameOf(i uint32) []byte {
	e := f.entries[i]
	return f.data[e.name:][:e.nameSize]
}

// tensor reads entry i, already checked.
func (f *File) tensor(i int) Tensor {
	e := f.entries[i]
	t := Tensor{Name: string(f.nameOf(uint32(i))), DType: dtypes[e.dtype].name, Shape: make([]uint64, 0, e.dims)}
	s := scanner{data: f.data, at: uint64(e.shape), end: f.start}
	_ = s.integers(field{}, func(_ int, n uint64) error { // checked when parsed
		t.Shape = append(t.Shape, n)
		return nil
	})
	t.Data = f.data[f.start+e.begin : f.start+e.end : f.start+e.end]
	return t
}

// order sorts the index by name; a name that stands twice is returned by its later entry.
func (f *File) order() (duplicate uint32, found bool) {
	f.byName = make([]uint32, len(f.entries))
	for i := range f.byName {
		f.byName[i] = uint32(i)
	}
	compare := func(a, b uint32) int { return bytes.Compare(f.nameOf(a), f.nameOf(b)) }
	slices.SortFunc(f.byName, compare)
	for i := 1; i < len(f.byName); i++ {
		if a, b := f.byName[i-1], f.byName[i]; compare(a, b) == 0 {
			return max(a, b), true
		}
	}
	return 0, false
}

// unquote is the text of a JSON string, quotes included, that was found valid.
func unquote(raw []byte) (s string, err error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	err = json.Unmarshal(raw, &s)
	return s, err
}
