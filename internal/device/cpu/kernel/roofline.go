package kernel

// Roofline runs what the machine can do at all, for one core: the yardstick beside every measured kernel. What a level has no machine code for is timed in plain Go.
type Roofline interface {
	// ReadBandwidth reads buf once, in order, and returns the sum of its 64-bit words (of whole 512-byte runs).
	ReadBandwidth(buf []byte) uint64
	// PeakFMA does at least n float32 multiply-adds and returns how many.
	PeakFMA(n int) int
	// PeakVNNI does at least n multiply-adds of bytes into 32-bit sums and returns how many.
	PeakVNNI(n int) int
}
