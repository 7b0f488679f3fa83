package cuda

const (
	linearRows = 32  // rows of activations that a thread block of the kernels for few rows takes at most
	panelRows  = 128 // that go to these kernels at most, or to those for a panel
	gemmTiles  = 4   // tiles of a thread block of the kernels for many
	maxCluster = 8   // thread blocks that any Hopper device can run as a cluster

	ring      = 4 // RING of kernels/linear.cuh
	panelStep = 4 // PANEL_UNITS of kernels/panel.cuh

	wideRows                 = 128           // of activations, that other kernels take at most
	wideColumns, wideThreads = 256, 512      // rows of activations, threads of a thread block of the kernels for hundreds and more
	wideShared               = 193<<10 + 512 // bytes: WideShared of kernels/wide.cuh, and what aligning it takes
)

// panelKernels are the kernels for a panel, by its tiles of 8 columns.
var panelKernels = [...]string{1: "panel_1", 2: "panel_2", 4: "panel_4", 8: "panel_8", 16: "panel_16"}

// panelWarpgroups are those for which a multiprocessor has registers.
var panelWarpgroups = [...]int{1: 8, 2: 8, 4: 7, 8: 6, 16: 5}

// plan is how a launch runs.
type plan struct {
	kernel                 string
	across, ranks, threads int  // tiles of a thread block, thread blocks of a cluster, threads of a thread block
	panels                 int  // groups of rows of activations
	shared                 int  // bytes of shared memory that a thread block asks for
	wide                   bool // the kernel is one of kernels/wide.cuh
	panel                  int  // tiles of 8 columns, of a kernel of kernels/panel.cuh
	blocks, parts          int  // its blocks of 64 rows of weights, warpgroups a block
	stages, stage, share   int  // its steps in shared memory, bytes of a step, steps of a rank
}

// work is what a launch multiplies: rows of activations with all weights' tiles, in units of at most so many bytes, of which a tile has so many.
type work struct {
	rows, tiles, units, unitBytes int
	gated                         bool // half of the tiles are a gate's, and a thread block has as many of both
}

func workOf(rows int, out []product, gated bool) work {
	k := work{rows: rows, tiles: groups(out, 1), units: out[0].w.cols / unitCols, gated: gated}
	for _, o := range out {
		k.unitBytes = max(k.unitBytes, layouts[o.w.layout].unit)
	}
	return k
}

// groups is how many groups of so many tiles the weights make.
func groups(out []product, tiles int) (n int) {
	for _, o := range out {
		n += ceil(o.w.tiles(), tiles)
	}
	return n
}

func ceil(n, by int) int { return (n + by - 1) / by }

// pieces is how many pieces of work the plan makes.
func (n *plan) pieces(out []product) int { return groups(out, n.across) * n.panels }

// plan decides how products run.
func (l *library) plan(k work, out []product) plan {
	switch {
	case l.takesPanel(k):
		return l.planPanel(k)
	case l.takesLinear(k):
		return l.planLinear(k)
	}
	best, least := l.planGemm(k)
	if !l.hopper || k.rows <= wideRows {
		return best
	}
	for _, tiles := range []int{3, 4} {
		n := widePlan(k.rows, tiles)
		if cost := l.turns(n.pieces(out)) * ((k.units+1)/2*(tiles*12+24) + 350); cost < least {
			best, least = n, cost
		}
	}
	return best
}

// takesPanel says whether the kernels for a panel can run the products; where they can, they are fastest.
func (l *library) takesPanel(k work) bool { return l.hopper && k.rows <= panelRows && k.units%2 == 0 }

// takesLinear says whether the kernels for few rows are fastest, in panels of linearRows.
func (l *library) takesLinear(k work) bool {
	n := ceil(k.rows, linearRows)
	return n == 1 || n <= 8 && n*k.tiles <= 2*l.dev.Multiprocessor
}

// turns is how often the busiest multiprocessor takes one of so many pieces of work.
func (l *library) turns(blocks int) int { return ceil(blocks, l.dev.Multiprocessor) }

// widePlan is a launch of the kernels for hundreds of rows and more, with 3 or 4 tiles of weights a thread block; with 2, of each of two products that are gated.
func widePlan(rows, tiles int) plan {
	kernel := [...]string{2: "wide_gated", 3: "wide_96", 4: "wide_128"}[tiles]
	return plan{kernel: kernel, across: tiles, ranks: 1, threads: wideThreads, panels: ceil(rows, wideColumns), wide: true}
}

// planLinear shares a tile's units among as many warps as a thread block can have.
func (l *library) planLinear(k work) plan {
	tiles := min(panelTiles(k.rows), 4)
	if n := linearPlan(k, tiles, 256); n.shared <= l.dev.SharedBytes {
		return n
	}
	return linearPlan(k, tiles, 128)
}

// linearPlan is a launch of the kernels for few rows, with 1, 2 or 4 tiles of 8 rows in a panel.
func linearPlan(k work, tiles, threads int) plan {
	return plan{kernel: [...]string{1: "linear_1", 2: "linear_2", 4: "linear_4"}[tiles], across: 1, ranks: 1, threads: threads, panels: ceil(k.rows, 8*tiles),
		shared: threads / 32 * ring * (k.unitBytes + 512*tiles)}
}

