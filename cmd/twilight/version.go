package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
)

type versionCommand struct {
	JSON bool `name:"json" help:"Print JSON."`
}

type versionResult struct {
	Version  string `json:"version"` // of the module, "(devel)" where it was built from a working tree
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"` // the tree had changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Level    string `json:"instructions"` // the instruction set that is used here
}

// version is that of the running program.
func version() versionResult {
	v := versionResult{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Level: isa.Best().String()}
	if b, ok := debug.ReadBuildInfo(); ok {
		if b.Main.Version != "" {
			v.Version = b.Main.Version
		}
		for _, s := range b.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

// String is the version as results are marked with it.
func (v versionResult) String() string {
	s := v.Version
	if v.Revision != "" {
		s += " " + v.Revision[:min(len(v.Revision), 12)]
	}
	if v.Modified {
		s += " modified"
	}
	return s
}

// Run is called by the parser.
func (c *versionCommand) Run(con *console) error {
	v := version()
	if c.JSON {
		return writeJSON(con.out, v)
	}
	_, err := fmt.Fprintf(con.out, "twilight %s, %s, %s, %s instructions\n", v.Version, v.Go, v.Platform, v.Level)
	return err
}
