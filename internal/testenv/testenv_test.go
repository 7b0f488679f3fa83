package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/twilight-go/twilight/internal/catalog"
)

// A recorder is a test that remembers how it ended.
type recorder struct {
	testing.TB
	end string // "skip" or "fail"
}

func (r *recorder) Helper() {}

func (r *recorder) stop(how string, text string) {
	r.TB.Log(how+":", text)
	r.end = how
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any)  { r.stop("skip", fmt.Sprintf(format, args...)) }
func (r *recorder) Fatalf(format string, args ...any) { r.stop("fail", fmt.Sprintf(format, args...)) }
func (r *recorder) Fatal(args ...any)                 { r.stop("fail", fmt.Sprint(args...)) }

// outcome returns "skip" or "fail" if f ended the test, else "".
func outcome(t *testing.T, f func(testing.TB)) string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r.end
}

func TestShared(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TWILIGHT_SHARED", dir)
	t.Setenv("TWILIGHT_REQUIRE", "")
	if err := os.WriteFile(filepath.Join(dir, "here"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Shared(t, "here"); got != filepath.Join(dir, "here") {
		t.Errorf("Shared = %q", got)
	}
	absent := func(t testing.TB) { Shared(t, "absent") }
	if got := outcome(t, absent); got != "skip" {
		t.Errorf("absent: %q, expected a skip", got)
	}
	t.Setenv("TWILIGHT_REQUIRE", "smollm2, shared")
	if got := outcome(t, absent); got != "fail" {
		t.Errorf("absent but required: %q, expected a failure", got)
	}
}

func TestModel(t *testing.T) {
	t.Setenv("TWILIGHT_MODELS", t.TempDir())
	t.Setenv("TWILIGHT_REQUIRE", "smollm2")
	pulls.Clear()
	t.Cleanup(pulls.Clear)
	absent := func(t testing.TB) { Model(t, "qwen2.5-coder-1.5b") }
	if got := outcome(t, absent); got != "skip" {
		t.Errorf("absent: %q, expected a skip", got)
	}
	t.Setenv("TWILIGHT_REQUIRE", "qwen2.5")
	if got := outcome(t, absent); got != "fail" {
		t.Errorf("absent but required: %q, expected a failure", got)
	}
	if got := outcome(t, func(t testing.TB) { Model(t, "qwen9") }); got != "fail" {
		t.Errorf("not in the catalog: %q, expected a failure", got)
	}
}

// The default model is there, fetched if need be, and it is what the catalog says.
func TestDefaultModel(t *testing.T) {
	info, err := os.Stat(Model(t, catalog.Default))
	if err != nil || info.Size() != catalog.List()[0].Bytes {
		t.Errorf("%v, %v; expected %d bytes", info, err, catalog.List()[0].Bytes)
	}
}
