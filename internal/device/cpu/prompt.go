package cpu

import (
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// promptOp is dense causal attention of prompt rows.
type promptOp struct {
	d *Device
}

func (d *Device) prompts(a *device.Attention, cache *kvcache.Host) error {
	for j := range a.Segments {
		s := &a.Segments[j]
		if s.Mode != device.Prompt {
			continue
		}
		for i := range s.N {
			if err := d.call(a, cache, s, i, dense, nil); err != nil {
				return err
			}
		}
		d.exec.Run()
	}
	return nil
}
