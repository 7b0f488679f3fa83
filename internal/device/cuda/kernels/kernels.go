// Package kernels holds the compiled CUDA kernels: machine code for Hopper, and portable PTX that the driver compiles for any device from Ampere on. build.sh
// rebuilds both from the sources beside it, byte for byte.
package kernels

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the images
	"fmt"
	"io"
)

//go:embed twilight_sm90a.cubin.gz
var hopper []byte

//go:embed twilight_compute80.ptx.gz
var portable []byte

// Hopper is machine code for compute capability 9.0.
func Hopper() ([]byte, error) { return unpack("twilight_sm90a.cubin", hopper) }

// Portable is PTX for compute capability 8.0 and later. Its select kernels run in clusters of one.
func Portable() ([]byte, error) { return unpack("twilight_compute80.ptx", portable) }

func unpack(name string, packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("cuda: image %s: %w", name, err)
	}
	image, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("cuda: image %s: %w", name, err)
	}
	return image, nil
}
