//go:build !noasm

package kernel

import "github.com/twilight-go/twilight/internal/device/cpu/isa"

func forLevel(level isa.Level) Kernels {
	switch {
	case level >= isa.AVX512:
		return vector{routines: &avx512}
	case level >= isa.AVX2:
		return vector{routines: &avx2}
	}
	return portable{}
}

// routines is the machine code of one level; the generated stubs say what each does. What is nil is left to plain Go.
type routines struct {
	dot        []dotFunc // by query heads less one
	accumulate []passes  // the widest first

	fetch     func(p *uint16, n int)
	fetchRows func(rows *uint16, dim int, at *int32, n int)

	max       func(x *float32, n int) float32
	exp       func(x *float32, n int, max float32) float32
	weigh     func(x *float32, n int, max float32) float32
	addScaled func(dst, x *float32, n int, f float32)
	addRows   func(dst *float32, dim int, slab *float32, at *int32, n int)
	above     func(w *float32, n int, t float32) (sum float32, count uint64)
	lanes     func(mask *uint16, w *float32, pages int, t float32)

	listLanes  func(dst, base *int32, masks *uint16, n int) (count uint64)
	listPages  func(dst *int32, masks *uint16, n int) (count uint64)
	splitLanes func(keep, heavy *uint16, w *float32, pages *int32, n int, least, much float32) (kept uint64)
	pack       func(dst, w *float32, n int, t float32) uint64
	packPages  func(dst, w *float32, pages *int32, masks *uint16, n int) (count uint64)
	packLanes  []packLanesFunc // by query heads less one
	codes32    []codesFunc     // by query heads less one, 32 channels

	codeWeights func(dst *byte, steps, w *float32, ld, heads, n int)
	codeRows    []codeRowsFunc // by query heads less one, 64 channels

	sumLanes   func(w *float32, masks *uint16, n int) float32
	lookUp     func(sum *float32, codes *uint8, n int, table *float32)
	lookUpPart func(sum *float32, codes *uint8, n int, table *float32, first int)
	agree      []agreeFunc // by query heads less one

	sumSquares func(x *float32, n int) float32
	scaleMul   func(dst, x, w *float32, n int, s float32)
	ropeHalves func(x, y, cos, sin *float32, n int)
	ropePairs  func(x, cos, sin *float32, n int)
	gate       func(dst, gate, up *float32, n int, c1, c3 float32)
	add        func(dst, x *float32, n int)
	scale      func(x *float32, n int, s float32)
	narrow     func(dst *uint16, x *float32, n int)
	saturate   func(dst *uint16, x *float32, n int)
	widen      func(dst *float32, x *uint16, n int)

	panel       []panelFunc // by rows/4 less one
	keyPanels   func(dst *float32, k *uint16, dim, n int)
	valuePanels func(dst *float32, v *uint16, dim, n, panel int)

	estimates *estimates
	encode

	read     func(p *byte, n int) uint64
	fmaPeak  func(n int)
	fmaLanes int
	vnniPeak func(n int)
}

type (
	// passes are those over so many channels, by query heads less one.
	passes struct {
		channels int
		run      []accumulateFunc
	}
	dotFunc        = func(dst *float32, ld int, q *float32, dim int, rows *uint16, at *int32, n int, ahead *uintptr)
	accumulateFunc = func(acc *float32, dim int, w *float32, ld int, rows *uint16, channel int, at *int32, n int, ahead *uintptr) (nan uint64)
	packLanesFunc  = func(dst *float32, ld int, w *float32, wld int, pages *int32, masks, own *uint16, ownLD int, scale *float32, rows *int32, sums *float32, n int)
	codesFunc      = func(acc *float32, dim int, w *float32, ld int, codes *byte, channel int, at *int32, n int)
	codeRowsFunc   = func(acc *float32, dim int, weights *byte, steps *float32, codes *byte, channel int, at *int32, n int, ahead, last *int32)
	panelFunc      = func(c *float32, ldc int, f, a *float32, lda int, b *float32, k, panel, panels int)
)

