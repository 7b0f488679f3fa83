package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A hub is a local server of one file, with the faults that servers and networks have.
type hub struct {
	*httptest.Server
	t        *testing.T
	mu       sync.Mutex
	content  []byte
	hash     string // X-Linked-Etag; "" for none
	etag     string // of the storage; "" for none
	ranges   bool   // understands Range
	cut      int    // connections end after so many bytes of a body; 0: never
	cuts     int    // so many connections are cut; negative: all
	stall    bool   // a cut connection stays open and silent instead
	chunked  bool   // no Content-Length, no X-Linked-Size
	status   int    // answer of every request, if not 0
	token    string // expected; "" for none
	redirect string // storage host, if another
	gets     []string
	release  chan struct{}
}

func newHub(t *testing.T) *hub {
	h := &hub{t: t, content: make([]byte, 100_000), ranges: true, etag: `"v1"`, release: make(chan struct{})}
	for i := range h.content {
		h.content[i] = byte(i * i >> 8)
	}
	h.hash = `"` + hexSum(h.content) + `"`
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(func() { close(h.release); h.Close() })
	return h
}

func (h *hub) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.status != 0 {
		w.WriteHeader(h.status)
		return
	}
	if r.URL.Path != "/own-er/re.po/resolve/main/sub dir/m.gguf" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if h.hash != "" {
		w.Header().Set("X-Linked-Etag", h.hash)
	}
	if !h.chunked {
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(h.content)))
	}
	if h.redirect != "" {
		http.Redirect(w, r, h.redirect+r.URL.Path, http.StatusFound)
		return
	}
	if r.Method == http.MethodHead {
		return
	}
	h.gets = append(h.gets, r.Header.Get("Range"))
	if h.etag != "" {
		w.Header().Set("ETag", h.etag)
	}
	body, from := h.content, 0
	if h.ranges {
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil || r.Header.Get("If-Range") != "" && r.Header.Get("If-Range") != h.etag {
			from = 0
		}
		if from >= len(body) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
	}
	body = body[from:]
	if !h.chunked {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(h.content)-1, len(h.content)))
		w.WriteHeader(http.StatusPartialContent)
	}
	if h.cut > 0 && h.cuts != 0 && len(body) > h.cut {
		h.cuts--
		w.Write(body[:h.cut])
		w.(http.Flusher).Flush()
		if h.stall {
			h.mu.Unlock()
			select {
			case <-r.Context().Done():
			case <-h.release:
			}
			h.mu.Lock()
		}
		panic(http.ErrAbortHandler)
	}
	w.Write(body)
}

const hubModel = "hf:own-er/re.po/sub dir/m.gguf"

func (h *hub) options(dir string) Options {
	return Options{Dir: dir, Endpoint: h.URL, RetryWait: time.Nanosecond, Client: h.Client(), Token: h.token}
}

// requirePull pulls and checks the contents, and that nothing but them remains.
func (h *hub) requirePull(dir string, ranges ...string) {
	h.t.Helper()
	path, err := Pull(h.t.Context(), hubModel, h.options(dir))
	if err != nil {
		h.t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, h.content) {
		h.t.Fatalf("%s: %d bytes that differ from the %d expected (%v)", path, len(got), len(h.content), err)
	}
	if fmt.Sprint(h.gets) != fmt.Sprint(ranges) {
		h.t.Errorf("requested %q, expected %q", h.gets, ranges)
	}
	h.gets = nil
	left, err := os.ReadDir(filepath.Join(dir, stateFolder, "hf", "own-er", "re.po", "sub dir"))
	if err != nil || len(left) != 2 {
		h.t.Errorf("left in the state folder: %v, %v; expected the mark and the lock", left, err)
	}
}

func TestPullHF(t *testing.T) {
	h := newHub(t)
	dir := t.TempDir()
	h.requirePull(dir, "")
	h.requirePull(dir) // again: no request
	h.status = http.StatusTeapot
	if path, err := Resolve(t.Context(), hubModel, h.options(dir)); err != nil || path != filepath.Join(dir, "hf", "own-er", "re.po", "sub dir", "m.gguf") {
		t.Errorf("Resolve of a pulled file: %q, %v", path, err)
	}
}

