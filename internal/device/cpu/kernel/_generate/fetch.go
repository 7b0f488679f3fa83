package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// fetcher asks for what a gather and its successor read, spread over the gather's arithmetic and in the order of memory: asking in the order of use, one line of each row of a tile, defeats
// the hardware's own prefetching and halves the bandwidth of long rows. It goes through runs of memory, of which package kernel's ahead keeps the list.
type fetcher struct {
	ahead, p, left GPVirtual
	always         bool // not told by ahead to stand still
	turns          *int // labels that were used
}

// Where the fields of ahead are.
const (
	aheadP = 8 * iota
	aheadLeft
	aheadAt
	aheadLast
	aheadRows
	aheadStride
	aheadRun
	aheadFirst
	aheadThen
	aheadStep
)

func newFetcher(heads int) fetcher {
	f := fetcher{arg("ahead"), GP64(), GP64(), heads > 1, new(int)}
	MOVQ(Mem{Base: f.ahead, Disp: aheadP}, f.p)
	MOVQ(Mem{Base: f.ahead, Disp: aheadLeft}, f.left)
	return f
}

// lines asks for the next n lines, one or two, into the second-level cache: it waits for more of them at once than the first.
func (f fetcher) lines(n int) {
	for i := range n {
		PREFETCHT1(Mem{Base: f.p, Disp: 64 * i})
	}
	if f.always {
		SUBQ(I8(-64*n), f.p)
	} else {
		for range n {
			ADDQ(Mem{Base: f.ahead, Disp: aheadStep}, f.p)
		}
	}
	SUBQ(U32(64*n), f.left)
	JLE(LabelRef(fmt.Sprint("run", *f.turns)))
	Label(fmt.Sprint("on", *f.turns))
	*f.turns++
}

// end ends the routine: what fetching has to do between runs stands behind its last instruction.
func (f fetcher) end() {
	MOVQ(f.p, Mem{Base: f.ahead, Disp: aheadP})
	MOVQ(f.left, Mem{Base: f.ahead, Disp: aheadLeft})
	end()
	for i := range *f.turns {
		Label(fmt.Sprint("run", i))
		at := GP64()
		MOVQ(Mem{Base: f.ahead, Disp: aheadAt}, at)
		CMPQ(at, Mem{Base: f.ahead, Disp: aheadLast})
		JLS(LabelRef(fmt.Sprint("begin", i)))
		MOVQ(Mem{Base: f.ahead, Disp: aheadThen}, at)
		MOVQ(at, Mem{Base: f.ahead, Disp: aheadRows})
		MOVQ(Mem{Base: f.ahead, Disp: aheadFirst}, at)
		Label(fmt.Sprint("begin", i))
		MOVLQSX(Mem{Base: at}, f.p)
		IMULQ(Mem{Base: f.ahead, Disp: aheadStride}, f.p)
		ADDQ(Mem{Base: f.ahead, Disp: aheadRows}, f.p)
		ADDQ(U8(4), at)
		MOVQ(at, Mem{Base: f.ahead, Disp: aheadAt})
		MOVQ(Mem{Base: f.ahead, Disp: aheadRun}, f.left)
		JMP(LabelRef(fmt.Sprint("on", i)))
	}
}

// fetch asks for rows that the next call reads.
func fetch() {
	text("fetch", "(p *uint16, n int)", 0, "fetch prefetches the cache lines of p[:n], n ≥ 1.")
	p, n := arg("p"), arg("n")
	Label("line")
	PREFETCHT0(Mem{Base: p})
	ADDQ(U8(64), p)
	SUBQ(U8(32), n)
	JG(LabelRef("line"))
	RET()
}

// fetchRows asks for gathered rows into the second-level cache, which waits for more lines at once than the first.
func fetchRows() {
	text("fetchRows", "(rows *uint16, dim int, at *int32, n int)", 0, "fetchRows prefetches the cache lines of rows[r*dim:][:dim] for r in at[:n], n ≥ 1.")
	rows, dim, at, n := arg("rows"), arg("dim"), arg("at"), arg("n")
	ADDQ(dim, dim)
	Label("row")
	p, left := GP64(), GP64()
	MOVLQSX(Mem{Base: at}, p)
	IMULQ(dim, p)
	ADDQ(rows, p)
	MOVQ(dim, left)
	Label("line")
	PREFETCHT1(Mem{Base: p})
	ADDQ(U8(64), p)
	SUBQ(U8(64), left)
	JG(LabelRef("line"))
	ADDQ(U8(4), at)
	DECQ(n)
	JNZ(LabelRef("row"))
	RET()
}
