package kernels

import (
	"bytes"
	"testing"
)

func TestImages(t *testing.T) {
	cubin, err := Hopper()
	if err != nil || !bytes.HasPrefix(cubin, []byte("\x7fELF")) {
		t.Errorf("the Hopper image is no ELF file (%v)", err)
	}
	ptx, err := Portable()
	if err != nil || !bytes.Contains(ptx, []byte(".target sm_80")) {
		t.Errorf("the portable image is no PTX for sm_80 (%v)", err)
	}
	for _, kernel := range []string{"append", "write", "encode", "sums", "attend", "select"} {
		for _, dim := range []string{"_64", "_128"} {
			if !bytes.Contains(cubin, []byte(kernel+dim)) || !bytes.Contains(ptx, []byte(kernel+dim)) {
				t.Errorf("an image lacks kernel %s%s", kernel, dim)
			}
		}
	}
	if _, err := unpack("broken", []byte("no gzip")); err == nil {
		t.Error("a broken image was unpacked")
	}
}
