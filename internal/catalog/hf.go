package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	hfPrefix   = "hf:"
	hfEndpoint = "https://huggingface.co"
)

// An hfRef names one file of a repository, on its main branch.
type hfRef struct{ owner, repo, file string }

func (r hfRef) String() string { return hfPrefix + r.owner + "/" + r.repo + "/" + r.file }

var (
	hfName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$`)
	hfSegment = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+,=@ -]{0,199}$`)
)

// parseHF takes hf:OWNER/REPO/FILE apart, where FILE may lie in folders. The parts become folders on this machine, so anything that could lead elsewhere is refused.
func parseHF(name string) (hfRef, error) {
	parts := strings.SplitN(strings.TrimPrefix(name, hfPrefix), "/", 3)
	if len(parts) != 3 {
		return hfRef{}, fmt.Errorf("catalog: %w %q: expected hf:OWNER/REPO/FILE", ErrUnknown, name)
	}
	ref := hfRef{parts[0], parts[1], parts[2]}
	ok := hfName.MatchString(ref.owner) && hfName.MatchString(ref.repo) && len(ref.file) <= 1000
	for segment := range strings.SplitSeq(ref.file, "/") {
		ok = ok && hfSegment.MatchString(segment) && !strings.HasSuffix(segment, ".") && !strings.HasSuffix(segment, " ")
	}
	if !ok || strings.Contains(ref.owner+ref.repo, "..") || !filepath.IsLocal(filepath.FromSlash(ref.owner+"/"+ref.repo+"/"+ref.file)) {
		return hfRef{}, fmt.Errorf("catalog: %w %q: a name may hold letters, digits and _ . - only, may not begin with a dot, and no part may be empty", ErrUnknown, name)
	}
	return ref, nil
}

// Transfers that broke are tried again while they make progress; this many in a row may make none.
const maxFruitless = 5

// pullHF fetches a file over HTTP with resume.
func (s *store) pullHF(ctx context.Context, it item) error {
	g, err := s.getter(it)
	if err != nil {
		return err
	}
	var src origin
	wait := s.opt.RetryWait
	if wait == 0 {
		wait = time.Second
	}
	for fruitless := 0; ; {
		before := size(it.partial())
		if src, err = g.head(ctx); err == nil {
			src, err = g.transfer(ctx, src)
		}
		if err == nil {
			break
		}
		var status *statusError
		if final := errors.As(err, &status) && !status.temporary(); final || ctx.Err() != nil || errors.Is(err, errTooLarge) {
			return err
		}
		if size(it.partial()) > before {
			fruitless = 0
		} else if fruitless++; fruitless >= maxFruitless {
			return fmt.Errorf("%w (gave up after %d attempts; the pull resumes when it is run again)", err, maxFruitless)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait << min(fruitless, 5)):
		}
	}
	if err := s.finish(ctx, it, src.SHA256); err != nil {
		return err
	}
	if err := os.Remove(it.origin()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// size returns the bytes of a file, 0 where there is none.
func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
