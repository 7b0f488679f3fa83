package safetensors

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/twilight-go/twilight/internal/mem"
)

const (
	singleName  = "model.safetensors"            // a checkpoint in one file
	indexName   = "model.safetensors.index.json" // the index of one in several
	indexSuffix = ".index.json"
)

// Checkpoint is a model's tensors, from one file or from several shards.
type Checkpoint struct {
	Files []*File // in the order in which the index first names them; one file where there is no index

	shards map[string]*File // by tensor name; nil where there is no index
}

// OpenCheckpoint opens a checkpoint: path is a .safetensors file, an index (….index.json) beside its shards, or a folder that
// holds model.safetensors or model.safetensors.index.json. Index and shards must name the same tensors.
func OpenCheckpoint(path string) (*Checkpoint, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: opening a checkpoint: %w", err)
	}
	if st.IsDir() {
		index := filepath.Join(path, indexName)
		path = filepath.Join(path, singleName)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat(index); err != nil {
				return nil, fmt.Errorf("safetensors: folder %s: found neither %s nor %s", filepath.Dir(path), singleName, indexName)
			}
			path = index
		}
	}
	if strings.HasSuffix(path, indexSuffix) {
		return openShards(path)
	}
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	return &Checkpoint{Files: []*File{f}}, nil
}

// Close closes the checkpoint's files.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.Files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Tensors lists the tensors of all files.
func (c *Checkpoint) Tensors() []Tensor {
	var out []Tensor
	for _, f := range c.Files {
		out = append(out, f.Tensors()...)
	}
	return out
}

// Tensor finds a tensor by name, in the file that the index gives for it.
func (c *Checkpoint) Tensor(name string) (Tensor, bool) {
	if c.shards == nil {
		return c.Files[0].Tensor(name)
	}
	f, ok := c.shards[name]
	if !ok {
		return Tensor{}, false
	}
	return f.Tensor(name)
}

// openShards opens the files of an index.
func openShards(path string) (c *Checkpoint, err error) {
	data, err := mem.Map(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	weights, err := parseIndex(path, data)
	if err = errors.Join(err, mem.Unmap(data)); err != nil {
		return nil, err
	}
	c = &Checkpoint{shards: make(map[string]*File, len(weights))}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
			c = nil
		}
	}()
	open := map[string]*File{}
	for _, w := range weights {
		f := open[w.file]
		if f == nil {
			if f, err = Open(filepath.Join(filepath.Dir(path), w.file)); err != nil {
				return c, err
			}
			open[w.file] = f
			c.Files = append(c.Files, f)
		}
		if c.shards[w.tensor] != nil {
			return c, fmt.Errorf("safetensors: %s: tensor %q stands twice", path, w.tensor)
		}
		if _, ok := f.Tensor(w.tensor); !ok {
			return c, fmt.Errorf("safetensors: %s: tensor %q is not in %s, where the index has it", path, w.tensor, w.file)
		}
		c.shards[w.tensor] = f
	}
	for _, f := range c.Files {
		for i := range f.entries {
			if name := f.nameOf(uint32(i)); c.shards[string(name)] != f {
				return c, fmt.Errorf("safetensors: %s: tensor %q lies in %s, but the index does not have it there", path, name, f.name)
			}
		}
	}
	return c, nil
}
