package kernels

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestImagesAreOfTheSources: the compiler does not write the same bytes twice for the kernels of wide heads, so what build.sh noted of the sources is compared.
func TestImagesAreOfTheSources(t *testing.T) {
	files, err := filepath.Glob("*.cuh")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	h := sha256.New()
	for _, f := range append([]string{"twilight.cu"}, files...) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(text)
	}
	noted, err := os.ReadFile("sources.sha256")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(noted)), hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the images are of sources with hash %s, but the sources have %s: run build.sh", got, want)
	}
}

func TestImages(t *testing.T) {
	cubin, err := Hopper()
	if err != nil || !bytes.HasPrefix(cubin, []byte("\x7fELF")) {
		t.Errorf("the Hopper image is no ELF file (%v)", err)
	}
	ptx, err := Portable()
	if err != nil || !bytes.Contains(ptx, []byte(".target sm_80")) {
		t.Errorf("the portable image is no PTX for sm_80 (%v)", err)
	}
	for _, kernel := range []string{"append", "write", "encode", "sums", "select", "few", "whole", "ringed", "cluster"} {
		for _, dim := range []string{"_64", "_128", "_256"} {
			if !bytes.Contains(cubin, []byte(kernel+dim)) || !bytes.Contains(ptx, []byte(kernel+dim)) {
				t.Errorf("an image lacks kernel %s%s", kernel, dim)
			}
		}
	}
	if _, err := unpack("broken", []byte("no gzip")); err == nil {
		t.Error("a broken image was unpacked")
	}
}