var avx512 = routines{
	fetch: fetch, fetchRows: fetchRows,
	dot: []dotFunc{dot1AVX512, dot2AVX512, dot3AVX512, dot4AVX512, dot5AVX512, dot6AVX512, dot7AVX512},
	accumulate: []passes{
		{256, []accumulateFunc{accumulate1x256AVX512}},
		{128, []accumulateFunc{accumulate1x128AVX512, accumulate2x128AVX512, accumulate3x128AVX512}},
		{64, []accumulateFunc{accumulate1x64AVX512, accumulate2x64AVX512, accumulate3x64AVX512, accumulate4x64AVX512, accumulate5x64AVX512, accumulate6x64AVX512, accumulate7x64AVX512}},
		{32, []accumulateFunc{accumulate1x32AVX512, accumulate2x32AVX512, accumulate3x32AVX512, accumulate4x32AVX512, accumulate5x32AVX512, accumulate6x32AVX512, accumulate7x32AVX512}},
	},
	listLanes: listLanesAVX512, listPages: listPagesAVX512, splitLanes: splitLanesAVX512, pack: packAVX512, packPages: packPagesAVX512, packLanes: []packLanesFunc{packLanes1AVX512, packLanes2AVX512, packLanes3AVX512, packLanes4AVX512, packLanes5AVX512, packLanes6AVX512, packLanes7AVX512},
	codeWeights: codeWeightsAVX512, codeRows: []codeRowsFunc{codeRows1AVX512, codeRows2AVX512, codeRows3AVX512, codeRows4AVX512, codeRows5AVX512},
	codes32: []codesFunc{codes1x32AVX512, codes2x32AVX512, codes3x32AVX512, codes4x32AVX512, codes5x32AVX512, codes6x32AVX512, codes7x32AVX512},
	max:     maxAVX512, exp: expAVX512, weigh: weighAVX512, addScaled: addScaledAVX512, addRows: addRowsAVX512, above: aboveAVX512, lanes: lanesAVX512,
	sumLanes: sumLanesAVX512, lookUp: lookUpAVX512, lookUpPart: lookUpPartAVX512, agree: []agreeFunc{agree1AVX512, agree2AVX512, agree3AVX512, agree4AVX512, agree5AVX512, agree6AVX512, agree7AVX512},
	sumSquares: sumSquaresAVX512, scaleMul: scaleMulAVX512, ropeHalves: ropeHalvesAVX512, ropePairs: ropePairsAVX512,
	gate: gateAVX512, add: addAVX512, scale: scaleAVX512, narrow: narrowAVX512, saturate: narrowFiniteAVX512, widen: widenAVX512,
	panel: []panelFunc{panel4AVX512, panel8AVX512, panel12AVX512}, keyPanels: keyPanelsAVX512, valuePanels: valuePanelsAVX512,
	estimates: &estimates{
		bounds:     []boundsFunc{bounds1AVX512, bounds2AVX512, bounds3AVX512, bounds4AVX512, bounds5AVX512, bounds6AVX512, bounds7AVX512},
		quantise:   quantiseAVX512,
		normalise:  normaliseAVX512,
		pageScale:  pageScaleAVX512,
		pageQuery:  []pageQueryFunc{pageQuery1AVX512, pageQuery2AVX512, pageQuery3AVX512, pageQuery4AVX512},
		pageQuery2: []pageQueryFunc{pageQueryWide1AVX512, pageQueryWide2AVX512},
		pageLanes:  16,
		int4:       []scanFunc{int4x1AVX512, int4x2AVX512, int4x3AVX512, int4x4AVX512},
		labels:     []scanFunc{labelsx1AVX512, labelsx2AVX512, labelsx3AVX512, labelsx4AVX512, labelsx5AVX512, labelsx6AVX512, labelsx7AVX512},
		pages: [9][]scanFunc{
			1: {page1x1AVX512, page1x2AVX512, page1x3AVX512, page1x4AVX512},
			2: {page2x1AVX512, page2x2AVX512, page2x3AVX512, page2x4AVX512},
			3: {page3x1AVX512, page3x2AVX512, page3x3AVX512, page3x4AVX512},
			4: {page4x1AVX512, page4x2AVX512, page4x3AVX512, page4x4AVX512},
			8: {page8x1AVX512, page8x2AVX512, page8x3AVX512, page8x4AVX512},
		},
		blockQuery: []blockQueryFunc{blockQueries1AVX512, blockQueries2AVX512, blockQueries3AVX512, blockQueries4AVX512, blockQueries5AVX512, blockQueries6AVX512,
			blockQueries7AVX512},
		blockQueryFew64: blockQuery64xAVX512, blockQueryFew128: blockQuery128xAVX512,
		block: [5][]listScanFunc{
			2: {block2x1AVX512, block2x2AVX512, block2x3AVX512, block2x4AVX512, block2x5AVX512, block2x6AVX512, block2x7AVX512},
			4: {block4x1AVX512, block4x2AVX512, block4x3AVX512, block4x4AVX512, block4x5AVX512, block4x6AVX512, block4x7AVX512},
		},
		weights: [5][]weighFunc{
			2: {weights2x1AVX512, weights2x2AVX512, weights2x3AVX512, weights2x4AVX512, weights2x5AVX512, weights2x6AVX512, weights2x7AVX512},
			4: {weights4x1AVX512, weights4x2AVX512, weights4x3AVX512, weights4x4AVX512, weights4x5AVX512, weights4x6AVX512, weights4x7AVX512},
		},
		tokens: []pageTokensFunc{pageTokens1AVX512, pageTokens2AVX512, pageTokens3AVX512, pageTokens4AVX512, pageTokens5AVX512, pageTokens6AVX512, pageTokens7AVX512},
	},
	encode: true,
	read:   readAVX512, fmaPeak: fmaPeakAVX512, fmaLanes: 16, vnniPeak: vnniPeakAVX512,
}

