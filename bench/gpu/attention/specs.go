package main

import (
	"log"
	"regexp"
	"slices"

	"github.com/twilight-go/twilight/internal/device/cuda"
)

type spec struct {
	name string
	mode cuda.Mode
	rest bool // measured only when asked for
}

var specs = []spec{
	{"dense", cuda.Mode{Dense: true}, false},
	{"twilight-paper p=.85", cuda.Paper(0.85), false},
	{"twilight-paper p=.9", cuda.Paper(0.9), false},
	{"twilight p=.9", cuda.Twilight(0.9), false},
	{"twilight p=.9 keep=1/8", kept(0.125, 0.9), false},
	{"twilight p=.9 keep=1/16", kept(1.0/16, 0.9), true},
	{"twilight p=.95 keep=1/2", kept(0.5, 0.95), false},
	{"twilight p=.85 keep=1/8", kept(0.125, 0.85), true},
	{"twilight p=.9 keep=1", kept(1, 0.9), false},
}

// kept is the house's pipeline with another share of candidate pages.
func kept(keep, p float32) cuda.Mode {
	m := cuda.Twilight(p)
	m.Keep = keep
	return m
}

// choose reduces specs to dense and those that match, or that the results show, and has them select always.
func choose(only string, sparse bool) {
	match, err := regexp.Compile(only)
	if err != nil {
		log.Fatalf("attention: -specs: %v", err)
	}
	specs = slices.DeleteFunc(specs, func(s spec) bool { return !s.mode.Dense && (only == "" && s.rest || !match.MatchString(s.name)) })
	for i := range specs {
		if sparse {
			specs[i].mode.DenseBelow = 1
		}
	}
}
