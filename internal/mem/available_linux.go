package mem

import (
	"bufio"
	"math"
	"os"
	"strconv"
	"strings"
)

// Available is the memory, in bytes, that this process may use beyond what it has without swapping: what the system says, or what is left of the control group's limit if that is less, files that
// the group has read counted as free. 0 if unknown.
func Available() int64 {
	n := field("/proc/meminfo", "MemAvailable:") << 10
	if limit := number("/sys/fs/cgroup/memory.max"); limit > 0 && limit < math.MaxInt64 {
		n = min(n, max(0, limit-number("/sys/fs/cgroup/memory.current")+field("/sys/fs/cgroup/memory.stat", "inactive_file ")))
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

// field is the number after a name at the start of a line, 0 if there is none.
func field(path, name string) (n int64) {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), name); ok {
			n, _ = strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
		}
	}
	return n
}