// planPanel divides products such that every multiprocessor has one thread block, or some small ones: measured on an H200 with the models' shapes. Deep matrices of few rows
// are shared by clusters; of others a thread block owns several blocks of 64 rows, and two ranks share the inputs where activations are few. More than a few turns of thread
// blocks are best small, so that one brings what it needs while another multiplies.
func (l *library) planPanel(k work) plan {
	tiles, blocks, all, steps, sms := panelTiles(k.rows), 1, ceil(k.tiles, 2), ceil(k.units, panelStep), l.dev.Multiprocessor
	ranks, parts := 1, 1
	if tiles == 16 && all < sms/2 && steps < 2*panelStep*8 {
		tiles = 8 // two panels: the products of a shallow matrix have too few thread blocks else
	}
	for ranks < maxCluster && 2*ranks*all <= 3*sms/2 && 2*ranks*2 <= steps {
		ranks *= 2
	}
	switch own := ceil(all, sms); {
	case 2*all <= 3*sms:
		if tiles < 8 || tiles == 8 && ranks == 1 {
			parts = 2
		}
	case own > 5:
		blocks = [...]int{1: 3, 2: 3, 4: 3, 8: 2, 16: 4}[tiles]
	case tiles <= 4 && ceil(2*all, sms) <= 5:
		ranks, blocks = 2, ceil(2*all, sms)
	default:
		blocks = min(own, 4)
	}
	most := l.dev.SharedBytes
	if ceil(all, blocks)*ranks > sms && 2*(blocks*parts+1) <= panelWarpgroups[tiles] {
		most = most/2 - 1<<10 // two find room
	}
	n := panelPlan(k, tiles, blocks, parts, ranks, most)
	if n.shared > l.dev.SharedBytes {
		return panelPlan(k, tiles, 1, 1, ranks, most)
	}
	return n
}

// panelTiles is how many tiles of 8 columns a panel for so many rows of activations has.
func panelTiles(rows int) int {
	tiles := 1
	for tiles < 16 && tiles*8 < rows {
		tiles *= 2
	}
	return tiles
}

// panelPlan is a launch of the kernels for a panel, of so many tiles of 8 columns, with as many steps in shared memory as fit most bytes, if a rank has as many.
func panelPlan(k work, tiles, blocks, parts, ranks, most int) plan {
	const page = 1024 // at multiples of which places begin
	stage := ceil(panelStep/2*tiles*1024+2*blocks*panelStep*k.unitBytes, page) * page
	share := ceil(ceil(k.units, panelStep), ranks)
	stages := min(max((most-tiles*32-8)/(stage+16), parts+1), share) // a warpgroup gives a place back when it has begun its next step
	stages = max(stages, ceil(max(tiles, ranks)*parts*blocks*2048, stage))
	return plan{kernel: panelKernels[tiles], across: 2 * blocks, ranks: ranks, threads: 128 * (blocks*parts + 1), panels: ceil(k.rows, 8*tiles),
		shared: stages*(stage+16) + tiles*32 + 8, panel: tiles, blocks: blocks, parts: parts, stages: stages, stage: stage, share: share}
}

// planGemm chooses the panel and the cluster: for hundreds of rows by what the busiest multiprocessor does, products and the joining of sums; for fewer, which wait for memory
// rather than compute, the largest clusters that find room at once, three thread blocks a multiprocessor. A cost is about 8.5 ns on an H100.
func (l *library) planGemm(k work) (best plan, least int) {
	groups := ceil(k.tiles, gemmTiles)
	cost := func(n plan, tiles int) int {
		c := ceil(k.units, n.ranks)*(tiles*4+16) + tiles*8 + 100
		if n.ranks > 1 {
			c += tiles*8 + 50
		}
		return c * l.turns(groups*n.panels*n.ranks)
	}
	if k.rows <= 256 {
		n := gemmPlan(k.rows, 8, 1)
		for l.hopper && n.ranks < maxCluster && 2*n.ranks <= k.units && 2*groups*n.panels*n.ranks <= 3*l.dev.Multiprocessor {
			n.ranks *= 2
		}
		return n, cost(n, 8)
	}
	for _, tiles := range []int{16, 8} {
		for ranks := 1; ranks <= maxCluster && ranks <= k.units && (ranks == 1 || l.hopper); ranks *= 2 {
			n := gemmPlan(k.rows, tiles, ranks)
			if c := cost(n, tiles); least == 0 || c < least {
				best, least = n, c
			}
		}
	}
	return best, least
}

// gemmPlan is a launch of the kernels for many rows, with 8 or 16 tiles of 8 rows in a panel.
func gemmPlan(rows, tiles, ranks int) plan {
	n := plan{kernel: "gemm_8", across: gemmTiles, ranks: ranks, threads: 32 * gemmTiles, panels: ceil(rows, tiles*8)}
	if tiles == 16 {
		n.kernel = "gemm_16"
	}
	return n
}
