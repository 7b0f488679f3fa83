package cuda

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// TestMemoryLimit: a device that may take so much of the memory has room for what fits into that, weights included, and no more.
func TestMemoryLimit(t *testing.T) {
	const limit = 600 << 20
	all, some := openWith(t, Options{}), openWith(t, Options{Memory: limit})
	defer all.Close()
	defer some.Close()
	s := kvcache.Shape{Layers: 2, KVHeads: 2, Dim: 64, Group: 2, Sequences: 3, Tokens: 600}
	room := func(d *Device) (free int64) {
		t.Helper()
		r, err := d.Room(s, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.Free
	}
	if free := room(some); free != limit || room(all) <= free {
		t.Errorf("%d bytes are free, of %d at most, and %d without a limit", free, int64(limit), room(all))
	}
	rows := some.PromptRows(1000, 9)
	if _, err := some.Alloc(8000, 10_000); err != nil { // 480 MB in its two forms
		t.Fatal(err)
	}
	if free := room(some); free > limit-480_000_000 || free < limit-490_000_000 || some.PromptRows(1000, 9) >= rows {
		t.Errorf("%d bytes are free beside 480 MB of at most %d; steps of %d rows, of %d before", free, int64(limit), some.PromptRows(1000, 9), rows)
	}
	if _, err := some.Cache(s, 8, nil); err == nil || !strings.Contains(err.Error(), "room for 0 blocks") {
		t.Errorf("a cache beside that: %v", err)
	}
}

// TestRoom: what the planner finds room for can be had, and a block more is refused with both numbers.
func TestRoom(t *testing.T) {
	for _, offload := range []bool{false, true} {
		d := openWith(t, Options{Offload: offload})
		defer d.Close()
		if _, err := d.Alloc(80, 64); err != nil {
			t.Fatal(err)
		}
		s := kvcache.Shape{Layers: 2, KVHeads: 2, Dim: 64, Group: 2, Sequences: 3, Tokens: 600, Whole: 1}
		planes := sparsely.Planes()
		r, err := d.Room(s, planes)
		if err != nil {
			t.Fatal(err)
		}
		exact := int64(2 * 2 * attention.BlockTokens * 64 * 2)
		dense, err := d.Room(s, nil)
		if err != nil || dense.Block >= r.Block || dense.Step > r.Step {
			t.Errorf("without planes %+v, with them %+v: %v", dense, r, err)
		}
		if offload && (r.HostBlock != exact || dense.Block != exact) || !offload && (r.HostBlock != 0 || dense.Block != 2*exact) || r.Step <= 0 || r.Free <= r.Step {
			t.Errorf("%+v, dense %+v: a layer's keys and values take %d bytes", r, dense, exact)
		}
		n := r.Blocks()
		if _, err := d.Cache(s, n+1, planes); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d blocks of 256 tokens needs", n+1)) || !strings.Contains(err.Error(), fmt.Sprintf("room for %d blocks, which is %d sequences of 600 tokens", n, n/3)) {
			t.Errorf("a block more than the %d that there is room for: %v", n, err)
		}
		if emulated || offload {
			n = 8 // it would be all of this machine's memory
		}
		c, err := d.Cache(s, n, planes)
		if err != nil {
			t.Fatal(err)
		}
		if e, p := c.BlockBytes(); int64(e+p) != r.Block+r.HostBlock {
			t.Errorf("a block takes %d bytes, planned were %d", e+p, r.Block+r.HostBlock)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
