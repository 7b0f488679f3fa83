package attention

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// Calibration is what a model's queries and keys on some text tell selectors that want to know it beforehand. The command calibrate writes it as JSON; the
// arguments channels-file and anchors-file read it.
type Calibration struct {
	Model    string    `json:"model"`
	Tokens   int       `json:"tokens"` // of the text
	Layers   int       `json:"layers"`
	KVHeads  int       `json:"kv_heads"`
	Dim      int       `json:"dim"`
	Channels [][][]int `json:"channels,omitempty"` // by layer and KV head: all channels, the most important first
	Anchors  []int     `json:"anchors,omitempty"`  // layers that select for those after them
	Held     float64   `json:"held,omitempty"`     // mean mass that the anchors' choice holds in the layers that reuse it

	path, hash string
}

// maxCalibration is far more than the largest model's file.
const maxCalibration = 64 << 20

// ReadCalibration reads a file that the command calibrate wrote. Errors name the file and what is wrong with it.
func ReadCalibration(path string) (*Calibration, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading a calibration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCalibration+1))
	if err != nil {
		return nil, fmt.Errorf("reading a calibration: %w", err)
	}
	if len(text) > maxCalibration {
		return nil, fmt.Errorf("calibration %s is larger than %d bytes", path, maxCalibration)
	}
	c, err := parseCalibration(text)
	if err != nil {
		return nil, fmt.Errorf("calibration %s: %w", path, err)
	}
	c.path = path
	return c, nil
}

func parseCalibration(text []byte) (*Calibration, error) {
	c := &Calibration{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	c.hash = hex.EncodeToString(sum[:4])
	if len(c.Channels) != 0 && len(c.Channels) != c.Layers {
		return nil, fmt.Errorf("it lists channels of %d layers, expected %d", len(c.Channels), c.Layers)
	}
	for l, heads := range c.Channels {
		if len(heads) != c.KVHeads {
			return nil, fmt.Errorf("layer %d has channels of %d heads, expected %d", l, len(heads), c.KVHeads)
		}
		for h, channels := range heads {
			sorted := slices.Sorted(slices.Values(channels))
			for i, x := range sorted {
				if x != i {
					return nil, fmt.Errorf("layer %d, head %d: channels %v are not those from 0 to %d, each once", l, h, channels, c.Dim-1)
				}
			}
			if len(sorted) != c.Dim {
				return nil, fmt.Errorf("layer %d, head %d has %d channels, expected %d", l, h, len(sorted), c.Dim)
			}
		}
	}
	for i, l := range c.Anchors {
		if l < 0 || l >= c.Layers || i > 0 && l <= c.Anchors[i-1] {
			return nil, fmt.Errorf("anchors %v: expected rising layers from 0 to %d", c.Anchors, c.Layers-1)
		}
	}
	return c, nil
}

// fits reports whether the calibration is of a model of that shape.
func (c *Calibration) fits(s Shape) error {
	if c.Layers != s.Layers || c.KVHeads != s.KVHeads || c.Dim != s.Dim {
		return fmt.Errorf("calibration %s is of %d layers with %d KV heads of %d channels, the model has %d with %d of %d",
			c.path, c.Layers, c.KVHeads, c.Dim, s.Layers, s.KVHeads, s.Dim)
	}
	return nil
}
