//go:build nocuda

package twilight

import (
	"errors"

	"github.com/twilight-go/twilight/internal/device"
)

func openCUDA(Options) (device.Device, error) {
	return nil, errors.New("twilight: this program was built without CUDA (tag nocuda)")
}
