package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// file builds damaged files by hand: what the writer refuses to write.
type file struct{ b []byte }

func newFile(tensors, keys uint64) *file {
	f := &file{[]byte("GGUF\x03\x00\x00\x00")}
	return f.u64(tensors).u64(keys)
}

func (f *file) u32(v ...uint32) *file {
	for _, x := range v {
		f.b = binary.LittleEndian.AppendUint32(f.b, x)
	}
	return f
}

func (f *file) u64(v ...uint64) *file {
	for _, x := range v {
		f.b = binary.LittleEndian.AppendUint64(f.b, x)
	}
	return f
}

func (f *file) str(s string) *file { f.b = append(f.u64(uint64(len(s))).b, s...); return f }

// tensor appends a directory entry.
func (f *file) tensor(name string, typ tensor.Type, offset uint64, dims ...uint64) *file {
	return f.str(name).u32(uint32(len(dims))).u64(dims...).u32(uint32(typ)).u64(offset)
}

// data pads to the alignment and appends n bytes.
func (f *file) data(n int) []byte {
	pad := -len(f.b) & 31
	return append(f.b, make([]byte, pad+n)...)
}

// room appends n bytes, so that counts are refused for what they are and not for the file's shortness.
func (f *file) room(n int) []byte { return append(f.b, make([]byte, n)...) }

