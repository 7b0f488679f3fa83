package engine

import (
	"fmt"

	"github.com/twilight-go/twilight/internal/kvcache"
)

// storer is a cache that can be written to disk; see kvcache.Host for what the methods do.
type storer interface {
	Save(path string, s *kvcache.Sequence, fingerprint [32]byte) error
	Load(path string, s *kvcache.Sequence, fingerprint [32]byte) error
}

func (s *Session) storer(doing string) (storer, error) {
	c, ok := s.eng.cache.(storer)
	if !ok {
		return nil, fmt.Errorf("engine: %s a cache: device %s cannot", doing, s.eng.model.Device().Name())
	}
	return c, nil
}

// Save writes the cached text to a file, which appears whole or not at all.
func (s *Session) Save(path string) error {
	c, err := s.storer("saving")
	if err != nil {
		return err
	}
	return c.Save(path, s.seq, s.eng.model.Fingerprint())
}

// Load makes a saved text the cached text. A file of another model or version, or a damaged one, is kvcache.ErrSaved, and one that does not fit the context is ErrContext; the session is then empty.
func (s *Session) Load(path string) error {
	c, err := s.storer("loading")
	if err != nil {
		return err
	}
	h, err := kvcache.ReadSaved(path)
	if err != nil {
		return err
	}
	if h.Tokens > s.eng.ctx {
		return fmt.Errorf("engine: the saved cache %s has %d tokens, but the context is %d: %w", path, h.Tokens, s.eng.ctx, ErrContext)
	}
	if err := c.Load(path, s.seq, s.eng.model.Fingerprint()); err != nil {
		return err
	}
	for _, id := range s.seq.Tokens {
		if id < 0 || int(id) >= s.eng.model.Vocab {
			s.seq.Release()
			return fmt.Errorf("engine: the saved cache %s has token %d: expected 0 to %d: %w", path, id, s.eng.model.Vocab-1, kvcache.ErrSaved)
		}
	}
	return nil
}
