package mem

import "golang.org/x/sys/unix"

// Available is the machine's memory: this system gives most of it to whoever asks.
func Available() int64 {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return int64(n)
}
