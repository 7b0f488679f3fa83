package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// fetcher asks for gathered rows ahead of their use, in the order of memory: asking in the order of use, one line of each row of a tile, defeats the
// hardware's own prefetching and halves the bandwidth of long rows.
type fetcher struct {
	at, last, off GPVirtual
	zero          Mem // eight bytes of the frame
}

// newFetcher starts ahead entries after at; last is the address of the list's last entry. It takes the frame's first eight bytes.
func newFetcher(at, ahead, last GPVirtual) fetcher {
	f := fetcher{GP64(), last, GP64(), NewStackAddr(0)}
	LEAQ(Mem{Base: at, Index: ahead, Scale: 4}, f.at)
	XORQ(f.off, f.off)
	MOVQ(f.off, f.zero)
	return f
}

// twoLines asks for the next 128 bytes; stride is four times dim, twice the bytes of a row.
func (f fetcher) twoLines(stride GPVirtual) {
	p, next := GP64(), GP64()
	CMPQ(f.at, f.last)
	CMOVQHI(f.last, f.at)
	MOVLQSX(Mem{Base: f.at}, p)
	IMULQ(stride, p)
	SHRQ(U8(1), p)
	ADDQ(NewParamAddr("rows", 32), p)
	PREFETCHT0(Mem{Base: p, Index: f.off, Scale: 1})
	PREFETCHT0(Mem{Base: p, Index: f.off, Scale: 1, Disp: 64})
	SUBQ(I8(-128), f.off)
	LEAQ(Mem{Base: f.at, Disp: 4}, next)
	LEAQ(Mem{Base: f.off, Index: f.off, Scale: 1}, p)
	CMPQ(p, stride)
	CMOVQGE(f.zero, f.off)
	CMOVQGE(next, f.at)
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
