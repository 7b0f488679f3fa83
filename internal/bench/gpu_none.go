//go:build nocuda

package bench

import (
	"context"
	"errors"
)

func (b *GPUAttention) run(context.Context) error {
	return errors.New("bench: this program was built without CUDA (tag nocuda)")
}
