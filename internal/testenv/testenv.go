// Package testenv finds what tests need beside the code: real models and the shared data. Where something is absent a test skips with the reason, or fails
// if TWILIGHT_REQUIRE names it (a list such as "smollm2,shared"; models count by the beginning of their names).
package testenv

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/twilight-go/twilight/internal/catalog"
)

// Model returns the path of a catalog model. The default model is fetched as a user's first run would fetch it, unless -short is given; the larger ones must
// have been pulled before. Test processes that run at the same time fetch once and wait for each other.
func Model(t testing.TB, name string) string {
	t.Helper()
	path, err := model(name, catalog.Options{Offline: name != catalog.Default || testing.Short()})
	if errors.Is(err, catalog.ErrUnknown) {
		t.Fatal(err)
	}
	if err != nil {
		skip(t, name, "model %s: %v", name, err)
	}
	return path
}

var pulls sync.Map // name → func() (string, error)

// model resolves a name once a process, so that a machine without network pays for one attempt, not for one a test.
func model(name string, opt catalog.Options) (string, error) {
	f, _ := pulls.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		// Not a test's context: the file is for all tests of the process.
		return catalog.Pull(context.Background(), name, opt)
	}))
	return f.(func() (string, error))()
}

// Shared returns the path of a file or folder of the shared data: in TWILIGHT_SHARED where set, else ../shared/data from the module's root.
func Shared(t testing.TB, elems ...string) string {
	t.Helper()
	root := os.Getenv("TWILIGHT_SHARED")
	if root == "" {
		module, err := moduleRoot()
		if err != nil {
			t.Fatal(err)
		}
		root = filepath.Join(module, "..", "shared", "data")
	}
	path := filepath.Join(append([]string{root}, elems...)...)
	if _, err := os.Stat(path); err != nil {
		skip(t, "shared", "shared data: %v (set TWILIGHT_SHARED to its folder)", err)
	}
	return path
}

// moduleRoot returns the nearest folder above the working folder that holds a go.mod.
func moduleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("testenv: no go.mod above " + start)
		}
	}
}

// skip ends the test: as skipped, or as failed where what it lacks is required.
func skip(t testing.TB, what, format string, args ...any) {
	t.Helper()
	if required(what) {
		t.Fatalf("required by TWILIGHT_REQUIRE: "+format, args...)
	}
	t.Skipf(format, args...)
}

// required reports whether TWILIGHT_REQUIRE names what.
func required(what string) bool {
	for name := range strings.SplitSeq(os.Getenv("TWILIGHT_REQUIRE"), ",") {
		if name = strings.TrimSpace(name); name != "" && strings.HasPrefix(what, name) {
			return true
		}
	}
	return false
}
