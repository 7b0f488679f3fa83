package engine

import (
	"fmt"

	"github.com/twilight-go/twilight/internal/kvcache"
)

func (s *Session) exact(doing string) (kvcache.Exact, error) {
	c, ok := s.eng.cache.(kvcache.Exact)
	if !ok {
		return nil, fmt.Errorf("engine: %s a cache: device %s cannot", doing, s.eng.model.Device().Name())
	}
	return c, nil
}

// Save writes the cached text to a file, which appears whole or not at all.
func (s *Session) Save(path string) error {
	c, err := s.exact("saving")
	if err != nil {
		return err
	}
	return kvcache.Save(path, c, s.seq, s.eng.model.Fingerprint())
}

// Load makes a saved text the cached text. A file of another model or version, or a damaged one, is kvcache.ErrSaved, and one that does not fit the context is ErrContext; the session is then empty.
func (s *Session) Load(path string) error {
	c, err := s.exact("loading")
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
	if err := kvcache.Load(path, c, s.seq, s.eng.model.Fingerprint()); err != nil {
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

// Take makes the first n tokens of another session the cached text: their exact keys and values are copied, and the planes of this session's pipelines made of them. The
// other may be another engine's, on another device, but of the same model. What selectors remember of the prompt's queries does not come along: Prefill the prompt's last
// tokens here for those that have to see them. taken, if not nil, is called as soon as the other is no longer needed, before the planes are made, which takes longer than the
// copy: the other may then be closed, and its engine read the next text. After an error the session is empty.
func (s *Session) Take(other *Session, n int, taken func()) error {
	if s.eng.model.Fingerprint() != other.eng.model.Fingerprint() {
		return fmt.Errorf("engine: taking a text of another model")
	}
	if n > s.eng.ctx {
		return fmt.Errorf("engine: taking %d tokens, but the context is %d: %w", n, s.eng.ctx, ErrContext)
	}
	src, err := other.exact("taking from")
	if err != nil {
		return err
	}
	dst, err := s.exact("taking to")
	if err != nil {
		return err
	}
	if err := kvcache.Move(dst, s.seq, src, other.seq, n, taken); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	return nil
}
