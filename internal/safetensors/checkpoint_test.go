package safetensors

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lone is a tensor of one byte.
func lone(name string, value byte) Tensor { return Tensor{name, "I8", []uint64{1}, []byte{value}} }

// shards writes two shards, a and b in the first and c in the second, beside an index with the given weight map.
func shards(t *testing.T, weights string) string {
	dir := t.TempDir()
	writeFile(t, dir, "model-1.safetensors", encode(t, nil, []Tensor{lone("a", 1), lone("b", 2)}))
	writeFile(t, dir, "model-2.safetensors", encode(t, nil, []Tensor{lone("c", 3)}))
	writeFile(t, dir, indexName, fmt.Appendf(nil, `{"metadata":{"total_size":3,"x":[1,{"y":"]}"}],"z":null},"weight_map":{%s},"more":-1.5e3}`, weights))
	return dir
}

const goodWeights = `"c":"model-2.safetensors","a":"model-1.safetensors","b":"model-1.safetensors"`

func TestCheckpoint(t *testing.T) {
	single := t.TempDir()
	file := writeFile(t, single, singleName, encode(t, nil, []Tensor{lone("a", 1), lone("b", 2), lone("c", 3)}))
	sharded := shards(t, goodWeights)
	for path, files := range map[string]int{single: 1, file: 1, sharded: 2, filepath.Join(sharded, indexName): 2} {
		c, err := OpenCheckpoint(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Files) != files || len(c.Tensors()) != 3 {
			t.Errorf("%s: %d files, %d tensors", path, len(c.Files), len(c.Tensors()))
		}
		for i, name := range []string{"a", "b", "c"} {
			if got, ok := c.Tensor(name); !ok || !sameTensor(got, lone(name, byte(i+1))) {
				t.Errorf("%s: tensor %s is %v", path, name, got)
			}
		}
		if _, ok := c.Tensor("d"); ok {
			t.Errorf("%s: found a tensor that is not there", path)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckpointErrors(t *testing.T) {
	if _, err := OpenCheckpoint(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent path was opened")
	}
	if _, err := OpenCheckpoint(t.TempDir()); err == nil || !strings.Contains(err.Error(), "found neither model.safetensors nor model.safetensors.index.json") {
		t.Errorf("empty folder: %v", err)
	}
	for weights, want := range map[string]string{
		``: `index at offset 0: found no tensors in its weight_map`,
		`"a":"model-1.safetensors","b":"model-1.safetensors"`:     ``, // a shard that is never named is no part of the checkpoint
		`"a":"model-1.safetensors","c":"model-2.safetensors"`:     `tensor "b" lies in `,
		goodWeights + `,"d":"model-2.safetensors"`:                `tensor "d" is not in model-2.safetensors, where the index has it`,
		goodWeights + `,"a":"model-1.safetensors"`:                `tensor "a" stands twice`,
		`"c":"model-1.safetensors"`:                               `tensor "c" is not in model-1.safetensors`,
		`"c":"model-3.safetensors"`:                               `model-3.safetensors`,
		`"c":"../model-2.safetensors"`:                            `file of tensor "c" at offset 75: found "../model-2.safetensors", expected the name of a .safetensors file in the same folder`,
		`"c":"/etc/x.safetensors"`:                                `in the same folder`,
		`"c":"sub/x.safetensors"`:                                 `in the same folder`,
		`"c":"sub\\x.safetensors"`:                                `in the same folder`,
		`"c":"..\u002fx.safetensors"`:                             `in the same folder`,
		`"c":"C:x.safetensors"`:                                   `in the same folder`,
		`"c":"passwd"`:                                            `in the same folder`,
		`"c":""`:                                                  `in the same folder`,
		`"c":7`:                                                   `file of tensor "c" at offset 75: found '7', expected '"'`,
		goodWeights + `},"weight_map":{"a":"model-1.safetensors"`: `weight_map at offset`,
		goodWeights + `,`:                                         `index at offset 0: the text is not valid JSON`,
		`"\u0063":"model-2.safetensors"`:                          `a name with an escape is not supported`,
	} {
		c, err := OpenCheckpoint(shards(t, weights))
		if want == "" {
			if err != nil {
				t.Error(err)
				continue
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), indexName) && !strings.Contains(err.Error(), "model-3") {
			t.Errorf("weights %s: error %v, want %q in it", weights, err, want)
		}
	}
	dir := shards(t, goodWeights)
	damaged := filepath.Join(dir, "model-2.safetensors")
	if err := os.Truncate(damaged, 20); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCheckpoint(dir); err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("damaged shard: %v", err)
	}
}

func TestIndexBounded(t *testing.T) {
	big := make([]byte, maxIndex+1)
	if _, err := parseIndex("big", big); err == nil || !strings.Contains(err.Error(), "expected at most 33554432") {
		t.Errorf("error %v", err)
	}
}

// FuzzIndex: any bytes give a FormatError or names that stay in the folder.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":3,"x":[1,{"y":"]}"}]},"weight_map":{` + goodWeights + `},"more":-1.5e3}`))
	f.Add([]byte(`{"weight_map":{"a":"../b.safetensors"}}`))
	f.Add([]byte(`{"a":"\"","weight_map":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		weights, err := parseIndex("fuzz", data)
		if err != nil {
			checkError(t, err, data)
			return
		}
		for _, w := range weights {
			if w.file != filepath.Base(w.file) || !strings.HasSuffix(w.file, extension) {
				t.Fatalf("file %q", w.file)
			}
		}
	})
}