func TestPullHFCut(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(h *hub)
		ranges []string
	}{
		"resume by hash and tag": {func(h *hub) {}, []string{"", "bytes=30000-", "bytes=60000-"}},
		"hash only":              {func(h *hub) { h.etag = "" }, []string{"", "bytes=30000-", "bytes=60000-"}},
		"tag only":               {func(h *hub) { h.hash = "" }, []string{"", "bytes=30000-", "bytes=60000-"}},
		"nothing to go by":       {func(h *hub) { h.hash, h.etag, h.cuts = "", "", 2 }, []string{"", "", ""}},
		"weak tag":               {func(h *hub) { h.hash, h.etag, h.cuts = "", `W/"v1"`, 1 }, []string{"", ""}},
		"no ranges":              {func(h *hub) { h.ranges, h.cuts = false, 2 }, []string{"", "bytes=30000-", "bytes=30000-"}},
		"unknown length":         {func(h *hub) { h.chunked, h.cuts = true, 2 }, []string{"", "bytes=30000-", "bytes=60000-"}},
		"stalled":                {func(h *hub) { h.stall, h.cuts = true, 1 }, []string{"", "bytes=30000-"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			h.cut, h.cuts = 30_000, 2
			c.set(h)
			dir := t.TempDir()
			opt := h.options(dir)
			opt.Stall = 200 * time.Millisecond
			path, err := Pull(t.Context(), hubModel, opt)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, h.content) {
				t.Errorf("%d bytes that differ (%v)", len(got), err)
			}
			if fmt.Sprint(h.gets) != fmt.Sprint(c.ranges) {
				t.Errorf("requested %q, expected %q", h.gets, c.ranges)
			}
		})
	}
}

// A pull that gave up goes on in a later process; if the file changed in between, it begins again.
func TestPullHFLater(t *testing.T) {
	for _, changed := range []string{"no", "hash", "tag"} {
		t.Run("changed "+changed, func(t *testing.T) {
			h := newHub(t)
			if changed == "tag" {
				h.hash = ""
			}
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			opt := h.options(dir)
			h.cut, h.cuts, h.stall = 40_000, 1, true
			opt.Progress = func(stage string, done, _ int64) {
				if done == 40_000 {
					cancel()
				}
			}
			if _, err := Pull(ctx, hubModel, opt); !errors.Is(err, context.Canceled) {
				t.Fatalf("cancelled pull: %v", err)
			}
			h.mu.Lock()
			h.gets = nil
			if changed != "no" {
				h.content = bytes.Repeat([]byte("new"), 30_000)
				h.etag = `"v2"`
				if changed == "hash" {
					h.hash = `"` + hexSum(h.content) + `"`
				}
			}
			h.mu.Unlock()
			if changed == "hash" {
				h.requirePull(dir, "")
			} else {
				h.requirePull(dir, "bytes=40000-")
			}
		})
	}
}

// A partial file that is as long as the server's new file, or longer, must not end in a file of mixed contents.
func TestPullHFShrunk(t *testing.T) {
	for _, known := range []bool{true, false} {
		h := newHub(t)
		h.hash, h.cut, h.cuts, h.chunked = "", 90_000, -1, !known
		dir := t.TempDir()
		opt := h.options(dir)
		opt.Progress = func(_ string, done, _ int64) {
			if done == 90_000 {
				h.cut = 0
				h.content, h.etag = []byte("short"), `"v2"`
			}
		}
		if _, err := Pull(t.Context(), hubModel, opt); err != nil {
			t.Fatal(err)
		}
		opt.Progress = nil
		path, err := Resolve(t.Context(), hubModel, opt)
		got, _ := os.ReadFile(path)
		if err != nil || string(got) != "short" {
			t.Errorf("size known %v: %d bytes, %v", known, len(got), err)
		}
	}
}

func TestPullHFRefused(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(h *hub)
		want string
		gets int // bodies requested
	}{
		"missing":       {func(h *hub) { h.status = 404 }, "no such file", 0},
		"forbidden":     {func(h *hub) { h.status = 401 }, "HF_TOKEN", 0},
		"licence":       {func(h *hub) { h.status = 403 }, "HF_TOKEN", 0},
		"down":          {func(h *hub) { h.status = 503 }, "gave up after 5", 0},
		"wrong hash":    {func(h *hub) { h.hash = `"` + hexSum([]byte("else")) + `"` }, "sha256", 1},
		"always cut":    {func(h *hub) { h.cut, h.cuts, h.ranges = 10, -1, false }, "gave up after 5", 6},
		"absurd length": {func(h *hub) { h.redirect = "absurd" }, "are free", 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			c.set(h)
			if h.redirect != "" {
				absurd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Linked-Size", "4611686018427387904")
					w.Header().Set("Content-Length", "4611686018427387904")
				}))
				defer absurd.Close()
				h.Server.URL = absurd.URL
			}
			dir := t.TempDir()
			_, err := Pull(t.Context(), hubModel, h.options(dir))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, expected one about %q", err, c.want)
			}
			if len(h.gets) != c.gets {
				t.Errorf("requested %q, expected %d bodies", h.gets, c.gets)
			}
			if _, err := os.Stat(filepath.Join(dir, "hf")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something got its final name: %v", err)
			}
		})
	}
}

