package cuda

import "github.com/twilight-go/twilight/internal/device/cuda/driver"

// params is the only parameter of every kernel: Params of kernels/common.cuh, field by field.
type params struct {
	k, v                             driver.Ptr
	ranges                           driver.Ptr
	bounds                           driver.Ptr
	keyCodes, valueCodes             driver.Ptr
	valueScale                       driver.Ptr
	valueSum                         driver.Ptr
	tokenCodes, tokenScale           driver.Ptr
	table, lens, order               driver.Ptr
	q, out                           driver.Ptr
	bases, scores, pages, candidates driver.Ptr
	logits, list                     driver.Ptr
	counts, reference, sums          driver.Ptr
	control, partial, partialTop     driver.Ptr
	arrived                          driver.Ptr
	newK, newV                       driver.Ptr
	tokenStride, headStride          int32
	sequence, head, position, count  int32
	batch, kvHeads, group            int32
	tableStride, maxBlocks           int32
	ranks, flags                     int32
	denseBelow                       int32
	processors, attenders            int32
	maxParts, parts                  int32
	scale, keep, reach               float32
	budget                           int32
	exactMass, mass                  float32
	stages                           int32
	window                           int32
}

// appendParams is AppendParams of kernels/cache.cuh: turn.x[0] is 0 where keys and values come turned already.
type appendParams struct {
	params
	turn headsParams
}

// Numbers that the kernels share; see kernels/common.cuh.
const (
	maxGroup  = 8
	maxRanks  = 8
	perOctave = 256 // steps of an estimated logit
	binShift  = 4
	farthest  = 1<<(10+binShift) - 1 // distance of an estimated logit from the window's upper end
	noLogit   = 0x7fff

	appendParts = 4 // thread blocks of the kernels "parts" that share a unit

	flagPerHead    = 1
	flagShared     = 2
	flagTokenCodes = 4
	flagTail       = 8
	flagEveryPage  = 16
	flagLone       = 32
	flagNear       = 64

	// Stages are the stages of select but its last, attention: blocks' bases, page bounds, candidates, estimates, thresholds, lists.
	Stages = 6
)
