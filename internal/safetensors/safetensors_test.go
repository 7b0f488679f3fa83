package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

func sampleMetadata() map[string]string {
	return map[string]string{"format": "pt", "config": "{\"a\": \"b\\n\"}\u2028", "": ""}
}

func sampleTensors() []Tensor {
	bytes := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 3)
		}
		return b
	}
	return []Tensor{
		{"model.embed.weight", "BF16", []uint64{3, 4}, bytes(24)}, {"ids", "U8", []uint64{5}, bytes(5)}, {"none", "F32", []uint64{0, 7}, nil},
		{"model.norm.weight", "F32", []uint64{4}, bytes(16)}, {"scalar", "F64", nil, bytes(8)}, {"größe", "I64", []uint64{1, 1, 2}, bytes(16)},
	}
}

func encode(t testing.TB, metadata map[string]string, tensors []Tensor) []byte {
	var b bytes.Buffer
	if err := Write(&b, metadata, tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample(t testing.TB) []byte { return encode(t, sampleMetadata(), sampleTensors()) }

// raw is a file with the given header and n bytes of data.
func raw(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func writeFile(t testing.TB, dir, name string, data []byte) string {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sameTensor(a, b Tensor) bool {
	return a.Name == b.Name && a.DType == b.DType && slices.Equal(a.Shape, b.Shape) && bytes.Equal(a.Data, b.Data)
}

func TestRoundTrip(t *testing.T) {
	path := writeFile(t, t.TempDir(), "m.safetensors", sample(t))
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Name() != path || !maps.Equal(f.Metadata(), sampleMetadata()) {
		t.Errorf("name %s, metadata %q", f.Name(), f.Metadata())
	}
	for i, want := range sampleTensors() {
		byName, ok := f.Tensor(want.Name)
		if got := f.Tensors()[i]; !ok || !sameTensor(got, want) || !sameTensor(byName, want) {
			t.Errorf("tensor %d is %v, by name %v, want %v", i, got, byName, want)
		}
	}
	if embed, _ := f.Tensor("model.embed.weight"); embed.Len() != 12 {
		t.Errorf("%d elements, want 12", embed.Len())
	}
	if _, ok := f.Tensor("absent"); ok {
		t.Error("found a tensor that is not there")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if len(f.Tensors())+len(f.Metadata()) > 0 || f.Close() != nil {
		t.Error("a closed file still has tensors or metadata, or cannot be closed again")
	}
}

func TestType(t *testing.T) {
	for dtype, want := range map[DType]tensor.Type{"F32": tensor.F32, "F16": tensor.F16, "BF16": tensor.BF16, "F64": tensor.F64, "I8": tensor.I8, "I64": tensor.I64} {
		if got, err := (Tensor{DType: dtype}).Type(); err != nil || got != want || got.BlockBytes() != int(sizeOf(dtype)) {
			t.Errorf("%s is %s, %v", dtype, got, err)
		}
	}
	if _, err := (Tensor{Name: "ids", DType: "U8"}).Type(); err == nil || !strings.Contains(err.Error(), `tensor "ids": elements of type U8 are not supported`) {
		t.Errorf("error %v", err)
	}
}

func sizeOf(d DType) uint64 {
	return dtypes[slices.IndexFunc(dtypes[:], func(x dtype) bool { return x.name == d })].size
}

// TestForeignFile: fields in another order, white space, and escapes in values, as other writers have them.
func TestForeignFile(t *testing.T) {
	f, err := Parse("x", raw("\n{ \"w\" : {\"data_offsets\": [ 0 , 2 ], \"shape\":[1 ],\"dtype\":\"F16\"} ,\"__metadata__\":{\"k\":\"\\u00e9\\\"\"}}  ", 2))
	if err != nil {
		t.Fatal(err)
	}
	if w, ok := f.Tensor("w"); !ok || w.DType != "F16" || w.Len() != 1 || f.Metadata()["k"] != "é\"" {
		t.Errorf("tensor %v, metadata %q", w, f.Metadata())
	}
	if f, err := Parse("x", raw("{}", 0)); err != nil || len(f.Tensors()) != 0 {
		t.Errorf("no tensors: %v", err)
	}
}

// TestDamaged has the rules of the format, and the ways in which weight files have broken readers: counts, sizes and offsets
// taken from the file unchecked.
func TestDamaged(t *testing.T) {
	one := func(dtype, shape, offsets string) string {
		return fmt.Sprintf(`{"w":{"dtype":%s,"shape":%s,"data_offsets":%s}}`, dtype, shape, offsets)
	}
	long := strings.Repeat("x", 5000)
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty file", nil, `header length at offset 0: expected 8 bytes, but the file ends after 0`},
		{"header beyond the file", raw("{}", 0)[:9], `a header of 2 bytes, expected at most 1 in a file of 9`},
		{"header of 2^64-1 bytes", bytes.Repeat([]byte{255}, 16), `a header of 18446744073709551615 bytes, expected at most 8`},
		{"empty header", raw("", 8), `header at offset 8: the header ends, expected '{'`},
		{"not UTF-8", raw("{\"\xff\":1}", 0), `header at offset 8: the text is not valid UTF-8`},
		{"array", raw("[]", 0), `found '[', expected '{'`},
		{"cut", raw(`{"w":`, 0), `tensor "w" at offset 13: the header ends, expected '{'`},
		{"cut string", raw(`{"w`, 0), `a string that does not end in the header`},
		{"cut escape", raw(`{"w\`, 0), `a string that does not end in the header`},
		{"broken escape", raw(`{"__metadata__":{"k":"\x"}}`, 0), `metadata of key "k" at offset 29: a string with a broken escape`},
		{"escaped name", raw(`{"\u0077":{}}`, 0), `a name with an escape is not supported`},
		{"control character", raw("{\"\n\":{}}", 0), `found the control character '\n' in a string`},
		{"trailing text", raw(`{} x`, 0), `header at offset 11: found 'x' behind the header's end`},
		{"trailing comma", raw(`{"__metadata__":{},}`, 0), `found '}', expected '"'`},
		{"deep nesting", raw(strings.Repeat(`{"a":`, 100000), 0), `found the field "a", expected dtype, shape or data_offsets`},
		{"deep arrays", raw(`{"w":{"shape":`+strings.Repeat("[", 100000), 0), `shape of tensor "w" at offset 23: found '[', expected a whole number`},
		{"metadata that is no text", raw(`{"__metadata__":{"k":1}}`, 0), `metadata of key "k" at offset 29: found '1', expected '"'`},
		{"metadata twice", raw(`{"__metadata__":{},"__metadata__":{}}`, 0), `metadata at offset 27: it stands twice`},
		{"metadata key twice", raw(`{"__metadata__":{"k":"","a":"","k":""}}`, 0), `metadata key "k" at offset 39: the key stands twice`},
		{"no type", raw(`{"w":{"shape":[],"data_offsets":[0,4]}}`, 4), `tensor "w" at offset 13: dtype, shape or data_offsets is missing`},
		{"empty description", raw(`{"w":{}}`, 4), `dtype, shape or data_offsets is missing`},
		{"field twice", raw(`{"w":{"dtype":"F32","dtype":"F16","shape":[],"data_offsets":[0,4]}}`, 4), `tensor "w" at offset 28: the field stands twice`},
		{"unknown field", raw(`{"w":{"`+long+`":1}}`, 4), `xxx", expected dtype, shape or data_offsets`},
		{"unknown type", raw(one(`"F13"`, "[]", "[0,4]"), 4), `dtype of tensor "w" at offset 22: "F13" is not supported`},
		{"type as number", raw(one(`0`, "[]", "[0,4]"), 4), `dtype of tensor "w" at offset 22: found '0', expected '"'`},
		{"negative dimension", raw(one(`"F32"`, "[-1]", "[0,4]"), 4), `shape of tensor "w" at offset 37: found '-', expected a whole number`},
		{"fraction", raw(one(`"F32"`, "[1.5]", "[0,4]"), 4), `found '.', expected ']'`},
		{"exponent", raw(one(`"F32"`, "[1e9]", "[0,4]"), 4), `found 'e', expected ']'`},
		{"octal", raw(one(`"F32"`, "[01]", "[0,4]"), 4), `a number that begins with 0`},
		{"dimension of 65 bits", raw(one(`"F32"`, "[18446744073709551616]", "[0,4]"), 4), `a number beyond 64 bits`},
		{"dimension of many digits", raw(one(`"F32"`, "["+strings.Repeat("9", 1000)+"]", "[0,4]"), 4), `a number beyond 64 bits`},
		{"product that wraps to 0", raw(one(`"F32"`, "[4294967296,4294967296]", "[0,0]"), 0), `dimension 1 of 4294967296 makes the number of elements overflow`},
		{"overflow behind a 0", raw(one(`"F32"`, "[0,4294967296,4294967296]", "[0,0]"), 0), `makes the number of elements overflow`},
		{"size that wraps", raw(one(`"F64"`, "[2305843009213693952]", "[0,0]"), 0), `data from 0 to 0, expected 2305843009213693952 elements of type F64`},
		{"nine dimensions", raw(one(`"F32"`, "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4), `more than 8 dimensions`},
		{"one offset", raw(one(`"F32"`, "[]", "[0]"), 4), `data_offsets of tensor "w" at offset 54: found 1 numbers, expected 2`},
		{"three offsets", raw(one(`"F32"`, "[]", "[0,4,8]"), 4), `found 3 numbers, expected 2`},
		{"offsets back to front", raw(one(`"F32"`, "[]", "[4,0]"), 4), `data from 4 to 0, expected 1 elements of type F32`},
		{"size unlike the shape", raw(one(`"F32"`, "[2]", "[0,4]"), 4), `data from 0 to 4, expected 2 elements of type F32`},
		{"beyond the file", raw(one(`"F32"`, "[2]", "[0,8]"), 4), `data from 0 to 8 reach beyond the end of the file (4 bytes of data)`},
		{"far beyond the file", raw(one(`"U8"`, "[1]", "[18446744073709551614,18446744073709551615]"), 4), `reach beyond the end of the file`},
		{"hole", raw(one(`"U8"`, "[1]", "[1,2]"), 2), `data from 1 on, expected from 0 on`},
		{"bytes of no tensor", raw(one(`"U8"`, "[1]", "[0,1]"), 2), `tensor data at offset 62: 1 bytes belong to no tensor`},
		{"overlap", raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), `data_offsets of tensor "b" at offset 62: data from 1 on, expected from 2 on`},
		{"name twice", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), `tensor "a" at offset 62: the name stands twice`},
		{"long name in a message", raw(`{"`+long+`":{}}`, 0), `xxx"... at offset`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("bad", c.data)
			if err == nil || !strings.HasPrefix(err.Error(), "safetensors: bad: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			checkError(t, err, c.data)
		})
	}
}

// checkError fails unless err is a short FormatError with a field and an offset in the file.
func checkError(t testing.TB, err error, data []byte) {
	t.Helper()
	var format *FormatError
	if !errors.As(err, &format) || format.Field == "" || format.Offset > uint64(len(data)) || len(err.Error()) > 1000 {
		t.Fatalf("error %v for a file of %d bytes", err, len(data))
	}
}

// use reads all that a parsed file offers, and fails where it contradicts itself.
func use(t testing.TB, f *File) {
	total := 0
	for _, tn := range f.Tensors() {
		total += len(tn.Data)
		if byName, ok := f.Tensor(tn.Name); !ok || !sameTensor(tn, byName) {
			t.Fatalf("tensor %v, by name %v", tn, byName)
		}
		if err := tn.check(); err != nil {
			t.Fatal(err)
		}
	}
	if want := len(f.data) - int(f.start); total != want {
		t.Fatalf("tensors have %d bytes of %d", total, want)
	}
	if got := len(f.Metadata()); got != len(f.metadata) {
		t.Fatalf("%d metadata keys of %d", got, len(f.metadata))
	}
}

func TestTruncatedAnywhere(t *testing.T) {
	data := sample(t)
	for n := range data {
		_, err := Parse("cut", data[:n:n])
		checkError(t, err, data[:n])
	}
}

func TestFlippedAnywhere(t *testing.T) {
	data := sample(t)
	f, err := Parse("x", data)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range int(f.start) {
		for _, mask := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
			bad := slices.Clone(data)
			bad[i] ^= mask
			g, err := Parse("flipped", bad)
			if err == nil {
				use(t, g)
				continue
			}
			refused++
			checkError(t, err, bad)
		}
	}
	if refused < 3*int(f.start) { // flips within names and texts are fine
		t.Errorf("%d of %d flips refused", refused, 9*f.start)
	}
}

// TestAllocationBounded: parsing allocates no more than the file has bytes, but for the File and an error.
func TestAllocationBounded(t *testing.T) {
	const fixed, n = 4 << 10, 5000
	var tensors, metadata strings.Builder
	for i := range n {
		name := string([]rune{rune('A' + i%26), rune('A' + i/26%26), rune('A' + i/676)})
		fmt.Fprintf(&tensors, `,"%s":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}`, name, i, i+1)
		fmt.Fprintf(&metadata, `,"%s":""`, name)
	}
	for name, data := range map[string][]byte{
		"sample":        sample(t),
		"tensors":       raw("{"+tensors.String()[1:]+"}", n),
		"metadata":      raw(`{"__metadata__":{`+metadata.String()[1:]+"}}", 0),
		"huge header":   bytes.Repeat([]byte{0, 255}, 100),
		"escapes":       raw(`{"__metadata__":{"k":"`+strings.Repeat(`\n`, n)+`"}}`, 0),
		"deep nesting":  raw(strings.Repeat(`{"a":`, n), 0),
		"deep brackets": raw(strings.Repeat(`[`, n), 0),
	} {
		got := uint64(math.MaxUint64) // the least of some runs, because other goroutines count too
		for range 3 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _ = Parse(name, data)
			runtime.ReadMemStats(&after)
			got = min(got, after.TotalAlloc-before.TotalAlloc)
		}
		if got > uint64(len(data))+fixed {
			t.Errorf("%s: %d bytes allocated for a file of %d", name, got, len(data))
		}
	}
}

func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		tensors []Tensor
		want    string
	}{
		{[]Tensor{{"w", "F13", nil, nil}}, `tensor "w": elements of type "F13" are not supported`},
		{[]Tensor{{"w", "F32", []uint64{2}, make([]byte, 4)}}, `found 4 bytes of data, expected 8 for shape [2] of F32`},
		{[]Tensor{{"w", "F32", []uint64{1 << 40, 1 << 40}, nil}}, `overflows`},
		{[]Tensor{{"w", "F32", make([]uint64, 9), nil}}, `found 9 dimensions`},
		{[]Tensor{{"w", "I8", nil, []byte{1}}, {"w", "I8", nil, []byte{1}}}, `the name is taken`},
		{[]Tensor{{metadataKey, "I8", nil, []byte{1}}}, `the name is taken`},
		{[]Tensor{{`a"b`, "I8", nil, []byte{1}}}, `a name that needs an escape`},
	} {
		if err := Write(&bytes.Buffer{}, nil, c.tensors); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q in it", err, c.want)
		}
	}
}

// FuzzSafetensors: any bytes give a FormatError or a sound file, which written again gives the same tensors and metadata.
func FuzzSafetensors(f *testing.F) {
	f.Add(sample(f))
	f.Add(raw(`{}`, 0))
	f.Add(raw(`{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"__metadata__":{"k":"\u00e9"}}  `, 2))
	f.Add(raw(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("fuzz", data)
		if err != nil {
			checkError(t, err, data)
			return
		}
		use(t, file)
		var b bytes.Buffer
		if err := Write(&b, file.Metadata(), file.Tensors()); err != nil {
			if strings.Contains(err.Error(), "escape") { // <, > and & are written escaped
				return
			}
			t.Fatal(err)
		}
		again, err := Parse("again", b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(file.Tensors(), again.Tensors(), sameTensor) || !maps.Equal(file.Metadata(), again.Metadata()) {
			t.Fatal("the file changed when written again")
		}
	})
}
