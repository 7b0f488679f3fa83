package linear

import "encoding/binary"

// Read reads all of b and returns something made of it. It is the plainest loop over memory that a core can run: the time it takes
// on a large b is the machine's read bandwidth, which benchmarks hold products against.
func Read(b []byte) (sum uint64) {
	n := 0
	if fast := readKernel(); fast != nil && len(b) >= readStep {
		n = len(b) / readStep * readStep
		sum = fast(&b[0], n)
	}
	b = b[n:]
	var s [4]uint64
	for len(b) >= 32 {
		for i := range s {
			s[i] += binary.LittleEndian.Uint64(b[8*i:])
		}
		b = b[32:]
	}
	for _, v := range b {
		sum += uint64(v)
	}
	return sum + s[0] + s[1] + s[2] + s[3]
}

// readStep is what a kernel reads in one turn.
const readStep = 512
