package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"
)

// Bounds of the files that are read whole, in bytes: several times the largest that are published.
const (
	maxConfig     = 4 << 20   // config.json, generation_config.json
	maxSettings   = 32 << 20  // tokenizer_config.json, which may repeat all added tokens
	maxVocabulary = 128 << 20 // tokenizer.json, tokenizer.model
	maxTemplate   = 1 << 20   // chat_template.jinja
)

// folder is where the checkpoint's files lie.
type folder string

// base is the folder's own name.
func (f folder) base() string {
	if abs, err := filepath.Abs(string(f)); err == nil {
		return filepath.Base(abs)
	}
	return filepath.Base(string(f))
}

// wrap names a file of the folder in an error about what is in it.
func (f folder) wrap(name string, err error) error {
	return fmt.Errorf("checkpoint: %s: %w", filepath.Join(string(f), name), err)
}

// read reads a file of at most so many bytes. errors.Is(err, fs.ErrNotExist) holds for one that is not there.
func (f folder) read(name string, most int64) ([]byte, error) {
	path := filepath.Join(string(f), name)
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("checkpoint: %s: found %v, expected a regular file", path, st.Mode())
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("checkpoint: reading %s: %w", path, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("checkpoint: %s: the file has more than %d bytes, expected at most so many", path, most)
	}
	return data, nil
}

// optional is read for a file that a checkpoint may lack: data is then nil.
func (f folder) optional(name string, most int64) ([]byte, error) {
	data, err := f.read(name, most)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// decode reads JSON text into a value. Nothing at all leaves the value as it is.
func decode(data []byte, into any) error {
	if data == nil {
		return nil
	}
	if !utf8.Valid(data) {
		return errors.New("the text is not UTF-8")
	}
	return json.Unmarshal(data, into)
}
