// Command _generate writes the assembly of package linear: `go generate` there runs it once for each level.
package main

import (
	"flag"
	"fmt"
	"slices"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The layout of actBlock in package linear.
const (
	actScale = 32
	actSum   = 36
	actNeg   = 40
	actNeg16 = 44
	actBytes = 52
)

const rowTile = 16

// quant is a packed format, as layout.go describes it.
type quant struct {
	name   string
	codes  string // codes2, codes3, …
	scales string // scaleD, scaleDM, …
	shift  uint64 // base-2 logarithm of the codes' offset, 0 for none
}

var quants = []quant{
	{"Q4_0", "codes4", "scaleD", 3},
	{"Q4_1", "codes4", "scaleDM", 0},
	{"Q5_0", "codes5", "scaleD", 4},
	{"Q5_1", "codes5", "scaleDM", 0},
	{"Q8_0", "codes8", "scaleD", 7},
	{"IQ4_NL", "codes4NL", "scaleD", 7},
	{"Q2_K", "codes2", "scaleK16M", 0},
	{"Q3_K", "codes3", "scaleK16", 2},
	{"Q4_K", "codes4", "scaleK", 0},
	{"Q5_K", "codes5", "scaleK", 0},
	{"Q6_K", "codes6", "scaleK16", 5},
	{"IQ4_XS", "codes4NL", "scaleKS", 7},
}

func (q quant) codeBytes() int {
	return map[string]int{"codes2": 128, "codes3": 192, "codes4": 256, "codes5": 320, "codes6": 384, "codes8": 512, "codes4NL": 256}[q.codes]
}

// headBytes and scaleBytes are the scales before eight records and in each.
func (q quant) headBytes() int {
	return map[string]int{"scaleK": 64, "scaleKS": 32, "scaleK16": 32, "scaleK16M": 64}[q.scales]
}

func (q quant) scaleBytes() int {
	return map[string]int{"scaleD": 32, "scaleDM": 64, "scaleK": 32, "scaleKS": 16, "scaleK16": 32, "scaleK16M": 32}[q.scales]
}

// halves reports whether the first and the last 16 columns have scales of their own.
func (q quant) halves() bool { return q.scales == "scaleK16" || q.scales == "scaleK16M" }

// hasMin reports whether the weights have a minimum, which multiplies the sum of the activations.
func (q quant) hasMin() bool {
	return q.scales == "scaleDM" || q.scales == "scaleK" || q.scales == "scaleK16M"
}

// A top is a field of a group's codes that lies in the top bits of another group's word, as in layout.go.
type top struct{ group, to, width, word, at int }

const lane1 = 0x01010101

func (t top) mask() uint32 { return lane1 * (1<<t.width - 1) }

// topped are the words of codes5 and codes6, and where the remaining groups lie.
func (q quant) topped() (words int, tops []top) {
	switch q.codes {
	case "codes5":
		return 5, []top{{5, 0, 3, 0, 5}, {5, 3, 2, 1, 5}, {6, 0, 3, 2, 5}, {6, 3, 2, 3, 5}, {7, 0, 3, 4, 5}, {7, 3, 1, 1, 7}, {7, 4, 1, 3, 7}}
	case "codes6":
		return 6, []top{{6, 0, 2, 0, 6}, {6, 2, 2, 1, 6}, {6, 4, 2, 2, 6}, {7, 0, 2, 3, 6}, {7, 2, 2, 4, 6}, {7, 4, 2, 5, 6}}
	}
	return 0, nil
}

// masks are the constants that taking a record apart needs.
func (q quant) masks() (all []uint32) {
	switch q.codes {
	case "codes8":
	case "codes2":
		all = []uint32{0x03030303}
	case "codes3":
		all = []uint32{0x03030303, 0x04040404}
	case "codes5", "codes6":
		words, tops := q.topped()
		all = []uint32{lane1 * (1<<words - 1)}
		for _, t := range tops {
			if m := t.mask() << t.to; !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
	default:
		all = []uint32{0x0f0f0f0f}
	}
	if q.scales == "scaleK16M" {
		all = append(all, 15)
	}
	return all
}

// nonlinear are the values of IQ4_NL.
var nonlinear = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

const quantSignature = "func(w *byte, rows, blocks int, x *int8, step int, dst *float32, stride, n, planes, ahead int)"

// docQuant writes the loop that a kernel stands for, in the terms of generic.go.
func docQuant(name string, q quant, n int) {
	offset := ""
	if q.shift > 0 {
		offset = fmt.Sprintf(" - %d·Σx", 1<<q.shift)
	}
	value := fmt.Sprintf("D·(Σqx%s)", offset)
	if q.halves() {
		value = fmt.Sprintf("D0·(Σqx%s) + D1·(Σqx%s)", offset, offset)
	}
	switch q.scales {
	case "scaleDM":
		value += " + M·Σx"
	case "scaleK":
		value += " - M·Σx"
	case "scaleK16M":
		value += " - (M0·Σx + M1·Σx)"
	}
	Doc(
		fmt.Sprintf("%s is format.mulGeneric of %s for a panel of width %d, of which the first n rows are stored:", name, q.name, n),
		"",
		fmt.Sprintf("	for r := range rows { for p := range %d {", n),
		"		for b := range blocks { acc[p] += ("+value+") · scale(p,b) } // over record b's codes q, scales as layout.go has them",
		"	}; for i := range n { dst[i*stride+r] = Σ acc[i*planes:][:planes] }}",
		"",
		"ahead is how far behind a record in hand, in bytes, weights may be asked for.",
	)
}

func docFloat(name, typ string, n int) {
	Doc(
		fmt.Sprintf("%s is floatFormat.mulGeneric of %s for %d activation rows:", name, typ, n),
		"",
		fmt.Sprintf("	for r := range rows { for i := range %d {", n),
		"		for b := 0; b < cols; b += 32 { part := Σ_{b ≤ c < min(b+32, cols)} w[c*16+r]·x[i*cols+c]; acc += part }",
		"		dst[i*stride+r] = acc",
		"	}}",
	)
}

// counter loops body until n, at least 1 on entry, has been counted down by step to 0 or below.
func counter(label string, n GPVirtual, step int, body func()) {
	Label(label)
	body()
	SUBQ(I32(step), n)
	JG(LabelRef(label))
}

// prefetchFrom is the number of activation rows from which kernels fetch ahead. Their two streams come from the second-level
// cache at a pace that the hardware does not follow by itself (1.5 times faster with it); one row alone is bound by memory, which it follows.
const prefetchFrom = 4

// prefetch fetches the n bytes from m on.
func prefetch(m Mem, n int) {
	for i := 0; i < n; i += 64 {
		PREFETCHT0(m.Offset(i))
	}
}

// addPlanes adds the sums of the second planes to those of the first, if there are two: acc[i] is then row i. The sums of
// several groups of weight rows go alike.
func addPlanes(acc ...[]VecVirtual) {
	if len(acc[0]) == 1 {
		return
	}
	CMPQ(param("planes"), I8(2))
	JNE(LabelRef("added"))
	for _, sums := range acc {
		for i := range len(sums) / 2 {
			VADDPS(sums[2*i+1], sums[2*i], sums[i])
		}
	}
	Label("added")
}

func param(name string) GPVirtual { return Load(Param(name), GP64()).(GPVirtual) }

func main() {
	level := flag.String("level", "avx512", "instruction-set level: avx512 or avx2")
	flag.Parse()
	ConstraintExpr("!noasm")
	switch *level {
	case "avx512":
		generateAVX512()
	case "avx2":
		generateAVX2()
	}
	Generate()
}
