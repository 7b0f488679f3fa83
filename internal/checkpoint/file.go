package checkpoint

import (
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/model"
)

// File is what a model is run from, a GGUF file or a checkpoint.
type File interface {
	model.Source
	Size() int64
	Tensors() []gguf.Tensor
	Close() error
}

// OpenFile opens a GGUF file, or a checkpoint where Is says that path is one. meta is its metadata, which closes with it.
func OpenFile(path string) (f File, meta *gguf.File, err error) {
	if Is(path) {
		c, err := Open(path)
		if err != nil {
			return nil, nil, err
		}
		return c, c.File, nil
	}
	if meta, err = gguf.Open(path); err != nil {
		return nil, nil, err
	}
	return meta, meta, nil
}
