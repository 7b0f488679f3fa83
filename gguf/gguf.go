// Package gguf reads and writes GGUF, the format of open-weight model files: typed metadata, a tensor directory, and
// tensor data that is used in place, from a memory mapping.
//
// A file is checked whole when it is opened: every length, count, type and offset, before anything is allocated for it.
// A damaged file gives a [FormatError] with the file, the field and its offset; Parse never panics on data, and never
// allocates more than the data's own size. Versions 2 and 3 are read, little-endian.
package gguf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/twilight-go/twilight/internal/mem"
	"github.com/twilight-go/twilight/internal/tensor"
)

// ErrNotFound is what errors.Is finds in the errors of the typed getters for a key that the file does not have.
var ErrNotFound = errors.New("not found")

// FormatError says where and how a file departs from the format.
type FormatError struct {
	File    string // the name given to Open or Parse
	Field   string // what was being read, as `metadata key "general.name"`
	Offset  uint64 // where it starts, in bytes from the start of the file
	Problem string // what was found, and what was expected
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("gguf: %s: %s at offset %d: %s", e.File, e.Field, e.Offset, e.Problem)
}

// File is an open GGUF file. Its methods may be called from several goroutines at once, Close excepted.
// Strings and numbers that they return are the caller's own; Data of tensors lies in the file's mapping and ends with Close.
type File struct {
	// Version is the format's version, 2 or 3.
	Version uint32

	name      string
	data      []byte
	mapped    bool
	alignment uint64
	headerEnd uint64
	dataStart uint64 // tensor offsets count from here

	// The index keeps offsets only, so that parsing needs less memory than the file has bytes: entries are read anew,
	// already checked, when asked for.
	keys, tensors directory
}

// directory locates entries that each begin with a name: their offsets in file order, and the order by name.
type directory struct {
	at     []uint64
	byName []uint32
}

// Open maps the file at path and checks it. Close ends the mapping.
func Open(path string) (*File, error) {
	data, err := mem.Map(path)
	if err != nil {
		return nil, fmt.Errorf("gguf: %w", err)
	}
	f, err := Parse(path, data)
	if err != nil {
		return nil, errors.Join(err, mem.Unmap(data))
	}
	f.mapped = true
	return f, nil
}

// Close ends the file's mapping: Data of its tensors must not be used any more. The file then has no keys and no tensors.
func (f *File) Close() error {
	data, mapped := f.data, f.mapped
	*f = File{name: f.name, Version: f.Version}
	if !mapped {
		return nil
	}
	return mem.Unmap(data)
}

// Name is the name that the file was opened or parsed under: it begins the messages of its errors.
func (f *File) Name() string { return f.name }

// Size is the file's size in bytes.
func (f *File) Size() int64 { return int64(len(f.data)) }

// fingerprintSample is how much of each tensor the fingerprint covers, in bytes.
const fingerprintSample = 64

// Fingerprint identifies the model for caches that are tied to it. It is the SHA-256 of the header (metadata and tensor
// directory), the file's size, and the first 64 bytes of every tensor: the latter tell apart two trainings of the same
// architecture, at the cost of one page a tensor. It is no proof against forgery.
func (f *File) Fingerprint() [32]byte {
	h := sha256.New()
	h.Write(f.data[:f.headerEnd])
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(f.data))))
	for _, at := range f.tensors.at {
		data := f.tensorAt(at).Data
		h.Write(data[:min(len(data), fingerprintSample)])
	}
	return [32]byte(h.Sum(nil))
}

// Tensor is one entry of the tensor directory.
type Tensor struct {
	Name   string
	Dims   []uint64    // ggml order: Dims[0] is contiguous in memory
	Type   tensor.Type // element or block format
	Offset uint64      // of Data, in bytes from the start of the data section; ignored when writing
	Data   []byte      // in the file's mapping: read-only, valid until Close
}

// Cols is the length of a row, the contiguous dimension.
func (t Tensor) Cols() int { return int(t.Dims[0]) }

// Rows is the number of rows: the product of all dimensions but the first.
func (t Tensor) Rows() int {
	n := 1
	for _, d := range t.Dims[1:] {
		n *= int(d)
	}
	return n
}

// Tensors lists the tensor directory in file order.
func (f *File) Tensors() []Tensor {
	out := make([]Tensor, len(f.tensors.at))
	for i, at := range f.tensors.at {
		out[i] = f.tensorAt(at)
	}
	return out
}

// Tensor finds a tensor by name.
func (f *File) Tensor(name string) (Tensor, bool) {
	at, ok := f.tensors.find(f.data, name)
	if !ok {
		return Tensor{}, false
	}
	return f.tensorAt(at), true
}

// tensorAt is the tensor whose checked directory entry lies at the offset.
func (f *File) tensorAt(at uint64) Tensor {
	e := f.entry(at)
	t := Tensor{Name: string(e.name), Dims: make([]uint64, len(e.dims)/8), Type: e.typ, Offset: e.offset}
	for i := range t.Dims {
		t.Dims[i] = binary.LittleEndian.Uint64(e.dims[8*i:])
	}
	start := f.dataStart + e.offset
	t.Data = f.data[start : start+e.size : start+e.size]
	return t
}

// entry is a tensor's directory entry as it lies in the file.
type entry struct {
	name, dims   []byte
	typ          tensor.Type
	offset, size uint64
}

// entry reads the directory entry at the offset, which was checked by itself but for its place in the file.
func (f *File) entry(at uint64) entry {
	e := entry{name: nameAt(f.data, at)}
	at += 8 + uint64(len(e.name))
	e.dims = f.data[at+4:][:8*binary.LittleEndian.Uint32(f.data[at:])]
	at += 4 + uint64(len(e.dims))
	e.typ = tensor.Type(binary.LittleEndian.Uint32(f.data[at:]))
	e.offset = binary.LittleEndian.Uint64(f.data[at+4:])
	e.size = 1
	for i := 0; i < len(e.dims); i += 8 {
		e.size *= binary.LittleEndian.Uint64(e.dims[i:])
	}
	e.size = e.size / uint64(e.typ.BlockLen()) * uint64(e.typ.BlockBytes())
	return e
}

// nameAt is the string, length first, at the offset of a checked entry.
func nameAt(data []byte, at uint64) []byte {
	n := binary.LittleEndian.Uint64(data[at:])
	return data[at+8 : at+8+n]
}

// order sorts the directory by name; a name that stands twice is returned by the offset of its later entry.
func (d *directory) order(data []byte) (duplicate uint64, found bool) {
	d.byName = make([]uint32, len(d.at))
	for i := range d.byName {
		d.byName[i] = uint32(i)
	}
	compare := func(a, b uint32) int { return bytes.Compare(nameAt(data, d.at[a]), nameAt(data, d.at[b])) }
	slices.SortFunc(d.byName, compare)
	for i := 1; i < len(d.byName); i++ {
		if a, b := d.byName[i-1], d.byName[i]; compare(a, b) == 0 {
			return max(d.at[a], d.at[b]), true
		}
	}
	return 0, false
}

// find is the offset of the entry called name.
func (d *directory) find(data []byte, name string) (uint64, bool) {
	i, ok := sort.Find(len(d.byName), func(i int) int {
		found := nameAt(data, d.at[d.byName[i]])
		switch {
		case name < string(found):
			return -1
		case name > string(found):
			return 1
		}
		return 0
	})
	if !ok {
		return 0, false
	}
	return d.at[d.byName[i]], true
}
