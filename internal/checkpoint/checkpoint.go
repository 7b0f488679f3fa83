// Package checkpoint presents a Hugging Face checkpoint, the folder that a model is published and fine-tuned as, in the terms of a GGUF file: metadata under GGUF's
// keys and tensors under GGUF's names, so that everything else in the engine knows one kind of model.
//
// A checkpoint is config.json (what the network is), model.safetensors or its shards (unquantised weights), tokenizer.json or tokenizer.model with
// tokenizer_config.json (the vocabulary), generation_config.json (what ends a generation) and chat_template.jinja. Values, names and layouts become what llama.cpp's
// converter makes of them, so a checkpoint computes what the GGUF file converted from it without quantising computes.
//
// What this engine cannot compute exactly is an error that names what was found. JSON is read up to a bound of size; damaged files give errors, never a panic.
package checkpoint

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/safetensors"
	"github.com/twilight-go/twilight/internal/tensor"
)

const configName = "config.json"

// Checkpoint is an open checkpoint. It is a model.Source. The embedded File holds the metadata, under GGUF's keys, and no tensors: its getters are the checkpoint's
// own, and tokenizer.FromGGUF takes it. Methods may be called from several goroutines at once, Close excepted.
type Checkpoint struct {
	*gguf.File

	files   *safetensors.Checkpoint
	names   []string         // of the tensors, in the order of the network
	entries map[string]entry // by GGUF name
	id      [32]byte
}

// Is reports whether path is a checkpoint's as Open takes it, and not a GGUF file's: a folder, its config.json, or its .safetensors or .safetensors.index.json.
func Is(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir() || filepath.Base(path) == configName || isWeights(path)
}

func isWeights(path string) bool {
	return strings.HasSuffix(path, ".safetensors") || strings.HasSuffix(path, ".safetensors.index.json")
}

// Open opens the checkpoint at path (see Is). The weights stay in mappings of their files until Close, after which no tensor's Data may be used.
func Open(path string) (_ *Checkpoint, err error) {
	dir, weights := path, path
	if st, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	} else if !st.IsDir() {
		dir = filepath.Dir(path)
		if !isWeights(path) {
			weights = dir
		}
	}
	f := folder(dir)
	raw, err := f.read(configName, maxConfig)
	if err != nil {
		return nil, err
	}
	net, err := parseConfig(raw)
	if err != nil {
		return nil, f.wrap(configName, err)
	}
	if net.name == "" {
		net.name = f.base()
	}
	c := &Checkpoint{}
	if c.files, err = safetensors.OpenCheckpoint(weights); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.files.Close())
		}
	}()
	if err = c.index(net); err != nil {
		return nil, fmt.Errorf("checkpoint: %s: %w", path, err)
	}
	vocab, err := f.vocabulary(net, c.rows("token_embd.weight"))
	if err != nil {
		return nil, err
	}
	if c.File, err = inMemory(path, append(net.metadata(c.mostly(), c.rows("token_embd.weight")), vocab...)); err != nil {
		return nil, fmt.Errorf("checkpoint: %s: %w", path, err)
	}
	c.fingerprint(raw)
	return c, nil
}

// inMemory is a GGUF file of metadata alone.
func inMemory(name string, meta []gguf.KV) (*gguf.File, error) {
	var header bytes.Buffer
	if err := gguf.Write(&header, meta, nil); err != nil {
		return nil, err
	}
	return gguf.Parse(name, header.Bytes())
}

// index gives the checkpoint's tensors their GGUF names.
func (c *Checkpoint) index(net *network) error {
	c.entries = map[string]entry{}
	for _, t := range c.files.Tensors() {
		name, change, err := net.place(t.Name)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		e, err := newEntry(t, change, net)
		if err != nil {
			return err
		}
		if other, taken := c.entries[name]; taken {
			return fmt.Errorf("tensors %q and %q are both %s", other.src.Name, t.Name, name)
		}
		c.entries[name] = e
		c.names = append(c.names, name)
	}
	if _, ok := c.entries["output.weight"]; !ok && net.untied {
		return errors.New("tensor lm_head.weight: not found, though tie_word_embeddings is false")
	}
	for _, part := range net.norms() { // the engine runs layers without them, too
		for l := range net.layers {
			name := fmt.Sprintf("blk.%d.%s.weight", l, part)
			if _, ok := c.entries[name]; !ok {
				return fmt.Errorf("tensor %s: not found; every layer of a %s has one", name, net.title)
			}
		}
	}
	if net.ropeFactors != nil {
		c.names = append(c.names, ropeFactorsName)
		c.entries[ropeFactorsName] = factorsEntry(net.ropeFactors)
	}
	slices.SortStableFunc(c.names, func(a, b string) int { return cmp.Or(cmp.Compare(layerOf(a), layerOf(b)), cmp.Compare(a, b)) })
	return nil
}

// rows is the rows of a tensor, 0 where it is missing.
func (c *Checkpoint) rows(name string) int {
	e, ok := c.entries[name]
	if !ok {
		return 0
	}
	return e.tensor(name).Rows()
}

// mostly is the type of most weights.
func (c *Checkpoint) mostly() tensor.Type {
	size := map[tensor.Type]int{}
	best := tensor.F32
	for _, name := range c.names {
		e := c.entries[name]
		if size[e.typ] += len(e.src.Data); size[e.typ] > size[best] {
			best = e.typ
		}
	}
	return best
}

// Tensor finds a tensor by its GGUF name. Its Data lies in the file's mapping where the two formats agree. Otherwise each call makes it anew: the query and key
// rows of a llama, whose rotated channels GGUF holds side by side, and the norms of a gemma3, which GGUF holds with 1 added.
func (c *Checkpoint) Tensor(name string) (gguf.Tensor, bool) {
	e, ok := c.entries[name]
	if !ok {
		return gguf.Tensor{}, false
	}
	t := e.tensor(name)
	t.Data = e.data()
	return t, true
}

// Tensors lists the tensors by GGUF name, layer by layer, without their Data, which Tensor gives.
func (c *Checkpoint) Tensors() []gguf.Tensor {
	out := make([]gguf.Tensor, len(c.names))
	for i, name := range c.names {
		out[i] = c.entries[name].tensor(name)
	}
	return out
}

// Size is what the weights take on disk, in bytes.
func (c *Checkpoint) Size() int64 {
	n := int64(0)
	for _, e := range c.entries {
		n += int64(len(e.src.Data))
	}
	return n
}

// Fingerprint identifies the model for caches that are tied to it: the SHA-256 of config.json and of every tensor's name, type, shape and first 64 bytes. The
// vocabulary is not part of it, for a cache holds what the network made of token ids. It is no proof against forgery.
func (c *Checkpoint) Fingerprint() [32]byte { return c.id }

func (c *Checkpoint) fingerprint(config []byte) {
	const sample = 64
	h := sha256.New()
	h.Write(config)
	for _, name := range c.names {
		e := c.entries[name]
		h.Write(append([]byte(name), 0))
		for _, n := range append([]uint64{uint64(e.typ), uint64(len(e.src.Shape))}, e.src.Shape...) {
			h.Write(binary.LittleEndian.AppendUint64(nil, n))
		}
		h.Write(e.src.Data[:min(len(e.src.Data), sample)])
	}
	c.id = [32]byte(h.Sum(nil))
}

// Close ends the mappings: Data of tensors must not be used any more.
func (c *Checkpoint) Close() error { return errors.Join(c.files.Close(), c.File.Close()) }
