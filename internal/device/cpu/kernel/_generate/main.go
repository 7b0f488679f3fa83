// Command generate writes the assembly of package kernel, one file a kernel family:
//
//	go run . -kernel dot -out ../dot_amd64.s -stubs ../dot_amd64.go -pkg kernel
//
// The package's go:generate lines name every family; the output depends on nothing but this source and avo's version.
package main

import (
	"flag"
	"fmt"
	"os"
	"sort"

	. "github.com/mmcloughlin/avo/build"
)

// families are the kernels by the name of the file that they go to.
var families = map[string]func(){
	"dot":        dotFamily,
	"accumulate": accumulateFamily,
	"body":       bodyFamily,
	"scan":       scanFamily,
	"pages":      pagesFamily,
	"prefill":    prefillFamily,
	"reduce":     reduceFamily,
	"step":       stepFamily,
	"encode":     encodeFamily,
	"peak":       peakFamily,
	"select":     selectFamily,
	"tokens":     tokensFamily,
}

func main() {
	name := flag.String("kernel", "", "the kernel family to write")
	flag.Parse()
	family, ok := families[*name]
	if !ok {
		known := make([]string, 0, len(families))
		for n := range families {
			known = append(known, n)
		}
		sort.Strings(known)
		fmt.Fprintf(os.Stderr, "generate: unknown kernel %q (known: %v)\n", *name, known)
		os.Exit(2)
	}
	ConstraintExpr("!noasm")
	family()
	Generate()
}
