//go:build !linux

package mem

// adviseHuge does nothing: only Linux takes this advice for ordinary mappings.
func adviseHuge([]byte) {}
