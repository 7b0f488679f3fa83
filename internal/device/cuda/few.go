package cuda

import (
	"errors"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

// How many KV heads of a step's sequences are few, in sparse steps and in dense ones. Measured on an H100 and, of sparse steps of 16 and 32 units in groups of 6, on an H200: there the others' thread
// blocks, twice as large, take 50 µs where few takes 80.
const fewUnits, clusterUnits = 8, 16

// fewThreads is the size of a thread block of few.
const fewThreads = 256

// sharedRoom is how much shared memory a thread block of few may ask for: what a multiprocessor has, less what the kernel declares.
const sharedRoom = 180 << 10

// fewShared is how much shared memory a thread block of few asks for, if so many share a unit: that of select, and Range of kernels/histogram.cuh for as many blocks as a sequence may have.
func (o *Operator) fewShared(ranks int) int {
	const tokens, pages = attention.BlockTokens, attention.BlockPages
	own, group := (o.stride+ranks-1)/ranks, o.padded()
	return o.rings(fewThreads) + own*(4*tokens+4*pages*group+8*maxGroup+2*tokens*group+4*pages+4+pages)
}

// fewLaunch is the launch of few for so many units, each shared by a cluster.
func (o *Operator) fewLaunch(units, ranks int, s driver.Stream) driver.Launch {
	return driver.Launch{Grid: [3]int{units * ranks}, Block: fewThreads, Shared: o.fewShared(ranks), Stream: s, Cluster: ranks, Early: true}
}

// clusterLaunch is the launch of cluster for so many units, each cut among so many clusters.
func (o *Operator) clusterLaunch(units, parts, ranks int, s driver.Stream) driver.Launch {
	warps, shared := o.clusterRings()
	return driver.Launch{Grid: [3]int{units * parts * ranks}, Block: 32 * warps, Shared: shared, Stream: s, Cluster: ranks, Early: true}
}

// selectLaunch is the launch of select.
func (o *Operator) selectLaunch(units, ranks int, s driver.Stream) driver.Launch {
	threads := o.threads(units * ranks)
	return driver.Launch{Grid: [3]int{units * ranks}, Block: threads, Shared: o.rings(threads), Stream: s, Cluster: ranks, Early: true}
}

// findRooms readies the kernels whose thread blocks share a unit. A cluster stands within one of the device's groups of multiprocessors, whose sizes differ: the driver knows how many find room.
func (o *Operator) findRooms(c *driver.Context) error {
	_, rings := o.clusterRings()
	if err := errors.Join(c.SetAttr(o.lib.fn[o.kernel["few"]], driver.FuncMaxDynamicShared, sharedRoom), c.SetAttr(o.lib.fn[o.kernel["cluster"]], driver.FuncMaxDynamicShared, rings)); err != nil {
		return err
	}
	o.rooms = map[string]*[maxRanks + 1]int{"few": {}, "cluster": {}, "select": {}}
	for r := 2; r <= maxRanks; r++ {
		for name, l := range map[string]driver.Launch{"few": o.fewLaunch(1, r, 0), "cluster": o.clusterLaunch(1, 1, r, 0), "select": o.selectLaunch(1, r, 0)} {
			if name == "few" && l.Shared > sharedRoom {
				continue
			}
			l.Function, l.Early = o.lib.fn[o.kernel[name]], false
			n, err := c.Clusters(&l)
			if err != nil {
				return err
			}
			o.rooms[name][r] = n
		}
	}
	return nil
}

// few is how many thread blocks share a unit in a sparse step of so many, if that is one of few: as many as find room, but waiting for each other takes sixteen longer than it saves them.
// 0: it is none.
func (o *Operator) few(units int) int {
	if !o.lib.hopper || units > o.FewUnits {
		return 0
	}
	if r := o.SelectRanks; r != 0 {
		if r == 1 {
			r = 0
		}
		return r
	}
	if r := o.fitting("few", units); r > 1 {
		return r
	}
	return 0
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

// clusters is how whole sequences of few units are cut: how many thread blocks a cluster has, and how many clusters a unit. Large clusters leave less to join, but not if an eighth more of the
// device would work otherwise. 0: units are many, or would leave half of it idle.
func (o *Operator) clusters(units int) (ranks, parts int) {
	if !o.lib.hopper || units > o.ClusterUnits {
		return 0, 0
	}
	used := 0
	for r := maxRanks; r > 1; r-- {
		if n := min(o.rooms["cluster"][r]/units, maxRanks); n*r*units > used+used/8 {
			ranks, parts, used = r, n, n*r*units
		}
	}
	if 2*used < o.lib.dev.Multiprocessor {
		return 0, 0
	}
	return ranks, parts
}