var avx2 = routines{
	fetch: fetch, fetchRows: fetchRows,
	dot: []dotFunc{dot1AVX2, dot2AVX2, dot3AVX2},
	accumulate: []passes{
		{64, []accumulateFunc{accumulate1x64AVX2}},
		{32, []accumulateFunc{accumulate1x32AVX2, accumulate2x32AVX2, accumulate3x32AVX2}},
	},
	codes32: []codesFunc{codes1x32AVX2, codes2x32AVX2, codes3x32AVX2},
	max:     maxAVX2, exp: expAVX2, weigh: weighAVX2, addScaled: addScaledAVX2, addRows: addRowsAVX2, above: aboveAVX2, lanes: lanesAVX2,
	sumLanes: sumLanesAVX2, agree: []agreeFunc{agree1AVX2, agree2AVX2, agree3AVX2},
	sumSquares: sumSquaresAVX2, scaleMul: scaleMulAVX2, ropeHalves: ropeHalvesAVX2, ropePairs: ropePairsAVX2,
	gate: gateAVX2, add: addAVX2, scale: scaleAVX2, narrow: narrowAVX2, saturate: narrowFiniteAVX2, widen: widenAVX2,
	panel: []panelFunc{panel4AVX2}, keyPanels: keyPanelsAVX2, valuePanels: valuePanelsAVX2,
	estimates: &estimates{
		bounds:     []boundsFunc{bounds1AVX2, bounds2AVX2, bounds3AVX2},
		quantise:   quantiseAVX2,
		normalise:  normaliseAVX2,
		pageScale:  pageScaleAVX2,
		pageQuery:  []pageQueryFunc{pageQuery1AVX2},
		pageQuery2: []pageQueryFunc{pageQueryWide1AVX2},
		pageLanes:  8,
		int4:       []scanFunc{int4x1AVX2, int4x2AVX2},
		labels:     []scanFunc{labelsx1AVX2, labelsx2AVX2},
		pages: [9][]scanFunc{
			1: {page1x1AVX2, page1x2AVX2},
			2: {page2x1AVX2, page2x2AVX2},
			3: {page3x1AVX2, page3x2AVX2},
			4: {page4x1AVX2, page4x2AVX2},
			8: {page8x1AVX2, page8x2AVX2},
		},
		blockQuery: []blockQueryFunc{blockQueryAVX2},
		block:      [5][]listScanFunc{2: {block2x1AVX2, block2x2AVX2}, 4: {block4x1AVX2, block4x2AVX2}},
	},
	read: readAVX2, fmaPeak: fmaPeakAVX2, fmaLanes: 8,
}
