package cuda

import (
	"errors"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// clusterBytes is how much a dense step may read that leaves a tenth of the device idle: what it loses so is less than what whole takes longer to begin and to end. Measured on an H200.
const clusterBytes = 200 << 20

// fewShared is how much dynamic shared memory a thread block of few asks for, if so many share a unit: that of select, and what Range of kernels/histogram.cuh places for as many blocks as a sequence
// may have, near or not.
func (o *Operator) fewShared(ranks, threads int, near bool) int {
	const tokens, pages = attention.BlockTokens, attention.BlockPages
	own := ceil(o.stride, ranks)
	bytes := o.rings(threads) + own*(8*maxGroup+4*pages+pages) + ceil(own, 4)*16
	if near {
		bytes += own * tokens * (4 + 2*o.padded())
	}
	return bytes
}

// fewBlocks is from how many blocks of a sequence a thread block of few has the most threads. Measured on an H200: with fewer, threads that wait for each other cost more than they save.
const fewBlocks = 17

// fewThreads is the size of thread blocks of few for sequences of so many tokens, of which so many share a unit. Each thread looks up one block at most. Wide heads have no registers for more than half.
func (o *Operator) fewThreads(tokens, ranks int) int {
	const less = maxThreads / 2
	switch {
	case o.SelectThreads != 0:
		return o.SelectThreads
	case o.Dim > 128, attention.BlocksOf(tokens) < fewBlocks*ranks && o.stride <= less*ranks, o.fewShared(ranks, maxThreads, false) > o.fewMost:
		return less
	}
	return maxThreads
}

// fewLaunch is the launch of few for so many units, each shared by a cluster, that keeps tokens' scratch in memory.
func (o *Operator) fewLaunch(units, threads, ranks int, s driver.Stream) driver.Launch {
	return driver.Launch{Grid: [3]int{units * ranks}, Block: threads, Shared: o.fewShared(ranks, threads, false), Stream: s, Cluster: ranks, Early: true}
}

// clusterLaunch is the launch of cluster for so many units, each cut among so many clusters.
func (o *Operator) clusterLaunch(units, parts, ranks int, s driver.Stream) driver.Launch {
	warps, shared := o.clusterRings()
	return driver.Launch{Grid: [3]int{units * parts * ranks}, Block: 32 * warps, Shared: shared, Stream: s, Cluster: ranks, Early: true}
}

// findRooms readies the kernels whose thread blocks share a unit. A cluster stands within one of the device's groups of multiprocessors, whose sizes differ: the driver knows how many find room.
// Those of few are of the most threads, each of which has a multiprocessor for itself: of smaller ones no fewer find room.
func (o *Operator) findRooms(c *driver.Context) error {
	kernel := o.lib.fn[o.kernel["few"]]
	static, err := c.Attr(kernel, driver.FuncSharedBytes)
	if err != nil {
		return err
	}
	_, rings := o.clusterRings()
	o.fewMost = o.lib.dev.SharedBytes - static
	if err := errors.Join(c.SetAttr(kernel, driver.FuncMaxDynamicShared, o.fewMost), c.SetAttr(o.lib.fn[o.kernel["cluster"]], driver.FuncMaxDynamicShared, rings)); err != nil {
		return err
	}
	find := func(name string, l driver.Launch) (int, error) {
		l.Function, l.Early = o.lib.fn[o.kernel[name]], false
		return c.Clusters(&l)
	}
	for r := 2; r <= maxRanks; r++ {
		if o.clusterRooms[r], err = find("cluster", o.clusterLaunch(1, 1, r, 0)); err != nil {
			return err
		}
		few := o.fewLaunch(1, o.fewThreads(fewBlocks*maxRanks*attention.BlockTokens, r), r, 0)
		if few.Shared > o.fewMost || o.stride > r*few.Block {
			continue
		}
		if o.fewRooms[r], err = find("few", few); err != nil {
			return err
		}
	}
	return nil
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

// clusters is how whole sequences of so many units and tokens are cut: how many thread blocks a cluster has, and how many clusters a unit. Large clusters leave less to join, but not if an eighth
// more of the device would work otherwise. 0: units are many, or would leave half of the device idle, or some of it where there is enough to read for that to count.
func (o *Operator) clusters(units, tokens int) (ranks, parts int) {
	if !o.lib.hopper || o.NoClusters {
		return 0, 0
	}
	used, all := 0, o.lib.dev.Multiprocessor
	for r := maxRanks; r > 1; r-- {
		if n := min(o.clusterRooms[r]/units, maxRanks); n*r*units > used+used/8 {
			ranks, parts, used = r, n, n*r*units
		}
	}
	if bytes := 4 * o.Dim * o.KVHeads * tokens; 2*used < all || 10*used < 9*all && bytes > clusterBytes {
		return 0, 0
	}
	return ranks, parts
}
