package inspect

import (
	"bufio"
	"math"
	"os"
	"strconv"
	"strings"
)

// available is the memory that a new process may use without swapping: what the system says, or what is left of the control group's limit if that is less.
func available() int64 {
	n := int64(0)
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			n = kib << 10
		}
	}
	if limit := number("/sys/fs/cgroup/memory.max"); limit > 0 && limit < math.MaxInt64 {
		n = min(n, max(0, limit-number("/sys/fs/cgroup/memory.current")))
	}
	return n
}

// number is what a file holds, 0 if it is not there or holds something else, as "max".
func number(path string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
