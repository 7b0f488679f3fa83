//go:build !unix

package linear

import "testing"

// guardedFloats and guarded are plain memory where no page can be made to fault.
func guardedFloats(_ testing.TB, n int) []float32 { return make([]float32, n) }
func guarded(_ testing.TB, n int) []byte          { return make([]byte, n) }
