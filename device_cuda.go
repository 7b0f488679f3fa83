//go:build !nocuda

package twilight

import (
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cuda"
)

// openCUDA starts the GPU. Programs built with the tag nocuda, which need no dynamic loader, have none.
func openCUDA(o Options) (device.Device, error) {
	return cuda.Open(cuda.Options{Offload: o.KVOffload, Memory: o.GPUMemory})
}
