//go:build !invariants && !race

package kvcache

const invariants = false
