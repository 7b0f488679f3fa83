//go:build !unix

package kernel

import "testing"

func guarded[T any](_ testing.TB, n int) []T { return make([]T, n) }
