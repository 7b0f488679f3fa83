package mem

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

func TestAllocIsZeroedAlignedAndWritable(t *testing.T) {
	for _, n := range []int{1, 17, 4096, 4097, hugeThreshold - 1, hugeThreshold, hugeThreshold + 12345, 3*hugeThreshold + 1} {
		b, err := Alloc(n)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != n || cap(b) != n {
			t.Fatalf("%d bytes: len %d cap %d", n, len(b), cap(b))
		}
		align := uintptr(8)
		if n >= hugeThreshold && runtime.GOOS == "linux" {
			align = hugePage
		}
		if p := uintptr(unsafe.Pointer(&b[0])); p%align != 0 {
			t.Errorf("%d bytes: address %#x is not aligned to %d", n, p, align)
		}
		for i := 0; i < n; i += 509 {
			if b[i] != 0 {
				t.Fatalf("%d bytes: byte %d is %d, want 0", n, i, b[i])
			}
			b[i] = 1
		}
		b[n-1] = 1
		if err := Free(b); err != nil {
			t.Error(err)
		}
	}
}

func TestAllocBounds(t *testing.T) {
	if b, err := Alloc(0); err != nil || len(b) != 0 {
		t.Errorf("0 bytes: %d bytes, %v", len(b), err)
	}
	for _, n := range []int{-1, int(^uint(0) >> 1)} {
		if _, err := Alloc(n); err == nil {
			t.Errorf("%d bytes: no error", n)
		}
	}
	if err := Free(nil); err != nil {
		t.Error(err)
	}
	if err := Unmap(nil); err != nil {
		t.Error(err)
	}
}

func TestMap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weights")
	want := bytes.Repeat([]byte("0123456789"), 1000)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Map(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the mapping differs from the file")
	}
	AdviseHuge(got)
	if err := Unmap(got); err != nil {
		t.Error(err)
	}

	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := Map(empty); err != nil || len(b) != 0 {
		t.Errorf("empty file: %d bytes, %v", len(b), err)
	}
	for _, bad := range []string{filepath.Join(t.TempDir(), "absent"), t.TempDir()} {
		if _, err := Map(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: error %v does not name the path", bad, err)
		}
	}
}

func TestSlice(t *testing.T) {
	b, err := Alloc(4099)
	if err != nil {
		t.Fatal(err)
	}
	defer Free(b)
	f := Slice[float32](b)
	if len(f) != 1024 {
		t.Fatalf("%d floats, want 1024", len(f))
	}
	f[1023] = 1
	if h := Slice[uint16](b); len(h) != 2049 || h[2046]|h[2047] != 0x3f80 {
		t.Errorf("%d halves, the last float reads %#x %#x", len(h), h[2046], h[2047])
	}
	if s := Slice[int32](b[:3]); s != nil {
		t.Errorf("3 bytes give %d elements", len(s))
	}
	if Aligned[float32](b[1:]) || !Aligned[float32](b[4:]) || !Aligned[int8](b[1:]) {
		t.Error("alignment misjudged")
	}
	defer func() {
		if recover() == nil {
			t.Error("a misaligned view did not panic")
		}
	}()
	Slice[float32](b[1:])
}
