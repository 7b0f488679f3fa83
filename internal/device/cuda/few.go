package cuda

import (
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// How many KV heads of a step's sequences are few, in sparse steps and in dense ones. Measured on an H100.
const fewUnits, clusterUnits = 64, 16

// sharedRoom is how much shared memory a thread block of few may ask for: what a multiprocessor has, less what the kernel declares.
const sharedRoom = 187 << 10

// fewShared is how much shared memory a thread block of few asks for, if so many share a unit: that of select, and Range of kernels/histogram.cuh for as many blocks as a sequence may have.
func (o *Operator) fewShared(ranks int) int {
	const tokens, pages = attention.BlockTokens, attention.BlockPages
	own, group := (o.stride+ranks-1)/ranks, o.padded()
	return o.rings(maxThreads) + own*(4*tokens+4*pages*group+8*maxGroup+2*tokens*group+4*pages+4+pages)
}

// few says whether a sparse step of so many units is one of few: where a cluster has each unit to itself, and room for it.
func (o *Operator) few(units, ranks int) bool {
	return ranks > 1 && units <= o.FewUnits && o.fewShared(ranks) <= sharedRoom
}

// clusterRings is the warps of a thread block of cluster, and their shared memory: ClusterRing of kernels/cluster.cuh.
func (o *Operator) clusterRings() (warps, shared int) {
	warps, slots := 8, 3
	switch o.Dim {
	case 64:
		slots = 4
	case 256:
		warps = 4
	}
	return warps, warps * slots * 16 * 2 * 2 * o.Dim
}

// clusters is how whole sequences of few units are cut: how many thread blocks a cluster has, and how many clusters a unit. Large clusters leave less to join, but not if an eighth of the
// device is idle for it. 0: units are many, or would leave more than a quarter idle.
func (o *Operator) clusters(units int) (ranks, parts int) {
	if !o.lib.hopper || units > o.ClusterUnits {
		return 0, 0
	}
	room, used := o.lib.dev.Multiprocessor/maxRanks*maxRanks, 0 // the device's multiprocessors stand in groups of at least so many
	for r := maxRanks; r > 1; r /= 2 {
		if n := min(room/r/units, maxRanks); n*r*units > used+used/8 {
			ranks, parts, used = r, n, n*r*units
		}
	}
	if 4*used < 3*room {
		return 0, 0
	}
	return ranks, parts
}

// cluster queues dense attention of o.hold in clusters.
func (o *Operator) cluster(c *driver.Context, s driver.Stream, ranks, parts int) error {
	p := &o.hold
	p.ranks, p.parts = int32(ranks), int32(parts)
	warps, shared := o.clusterRings()
	return o.launch(c, p, driver.Launch{Grid: [3]int{int(p.batch) * o.KVHeads * parts * ranks}, Block: 32 * warps, Shared: shared, Stream: s, Cluster: ranks, Early: true}, "cluster")
}
