package linear

import (
	"sync"

	"github.com/twilight-go/twilight/internal/mem"
)

// Matrices of small models are smaller than a huge page, and on pages of 4 KiB their products read a quarter slower. So
// they share slabs; larger ones have memory of their own.
const (
	slabBytes = 32 << 20
	slabShare = 4 << 20 // the largest matrix that shares a slab
	slabAlign = 64
)

// slab is a piece of memory that matrices fill from the front. It is freed with the last of them.
type slab struct {
	data []byte
	used int
	refs int
}

// slabs is where the next small matrix goes; earlier slabs are kept by their matrices alone.
var slabs struct {
	sync.Mutex
	open *slab
}

// allocate returns n zeroed bytes, aligned to a cache line, and the slab that release must be given (nil: none).
func allocate(n int) ([]byte, *slab, error) {
	if n > slabShare {
		data, err := mem.Alloc(n)
		return data, nil, err
	}
	slabs.Lock()
	defer slabs.Unlock()
	s := slabs.open
	if s == nil || s.used+n > len(s.data) {
		data, err := mem.Alloc(slabBytes)
		if err != nil {
			return nil, nil, err
		}
		s = &slab{data: data}
		slabs.open = s
	}
	data := s.data[s.used : s.used+n : s.used+n]
	s.used += (n + slabAlign - 1) &^ (slabAlign - 1)
	s.refs++
	return data, s, nil
}

// release ends memory of allocate.
func release(data []byte, s *slab) error {
	if s == nil {
		return mem.Free(data)
	}
	slabs.Lock()
	defer slabs.Unlock()
	if s.refs--; s.refs > 0 {
		return nil
	}
	if slabs.open == s {
		slabs.open = nil
	}
	return mem.Free(s.data)
}
