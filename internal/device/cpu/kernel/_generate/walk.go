package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// pageWalk goes through the pages of a scan.
type pageWalk interface {
	begin()
	page() (p, codes, next GPVirtual) // the page's number in its block, where its codes begin, and those of a page to ask for, if the walk knows one
	step()
}

// masked walks the pages of a block whose bit is set.
type masked struct{ pages GPVirtual }

func (m *masked) begin() {
	TESTQ(m.pages, m.pages)
	JZ(LabelRef("end"))
}

func (m *masked) page() (p, code, next GPVirtual) {
	p, code = GP64(), GP64()
	TZCNTQ(m.pages, p)
	MOVQ(p, code)
	IMULQ(NewParamAddr("pageBytes", 48), code)
	ADDQ(NewParamAddr("codes", 40), code)
	return p, code, nil
}

func (m *masked) step() {
	BLSRQ(m.pages, m.pages)
	JNZ(LabelRef("page"))
	Label("end")
}

// listed walks a list of slab pages that stand in one block; the list goes on after them. Pages are picked here and there, so that nobody else asks for the next ones.
type listed struct {
	at    GPVirtual
	ahead int // pages between the one in hand and the one asked for
}

func (l *listed) begin() {}

func (l *listed) page() (p, code, next GPVirtual) {
	last := GP64()
	next = GP64()
	LEAQ(Mem{Base: l.at, Disp: 4 * l.ahead}, next)
	MOVQ(NewParamAddr("last", 96), last)
	CMPQ(next, last)
	CMOVQHI(last, next)
	MOVLQSX(Mem{Base: next}, next)
	l.address(next)
	code = GP64()
	MOVLQSX(Mem{Base: l.at}, code)
	l.address(code)
	return nil, code, next
}

// address turns the number of a page into where its codes begin.
func (l *listed) address(p GPVirtual) {
	within := GP64()
	MOVQ(p, within)
	ANDQ(U8(15), within)
	IMULQ(NewParamAddr("pageBytes", 64), within)
	SHRQ(U8(4), p)
	IMULQ(NewParamAddr("blockBytes", 48), p)
	ADDQ(NewParamAddr("plane", 40), p)
	ADDQ(NewParamAddr("headBytes", 56), p)
	ADDQ(within, p)
}

func (l *listed) step() {
	ADDQ(U8(4), l.at)
	DECQ(NewParamAddr("n", 88))
	JNZ(LabelRef("page"))
}

// fetched is how many times its codes a page asks for, those behind them with them: memory gives runs of 1 KB to lists of pages half as fast again as runs of 512 bytes.
const fetched = 2

// ahead is how many pages before its scan a page is asked for, into the second-level cache, which waits for more lines at once than the first.
func (v scan) ahead() int { return max(8, 24/v.heads) }
