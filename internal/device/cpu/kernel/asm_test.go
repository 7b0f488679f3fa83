package kernel

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestAVX2Registers holds that routines for AVX2 name no register that only AVX-512 has: the machines that test this package would not notice.
func TestAVX2Registers(t *testing.T) {
	files, err := filepath.Glob("*_amd64.s")
	if err != nil || len(files) == 0 {
		t.Fatalf("no assembly found: %v", err)
	}
	text := regexp.MustCompile(`(?m)^TEXT ·(\w+)\(`)
	beyond := regexp.MustCompile(`\b(Z\d+|[XY](1[6-9]|2\d|3[01])|K[0-7])\b`)
	seen := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		at := text.FindAllSubmatchIndex(b, -1)
		for i, m := range at {
			end := len(b)
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			name := string(b[m[2]:m[3]])
			if len(name) < 4 || name[len(name)-4:] != "AVX2" {
				continue
			}
			seen++
			if r := beyond.Find(b[m[0]:end]); r != nil {
				t.Errorf("%s: %s uses %s", f, name, r)
			}
		}
	}
	if seen == 0 {
		t.Fatal("no routine for AVX2 found")
	}
}
