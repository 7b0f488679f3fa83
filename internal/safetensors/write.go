package safetensors

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
)

// Write writes a file with the tensors in the given order; the same arguments always give the same bytes. Converters and tests
// call it.
func Write(w io.Writer, metadata map[string]string, tensors []Tensor) error {
	type description struct {
		DType   DType     `json:"dtype"`
		Shape   []uint64  `json:"shape"`
		Offsets [2]uint64 `json:"data_offsets"`
	}
	header, separator := []byte("{"), ""
	add := func(key string, value any) error {
		k, err := json.Marshal(key)
		if err == nil && bytes.IndexByte(k, '\\') >= 0 {
			err = errors.New("a name that needs an escape is not supported")
		}
		if err != nil {
			return err
		}
		v, err := json.Marshal(value) // sorts the keys of a map
		if err != nil {
			return err
		}
		header = fmt.Appendf(header, "%s%s:%s", separator, k, v)
		separator = ","
		return nil
	}
	if len(metadata) > 0 {
		if err := add(metadataKey, metadata); err != nil {
			return fmt.Errorf("safetensors: writing the metadata: %w", err)
		}
	}
	at, names := uint64(0), map[string]bool{metadataKey: true}
	for _, t := range tensors {
		end := at + uint64(len(t.Data))
		err := t.check()
		if err == nil && names[t.Name] {
			err = errors.New("the name is taken")
		}
		if err != nil {
			return fmt.Errorf("safetensors: writing tensor %q: %w", t.Name, err)
		}
		names[t.Name] = true
		if err := add(t.Name, description{t.DType, append([]uint64{}, t.Shape...), [2]uint64{at, end}}); err != nil {
			return fmt.Errorf("safetensors: writing tensor %q: %w", t.Name, err)
		}
		at = end
	}
	header = append(header, '}')
	for len(header)%8 != 0 { // so that the data begin at a multiple of 8
		header = append(header, ' ')
	}
	whole := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	whole = append(whole, header...)
	out := bufio.NewWriter(w) // its first error stands until Flush
	out.Write(whole)
	for _, t := range tensors {
		out.Write(t.Data)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("safetensors: writing: %w", err)
	}
	return nil
}

// check fails where a tensor's shape, type and data disagree.
func (t Tensor) check() error {
	i := slices.IndexFunc(dtypes[:], func(d dtype) bool { return d.name == t.DType })
	if i < 0 {
		return fmt.Errorf("elements of type %q are not supported", t.DType)
	}
	if len(t.Shape) > maxDims {
		return fmt.Errorf("found %d dimensions, expected at most %d", len(t.Shape), maxDims)
	}
	size := dtypes[i].size
	for _, d := range t.Shape {
		high, low := bits.Mul64(size, d)
		if high != 0 {
			return fmt.Errorf("shape %d overflows", t.Shape)
		}
		size = low
	}
	if size != uint64(len(t.Data)) {
		return fmt.Errorf("found %d bytes of data, expected %d for shape %d of %s", len(t.Data), size, t.Shape, t.DType)
	}
	return nil
}
