package cuda

import (
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// sharedRoom is how much shared memory a thread block of fused may ask for: what a multiprocessor has, less what the kernel declares.
const sharedRoom = 187 << 10

// fusedUnits is how many KV heads of a step's sequences are few. Measured on an H100.
const fusedUnits = 64

// fusedShared is how much shared memory a thread block of fused asks for, if so many share a unit: rings, and Range of kernels/histogram.cuh for as many blocks as a sequence may have.
func (o *Operator) fusedShared(ranks int) int {
	const tokens, pages = attention.BlockTokens, attention.BlockPages
	own, group := (o.stride+ranks-1)/ranks, o.padded()
	return o.rings(maxThreads) + own*(4*tokens+4*pages*group+8*maxGroup+2*tokens*group+4+pages)
}

// fuses says whether a sparse step of so many units is one launch: where a cluster has each unit to itself, and holds it.
func (o *Operator) fuses(units, ranks int) bool {
	return ranks > 1 && units <= o.FusedUnits && o.fusedShared(ranks) <= sharedRoom
}

// fused queues the attention of o.hold in one launch, or its first stages of Stages.
func (o *Operator) fused(c *driver.Context, s driver.Stream) error {
	p := &o.hold
	ranks := int(p.ranks)
	return o.launch(c, p, driver.Launch{Grid: [3]int{int(p.batch) * o.KVHeads * ranks}, Block: maxThreads, Shared: o.fusedShared(ranks), Stream: s, Cluster: ranks, Early: true}, "fused")
}
