package gguf

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// sampleMeta has every value type, alone and in arrays, and the empty cases.
func sampleMeta() []KV {
	return []KV{
		{"general.architecture", "llama"}, {"general.alignment", uint32(32)}, {"u8", uint8(200)}, {"i8", int8(-100)},
		{"u16", uint16(60000)}, {"i16", int16(-30000)}, {"u32", uint32(1 << 31)}, {"i32", int32(-7)},
		{"u64", uint64(math.MaxUint64)}, {"i64", int64(math.MinInt64)}, {"f32", float32(1e-5)}, {"f64", 1e-300},
		{"yes", true}, {"no", false}, {"empty", ""}, {"text", "a\x00b, ünï"},
		{"tokens", []string{"<s>", "", "hello", "▁world"}}, {"no tokens", []string{}}, {"scores", []float32{0, -1.5, 2}},
		{"types", []int32{1, -2, 3}}, {"bytes", []uint8{1, 2, 255}}, {"longs", []int64{1 << 40, 2}}, {"bools", []bool{true, false}},
		{"ulongs", []uint64{math.MaxUint64}}, {"doubles", []float64{0.5, 1e300}}, {"shorts", []int16{-5, 5}},
	}
}

// sampleTensors are a few small tensors of different formats, filled with a pattern.
func sampleTensors(t testing.TB) []Tensor {
	var out []Tensor
	for _, d := range []struct {
		name string
		typ  tensor.Type
		dims []uint64
	}{
		{"token_embd.weight", tensor.Q8_0, []uint64{32, 3}}, {"blk.0.attn_norm.weight", tensor.F32, []uint64{5}},
		{"blk.0.attn_q.weight", tensor.Q4_K, []uint64{256, 1, 2}}, {"blk.0.cube", tensor.F16, []uint64{1, 2, 3, 4}},
	} {
		rows := uint64(1)
		for _, n := range d.dims[1:] {
			rows *= n
		}
		row, err := tensor.RowBytes(d.typ, int(d.dims[0]))
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, int(rows)*row)
		for i := range data {
			data[i] = byte(i*7 + len(out))
		}
		out = append(out, Tensor{Name: d.name, Dims: d.dims, Type: d.typ, Data: data})
	}
	return out
}