// The token goes to the repository, not to the storage that it redirects to, and never in the clear over a network.
func TestPullHFToken(t *testing.T) {
	storage := newHub(t)
	var leaked bool
	inner := storage.Config.Handler
	storage.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked = leaked || r.Header.Get("Authorization") != ""
		inner.ServeHTTP(w, r)
	})
	repo := newHub(t)
	repo.token = "secret"
	// Another name of the same machine, so that the redirect leaves the host.
	repo.redirect = strings.Replace(storage.URL, "127.0.0.1", "localhost", 1)
	opt := repo.options(t.TempDir())
	if _, err := Pull(t.Context(), hubModel, opt); err != nil {
		t.Fatal(err)
	}
	if leaked || len(storage.gets) != 1 {
		t.Errorf("token given to the storage: %v; bodies requested: %q", leaked, storage.gets)
	}
	opt.Token = "wrong"
	opt.Dir = t.TempDir()
	if _, err := Pull(t.Context(), hubModel, opt); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("wrong token: %v", err)
	}
	opt.Endpoint = "http://192.0.2.1"
	if _, err := Pull(t.Context(), hubModel, opt); err == nil || !strings.Contains(err.Error(), "in the clear") {
		t.Errorf("token over plain http: %v", err)
	}
	t.Setenv("HF_TOKEN", "secret")
	t.Setenv("HF_ENDPOINT", repo.URL)
	opt.Token, opt.Endpoint = "", ""
	if _, err := Pull(t.Context(), hubModel, opt); err != nil {
		t.Errorf("token and endpoint from the environment: %v", err)
	}
	opt.Dir = t.TempDir()
	opt.Endpoint = "ftp://host"
	if _, err := Pull(t.Context(), hubModel, opt); err == nil || !strings.Contains(err.Error(), "endpoint") {
		t.Errorf("ftp endpoint: %v", err)
	}
}

func TestParseHF(t *testing.T) {
	for name, want := range map[string]hfRef{
		"hf:a/b/c.gguf":            {"a", "b", "c.gguf"},
		"hf:A-1/b.c_d/x/y z-Q4.gz": {"A-1", "b.c_d", "x/y z-Q4.gz"},
	} {
		if got, err := parseHF(name); err != nil || got != want || got.String() != name {
			t.Errorf("parseHF(%q) = %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{
		"hf:a/b", "hf:a/b/", "hf:/b/c", "hf:a//c", "hf:../b/c", "hf:a/../c", "hf:a/b/..", "hf:a/b/../../c", "hf:a/b/x/../../../../c", "hf:a/b//c", "hf:a/b/.c",
		`hf:a/b/..\..\c`, "hf:a/b/c:d", "hf:a/b/c\x00", "hf:a/b/c\n", "hf:a/b/c?x=1", "hf:a/b/c#d", "hf:a/b/%2e%2e/c", "hf:a/b..c/d", "hf:a@b/c/d", "hf:a/b/c/.", "hf:a/b/c.", "hf:a/b/c ",
		"hf:a/b/" + strings.Repeat("x", 300), "hf:" + strings.Repeat("x", 97) + "/b/c", "hf:a/b/" + strings.Repeat("x/", 600) + "x",
	} {
		if ref, err := parseHF(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("parseHF(%q) = %+v, %v; expected a refusal", name, ref, err)
		}
	}
}

func FuzzParseHF(f *testing.F) {
	f.Add("hf:a/b/c")
	f.Add("hf:a/../b/../../c")
	root := filepath.FromSlash("/models/hf")
	f.Fuzz(func(t *testing.T, name string) {
		ref, err := parseHF(name)
		if err != nil {
			return
		}
		path := filepath.Join(root, ref.owner, ref.repo, filepath.FromSlash(ref.file))
		if rel, err := filepath.Rel(root, path); err != nil || !filepath.IsLocal(rel) || strings.Count(filepath.ToSlash(rel), "/") != 2+strings.Count(ref.file, "/") {
			t.Errorf("%q leads to %s", name, path)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes 0-9/*")
	f.Add("bytes 9-5/-1")
	f.Fuzz(func(t *testing.T, header string) {
		from, total, err := contentRange(header)
		if err == nil && (from < 0 || total < 0 || total > 0 && from >= total) {
			t.Errorf("contentRange(%q) = %d, %d", header, from, total)
		}
	})
}
