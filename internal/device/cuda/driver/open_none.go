//go:build nocuda || !(linux || windows) || !(amd64 || arm64)

package driver

import "fmt"

const defaultLibrary = ""

func open(string) (uintptr, error) {
	return 0, fmt.Errorf("cuda: %w: this build has no support for one", ErrUnavailable)
}

func symbol(uintptr, string) (uintptr, error) { return 0, ErrUnavailable }

func call(uintptr, ...uintptr) int32 { return -1 }