// TestDamaged has the ways in which model files have broken readers of this format, with the reports in which they became
// known, and the rules of the format that nothing enforces but the reader.
func TestDamaged(t *testing.T) {
	const huge = math.MaxUint64
	for _, c := range []struct {
		name string
		data []byte
		want string // in the error, behind the file's name
	}{
		{"empty file", nil, `magic at offset 0: expected 4 bytes, but the file ends after 0`},
		{"not GGUF", []byte("PK\x03\x04 and more"), `magic at offset 0: found "PK\x03\x04", expected "GGUF"`},
		{"version 1", []byte("GGUF\x01\x00\x00\x00"), `version at offset 4: version 1 is not supported`},
		{"big-endian", []byte("GGUF\x00\x00\x00\x03"), `version at offset 4: the file is big-endian (version 3)`},
		{"version 0", []byte("GGUF\x00\x00\x00\x00"), `version at offset 4: found 0, expected 2 or 3`},
		{"version 4", []byte("GGUF\x04\x00\x00\x00"), `version at offset 4: found 4, expected 2 or 3`},

		{"tensor count (ollama#17032, CVE-2024-39720)", newFile(huge, 0).room(64), `tensor count at offset 8: 18446744073709551615 tensors, but the file has room for 1`},
		{"tensor count just too high", newFile(3, 0).room(98), `tensor count at offset 8: 3 tensors, but the file has room for 2 at most`},
		{"metadata count (ollama#17033)", newFile(0, huge).room(64), `metadata count at offset 16: 18446744073709551615 keys beside 0 tensors, but the file has room for 4`},
		{"counts that fit only one by one", newFile(1, 2).room(60), `metadata count at offset 16: 2 keys beside 1 tensors, but the file has room for 1`},
		{"43 bytes that kept a reader busy for ever (llama.cpp#27188)", newFile(0, 1).str("k").u32(9, 0).room(2)[:43], `array length of metadata key "k" at offset 41: expected 8 bytes, but the file ends after 2`},

		{"key length (ollama#16189)", newFile(0, 1).u64(huge).room(64), `name of a metadata key at offset 24: the name has 18446744073709551615 bytes`},
		{"key longer than the file", newFile(0, 1).u64(100).room(64), `name of a metadata key at offset 32: expected 100 bytes, but the file ends after 64`},
		{"key of no letters", newFile(0, 1).u64(0).room(64), `name of a metadata key at offset 24: the name has 0 bytes, expected 1 to 65535`},
		{"string length that wraps around", newFile(0, 1).str("k").u32(8).u64(huge).room(64), `metadata key "k" at offset 37: string 0 of 1 has 18446744073709551615 bytes`},
		{"array length (ollama#17042)", newFile(0, 1).str("k").u32(9, 4).u64(huge).room(64), `metadata key "k" at offset 33: 18446744073709551615 values of type uint32`},
		{"array length whose product wraps around", newFile(0, 1).str("k").u32(9, 10).u64(1 << 61).room(64), `2305843009213693952 values of type uint64`},
		{"array of strings longer than the file", newFile(0, 1).str("k").u32(9, 8).u64(huge).room(20), `metadata key "k" at offset 65: expected 8 bytes, but the file ends after 4`},
		{"array of arrays", newFile(0, 1).str("k").u32(9, 9).u64(1).u32(9).u64(1).room(64), `element type of metadata key "k" at offset 33: an array of arrays is not supported`},
		{"value type out of range", newFile(0, 1).str("k").u32(13).room(64), `value type of metadata key "k" at offset 33: value type 13 is unknown`},
		{"element type out of range", newFile(0, 1).str("k").u32(9, 1<<31).u64(1).room(64), `element type of metadata key "k" at offset 33: value type 2147483648 is unknown`},
		{"bool of 2", append(newFile(0, 1).str("k").u32(7).b, 2), `metadata key "k" at offset 37: found 2 for a bool`},
		{"key twice", newFile(0, 2).str("k").u32(4, 1).str("k").u32(4, 2).b, `metadata key "k" at offset 41: the key stands twice`},
		{"alignment 0", newFile(0, 1).str(alignmentKey).u32(4, 0).b, `metadata key "general.alignment" at offset 24: found 0, expected a power of two`},
		{"alignment 48", newFile(0, 1).str(alignmentKey).u32(4, 48).b, `found 48, expected a power of two`},
		{"alignment as text", newFile(0, 1).str(alignmentKey).u32(8).str("32").b, `found string, expected uint32`},
		{"alignment beyond the file", newFile(1, 1).str(alignmentKey).u32(4, 1<<31).tensor("t", tensor.F32, 0, 8).data(32), `tensor data at offset 90: expected from offset 2147483648 on`},

		{"tensor without a name", newFile(1, 0).tensor("", tensor.F32, 0, 8).data(32), `name of a tensor at offset 24: the name has 0 bytes`},
		{"no dimensions", newFile(1, 0).tensor("t", tensor.F32, 0).data(64), `dimension count of tensor "t" at offset 33: found 0, expected 1 to 4`},
		{"five dimensions", newFile(1, 0).tensor("t", tensor.F32, 0, 1, 1, 1, 1, 1).data(64), `dimension count of tensor "t" at offset 33: found 5, expected 1 to 4`},
		{"four billion dimensions", newFile(1, 0).str("t").u32(math.MaxUint32).room(64), `found 4294967295, expected 1 to 4`},
		{"dimension 0", newFile(1, 0).tensor("t", tensor.F32, 0, 8, 0).data(64), `dimensions of tensor "t" at offset 45: dimension 1 is 0`},
		{"product that wraps to 0 (CVE-2025-53630)", newFile(1, 0).tensor("t", tensor.F32, 0, 1<<32, 1<<32).data(64), `dimension 1 of 4294967296 makes the number of elements overflow`},
		{"product that wraps to 8", newFile(1, 0).tensor("t", tensor.F32, 0, 8, 1<<63+1).data(64), `makes the number of elements overflow`},
		{"size that wraps though the product does not (CVE-2026-27940)", newFile(1, 0).tensor("t", tensor.F64, 0, 1<<61).data(64), `makes the number of elements overflow`},
		{"negative dimension", newFile(1, 0).tensor("t", tensor.F32, 0, huge).data(64), `makes the number of elements overflow`},
		{"type out of range", newFile(1, 0).tensor("t", 1000, 0, 8).data(64), `type of tensor "t" at offset 45: type 1000 is unknown`},
		{"type that was removed", newFile(1, 0).tensor("t", 4, 0, 32).data(64), `type of tensor "t" at offset 45: type 4 is unknown, or was removed`},
		{"broken block", newFile(1, 0).tensor("t", tensor.Q4_K, 0, 32).data(64), `a row of 32 elements is not a whole number of Q4_K blocks (256 elements each)`},
		{"tensor larger than the file, whose tail is another's memory (CVE-2026-7482)", newFile(1, 0).tensor("t", tensor.F32, 0, 1<<40).data(64), `4398046511104 bytes at data offset 0 reach beyond the end of the file (64 bytes of tensor data)`},
		{"one byte short", newFile(1, 0).tensor("t", tensor.F32, 0, 8).data(31), `32 bytes at data offset 0 reach beyond the end of the file (31 bytes`},
		{"offset beyond the file", newFile(1, 0).tensor("t", tensor.F32, 64, 8).data(64), `32 bytes at data offset 64 reach beyond`},
		{"offset that wraps around", newFile(1, 0).tensor("t", tensor.F32, huge-31, 8).data(64), `32 bytes at data offset 18446744073709551584 reach beyond`},
		{"crooked offset", newFile(1, 0).tensor("t", tensor.F32, 4, 4).data(64), `data offset of tensor "t" at offset 24: found 4, expected a multiple of the alignment 32`},
		{"no data section", newFile(1, 0).tensor("t", tensor.F32, 0, 8).b, `tensor data at offset 57: expected from offset 64 on, but the file has 57 bytes`},
		{"tensor name twice", newFile(2, 0).tensor("t", tensor.F32, 0, 8).tensor("t", tensor.F32, 32, 8).data(64), `tensor "t" at offset 57: the name stands twice`},
		{"tensors in the same bytes", newFile(2, 0).tensor("a", tensor.F32, 32, 8).tensor("b", tensor.F32, 0, 9).data(64), `data offset of tensor "a" at offset 24: found 32, inside tensor "b" (36 bytes at 0)`},
		{"tensors at the same place", newFile(2, 0).tensor("a", tensor.F32, 0, 8).tensor("b", tensor.F32, 0, 8).data(64), `data offset of tensor "b" at offset 57: found 0, inside tensor "a"`},
		{"name of 60,000 bytes in a message", newFile(1, 0).tensor(strings.Repeat("\x00", 60000), 1000, 0, 8).data(64), `\x00"... at offset 60044: type 1000`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("bad.gguf", c.data)
			var format *FormatError
			if !errors.As(err, &format) {
				t.Fatalf("error %v, want a FormatError", err)
			}
			if format.Offset > uint64(len(c.data)) || format.Field == "" {
				t.Errorf("field %q at offset %d of %d bytes", format.Field, format.Offset, len(c.data))
			}
			if !strings.HasPrefix(err.Error(), "gguf: bad.gguf: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want %q in it", err, c.want)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

// use reads all that a parsed file offers, and fails where it contradicts itself.
func use(t testing.TB, f *File) {
	f.Fingerprint()
	for _, key := range f.Keys() {
		v, ok := f.Value(key)
		if !ok {
			t.Fatalf("key %q is listed but not found", key)
		}
		_ = v.String()
		accepted := 0
		for _, err := range []error{
			second(f.Uint(key)), second(f.Int(key)), second(f.Float(key)), second(f.String(key)), second(f.Bool(key)),
			second(f.Strings(key)), second(f.Floats(key)), second(f.Ints(key)), second(f.Bools(key)),
		} {
			if err == nil {
				accepted++
			}
			if errors.Is(err, ErrNotFound) {
				t.Fatalf("key %q is listed but %v", key, err)
			}
		}
		if accepted == 0 {
			t.Fatalf("key %q of type %s: no getter takes it", key, v.describe())
		}
	}
	for _, tn := range f.Tensors() {
		row, err := tensor.RowBytes(tn.Type, tn.Cols())
		if err != nil || row*tn.Rows() != len(tn.Data) {
			t.Fatalf("tensor %q: %d × %d %s in %d bytes, %v", tn.Name, tn.Rows(), tn.Cols(), tn.Type, len(tn.Data), err)
		}
		if byName, ok := f.Tensor(tn.Name); !ok || byName.Offset != tn.Offset {
			t.Fatalf("tensor %q: by name %v at %d, listed at %d", tn.Name, ok, byName.Offset, tn.Offset)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// dataEnd is where the last tensor ends: a file may lose the padding after it.
func dataEnd(f *File) int {
	end := uint64(0)
	for _, tn := range f.Tensors() {
		end = max(end, f.dataStart+tn.Offset+uint64(len(tn.Data)))
	}
	return int(end)
}

func TestTruncatedAnywhere(t *testing.T) {
	data := sample(t)
	end := dataEnd(mustParse(t, data))
	for n := range end {
		_, err := Parse("cut.gguf", data[:n:n])
		var format *FormatError
		if !errors.As(err, &format) || format.Field == "" || format.Offset > uint64(n) {
			t.Fatalf("cut after %d of %d bytes: error %v", n, len(data), err)
		}
	}
	for n := end; n <= len(data); n++ {
		use(t, mustParse(t, data[:n:n]))
	}
}

// TestFlippedAnywhere flips each bit, and all bits, of every byte of the header: the result is a FormatError, or a file that
// is sound in itself.
func TestFlippedAnywhere(t *testing.T) {
	data := sample(t)
	header := int(mustParse(t, data).headerEnd)
	refused := 0
	for i := range header {
		for _, mask := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
			bad := slices.Clone(data)
			bad[i] ^= mask
			f, err := Parse("flipped.gguf", bad)
			if err == nil {
				use(t, f)
				continue
			}
			refused++
			var format *FormatError
			if !errors.As(err, &format) || format.Field == "" || format.Offset > uint64(len(bad)) {
				t.Fatalf("byte %d ^ %#x: error %v", i, mask, err)
			}
		}
	}
	if refused < header { // most flips hit names and values, which may be anything
		t.Errorf("%d of %d flips refused", refused, 9*header)
	}
}

// fixedAlloc is what Parse allocates whatever the file: the File itself and an error with its text.
const fixedAlloc = 4 << 10

// TestAllocationBounded: parsing allocates no more than the file has bytes, however it was made.
func TestAllocationBounded(t *testing.T) {
	n := 20000
	letters := func(i int) string { return string([]byte{byte(1 + i%250), byte(1 + i/250)}) }
	keys, tensors := newFile(0, uint64(n)), newFile(uint64(n), 0)
	for i := range n {
		keys.str(letters(i)).u32(uint32(Uint8))
		keys.b = append(keys.b, 0)
		tensors.tensor(letters(i), tensor.F32, uint64(32*i), 8)
	}
	for name, data := range map[string][]byte{
		"sample":             sample(t),
		"smallest keys":      keys.b,
		"smallest tensors":   tensors.data(32 * n),
		"tensors, no data":   tensors.b,
		"all keys claimed":   newFile(0, 1<<20/minKeySize).room(1 << 20),
		"all tensor claimed": newFile(1<<20/minTensorSize, 0).room(1 << 20),
		"empty strings":      newFile(0, 1).str("k").u32(9, 8).u64(1 << 17).room(1 << 20),
		"huge counts":        newFile(math.MaxUint64, math.MaxUint64).room(1 << 10),
		"huge array":         newFile(0, 1).str("k").u32(9, 0).u64(1 << 40).room(1 << 10),
		"huge name":          newFile(0, 1).u64(1 << 40).room(1 << 10),
	} {
		if got := allocated(func() { _, _ = Parse(name, data) }); got > uint64(len(data))+fixedAlloc {
			t.Errorf("%s: %d bytes allocated for a file of %d", name, got, len(data))
		}
	}
}

// allocated is how many bytes f allocates on the heap: the least of some runs, because other goroutines count too.
func allocated(f func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

// FuzzParse: any bytes give a FormatError or a sound file, which written again gives the same keys and tensors.
func FuzzParse(f *testing.F) {
	f.Add(sample(f))
	f.Add(encode(f, 2, sampleMeta()[:3], sampleTensors(f)[:1]))
	f.Add(encode(f, 3, []KV{{alignmentKey, uint32(1)}}, sampleTensors(f)[1:2]))
	f.Add(encode(f, 3, nil, nil))
	f.Add(newFile(2, 0).tensor("a", tensor.F32, 32, 8).tensor("b", tensor.F32, 0, 9).data(64))
	f.Add(newFile(0, 1).str("k").u32(9, 9).u64(1).u32(9).u64(1).room(64))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("fuzz.gguf", data)
		if err != nil {
			var format *FormatError
			if !errors.As(err, &format) || format.Field == "" || format.Offset > uint64(len(data)) {
				t.Fatalf("error %v", err)
			}
			return
		}
		use(t, file)
		again := mustParse(t, rewrite(t, file))
		use(t, again)
		if !slices.Equal(file.Keys(), again.Keys()) {
			t.Fatalf("keys %q became %q", file.Keys(), again.Keys())
		}
		for i, b := range again.Tensors() {
			if a := file.Tensors()[i]; a.Name != b.Name || a.Type != b.Type || !slices.Equal(a.Dims, b.Dims) || !bytes.Equal(a.Data, b.Data) {
				t.Fatalf("tensor %q changed when written again", a.Name)
			}
		}
	})
}