func encode(t testing.TB, version uint32, meta []KV, tensors []Tensor) []byte {
	var b bytes.Buffer
	if err := WriteVersion(&b, version, meta, tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample(t testing.TB) []byte { return encode(t, 3, sampleMeta(), sampleTensors(t)) }

func mustParse(t testing.TB, data []byte) *File {
	f, err := Parse("sample.gguf", data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// rewrite writes what a file holds, in the version it has.
func rewrite(t testing.TB, f *File) []byte {
	var meta []KV
	for _, k := range f.Keys() {
		v, ok := f.Value(k)
		if !ok {
			t.Fatalf("key %q is listed but not found", k)
		}
		if k == alignmentKey {
			meta = append(meta, KV{k, uint32(f.alignment)})
			continue
		}
		meta = append(meta, KV{k, v})
	}
	return encode(t, f.Version, meta, f.Tensors())
}

func TestRoundTrip(t *testing.T) {
	for _, version := range []uint32{2, 3} {
		data := encode(t, version, sampleMeta(), sampleTensors(t))
		path := filepath.Join(t.TempDir(), "sample.gguf")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if f.Version != version || f.Name() != path || f.Size() != int64(len(data)) {
			t.Errorf("version %d, name %s, size %d", f.Version, f.Name(), f.Size())
		}
		for i, key := range f.Keys() {
			if want := sampleMeta()[i].Key; key != want {
				t.Errorf("key %d is %q, want %q", i, key, want)
			}
		}
		want := sampleTensors(t)
		for i, got := range f.Tensors() {
			byName, ok := f.Tensor(got.Name)
			if !ok || byName.Offset != got.Offset {
				t.Errorf("tensor %q by name: %v, offset %d, want %d", got.Name, ok, byName.Offset, got.Offset)
			}
			if w := want[i]; got.Name != w.Name || got.Type != w.Type || !slices.Equal(got.Dims, w.Dims) || !bytes.Equal(got.Data, w.Data) {
				t.Errorf("tensor %d is %q %s %d, want %q %s %d, or its data differ", i, got.Name, got.Type, got.Dims, w.Name, w.Type, w.Dims)
			}
			if got.Offset%defaultAlignment != 0 {
				t.Errorf("tensor %q lies at %d", got.Name, got.Offset)
			}
		}
		if cube, _ := f.Tensor("blk.0.cube"); cube.Rows() != 24 || cube.Cols() != 1 {
			t.Errorf("%d rows, %d columns, want 24, 1", cube.Rows(), cube.Cols())
		}
		if again := rewrite(t, f); !bytes.Equal(again, data) {
			t.Error("written again, the file differs")
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, ok := f.Tensor("blk.0.cube"); ok || f.Has("text") || len(f.Keys())+len(f.Tensors()) > 0 {
			t.Error("a closed file still has keys or tensors")
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenErrorsNameTheFile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"absent", "empty", "text"} {
		path := filepath.Join(dir, name)
		if name != "absent" {
			if err := os.WriteFile(path, []byte(strings.Repeat(name, 100))[:len(name)%5*20], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestGetters(t *testing.T) {
	f := mustParse(t, sample(t))
	check := func(what string, got, want any, err error) {
		t.Helper()
		if err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", what, got, err, want)
		}
	}
	for key, want := range map[string]uint64{"u8": 200, "u16": 60000, "u32": 1 << 31, "u64": math.MaxUint64} {
		got, err := f.Uint(key)
		check(key, got, want, err)
	}
	for key, want := range map[string]int64{"i8": -100, "i16": -30000, "i32": -7, "i64": math.MinInt64, "u32": 1 << 31} {
		got, err := f.Int(key)
		check(key, got, want, err)
	}
	for key, want := range map[string]float64{"f32": float64(float32(1e-5)), "f64": 1e-300, "i8": -100, "u16": 60000, "u64": math.MaxUint64} {
		got, err := f.Float(key)
		check(key, got, want, err)
	}
	for key, want := range map[string]bool{"yes": true, "no": false} {
		got, err := f.Bool(key)
		check(key, got, want, err)
	}
	for key, want := range map[string]string{"empty": "", "text": "a\x00b, ünï"} {
		got, err := f.String(key)
		check(key, got, want, err)
	}
	if got, err := f.Strings("tokens"); err != nil || !slices.Equal(got, []string{"<s>", "", "hello", "▁world"}) {
		t.Errorf("tokens: %q, %v", got, err)
	}
	if got, err := f.Strings("no tokens"); err != nil || len(got) != 0 {
		t.Errorf("no tokens: %q, %v", got, err)
	}
	if got, err := f.Bools("bools"); err != nil || !slices.Equal(got, []bool{true, false}) {
		t.Errorf("bools: %v, %v", got, err)
	}
	for key, want := range map[string][]int32{"types": {1, -2, 3}, "bytes": {1, 2, 255}, "shorts": {-5, 5}} {
		if got, err := f.Ints(key); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d, %v", key, got, err)
		}
	}
	for key, want := range map[string][]float32{"scores": {0, -1.5, 2}, "doubles": {0.5, float32(math.Inf(1))}, "types": {1, -2, 3}} {
		if got, err := f.Floats(key); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %g, %v", key, got, err)
		}
	}
}

func TestGetterErrors(t *testing.T) {
	f := mustParse(t, sample(t))
	err := func(_ any, err error) error { return err }
	for _, c := range []struct {
		err  error
		want string
	}{
		{err(f.Uint("i8")), `sample.gguf: metadata key "i8": found int8 -100, expected an unsigned integer`},
		{err(f.Uint("f32")), `found float32 1e-05, expected an unsigned integer`},
		{err(f.Uint("text")), `found string, expected an unsigned integer`},
		{err(f.Uint("yes")), `found bool, expected`},
		{err(f.Int("u64")), `found uint64 18446744073709551615, expected an integer`},
		{err(f.Int("types")), `found array of 3 int32, expected an integer`},
		{err(f.Float("text")), `found string, expected a number`},
		{err(f.String("u8")), `found uint8, expected a string`},
		{err(f.Bool("u8")), `found uint8, expected a bool`},
		{err(f.Strings("types")), `found array of 3 int32, expected an array of strings`},
		{err(f.Strings("text")), `found string, expected an array of strings`},
		{err(f.Ints("tokens")), `found array of 4 string, expected an array of 32-bit integers`},
		{err(f.Ints("longs")), `found array of 2 int64 whose element 0 is 1099511627776, expected`},
		{err(f.Ints("ulongs")), `element 0 is 18446744073709551615, expected`},
		{err(f.Ints("scores")), `element 0 is 0, expected`},
		{err(f.Floats("bools")), `found array of 2 bool, expected an array of numbers`},
		{err(f.Bools("yes")), `found bool, expected an array of bools`},
		{err(f.Floats("f32")), `found float32, expected an array of numbers`},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("error %v, want %q in it", c.err, c.want)
		}
		if errors.Is(c.err, ErrNotFound) {
			t.Errorf("%v counts as not found", c.err)
		}
	}
	for _, e := range []error{err(f.Uint("x")), err(f.Int("x")), err(f.Float("x")), err(f.String("x")), err(f.Bool("x")), err(f.Strings("x")), err(f.Ints("x")), err(f.Floats("x")), err(f.Bools("x"))} {
		if !errors.Is(e, ErrNotFound) || !strings.Contains(e.Error(), `sample.gguf: metadata key "x": not found (expected a`) {
			t.Errorf("missing key: %v", e)
		}
	}
}

func TestValueString(t *testing.T) {
	f := mustParse(t, sample(t))
	for key, want := range map[string]string{
		"u64": "18446744073709551615", "i64": "-9223372036854775808", "f32": "1e-05", "f64": "1e-300", "yes": "true", "text": "a\x00b, ünï",
		"tokens": `["<s>", "", "hello", "▁world"]`, "no tokens": "[]", "bools": "[true, false]", "scores": "[0, -1.5, 2]",
	} {
		v, ok := f.Value(key)
		if !ok || v.String() != want {
			t.Errorf("%s: %v %s, want %s", key, ok, v, want)
		}
	}
	long := mustParse(t, encode(t, 3, []KV{{"long", make([]int8, 100)}}, nil))
	if v, _ := long.Value("long"); v.String() != "[0, 0, 0, 0, 0, 0, 0, 0, ... 100 in all]" || v.Len() != 100 {
		t.Errorf("a long array is %s", v)
	}
}

func TestFingerprint(t *testing.T) {
	base := sample(t)
	want := mustParse(t, base).Fingerprint()
	if mustParse(t, slices.Clone(base)).Fingerprint() != want {
		t.Error("the same bytes have another fingerprint")
	}
	header := slices.Clone(base)
	header[bytes.Index(header, []byte("hello"))] ^= 1
	weight := slices.Clone(base)
	weight[len(weight)-32] ^= 1 // within the last tensor
	for what, data := range map[string][]byte{"header": header, "weight": weight, "size": append(slices.Clone(base), 0)} {
		if mustParse(t, data).Fingerprint() == want {
			t.Errorf("another %s has the same fingerprint", what)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	tensors := func(change func(*Tensor)) []Tensor {
		ts := sampleTensors(t)
		change(&ts[1])
		return ts
	}
	for _, c := range []struct {
		meta    []KV
		tensors []Tensor
		want    string
	}{
		{[]KV{{"a", 1}}, nil, `metadata key "a": the format has no type for a int`},
		{[]KV{{"a", nil}}, nil, `no type for a <nil>`},
		{[]KV{{"a", []any{1}}}, nil, `no type for a []interface {}`},
		{[]KV{{"a", true}, {"a", true}}, nil, `metadata key "a": the name stands twice`},
		{[]KV{{"", true}}, nil, `the name has 0 bytes`},
		{[]KV{{alignmentKey, uint32(48)}}, nil, `expected a uint32 that is a power of two`},
		{[]KV{{alignmentKey, uint64(64)}}, nil, `expected a uint32 that is a power of two`},
		{nil, tensors(func(t *Tensor) { t.Name = "token_embd.weight" }), `tensor "token_embd.weight": the name stands twice`},
		{nil, tensors(func(t *Tensor) { t.Dims = nil }), `found 0 dimensions`},
		{nil, tensors(func(t *Tensor) { t.Dims = []uint64{6} }), `found 20 bytes of data, expected 1 rows of 24 bytes`},
		{nil, tensors(func(t *Tensor) { t.Dims = []uint64{5, 1 << 62, 1 << 62} }), `overflow`},
		{nil, tensors(func(t *Tensor) { t.Dims, t.Data = []uint64{5, 0}, nil }), `found 0 bytes of data`},
		{nil, tensors(func(t *Tensor) { t.Type = tensor.Q4_0 }), `not a whole number of Q4_0 blocks`},
	} {
		err := Write(&bytes.Buffer{}, c.meta, c.tensors)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q in it", err, c.want)
		}
	}
	if err := WriteVersion(&bytes.Buffer{}, 1, nil, nil); err == nil {
		t.Error("version 1 was written")
	}
	if err := Write(failing{}, nil, nil); err == nil {
		t.Error("a failing writer went unnoticed")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestAlignment(t *testing.T) {
	for _, a := range []uint32{1, 8, 4096} {
		f := mustParse(t, encode(t, 3, []KV{{alignmentKey, a}}, sampleTensors(t)))
		for i, got := range f.Tensors() {
			if want := sampleTensors(t)[i]; got.Offset%uint64(a) != 0 || !bytes.Equal(got.Data, want.Data) {
				t.Errorf("alignment %d: tensor %q at %d, or its data differ", a, got.Name, got.Offset)
			}
		}
	}
}
