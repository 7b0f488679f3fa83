// Command capture saves real queries, keys and values for the benchmark of the GPU operator: it reads a text with the first layers of a model on the CPU and
// writes the keys and values of chosen layers and, at chosen positions, the queries, all after RoPE. Keys and values are stored in 8 bits between the extremes of
// each channel over each block of tokens, so that long contexts travel; queries in float32.
//
//	capture -model qwen2.5-coder-1.5b.gguf -text war-and-peace.txt -layers 4,8,11 -tokens 32768 -at 8192,16384,32768 -o qwen.cap
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/tokenizer"
)

func main() {
	log.SetFlags(0)
	path := flag.String("model", "", "GGUF file")
	text := flag.String("text", "", "text to read")
	layers := flag.String("layers", "4,8,11", "layers to save, ascending")
	at := flag.String("at", "8192,16384,32768", "context lengths: queries of the last positions before each are saved")
	window := flag.Int("window", 64, "positions saved before each")
	tokens := flag.Int("tokens", 32768, "tokens to read")
	skip := flag.Int("skip", 0, "bytes of the text to skip")
	out := flag.String("o", "", "file to write")
	flag.Parse()
	if err := run(*path, *text, ints(*layers), ints(*at), *window, *tokens, *skip, *out); err != nil {
		log.Fatal(err)
	}
}

func ints(s string) (list []int) {
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil {
			log.Fatalf("capture: %q is not a list of numbers", s)
		}
		list = append(list, n)
	}
	return list
}

// shallow is a model file of which only the first layers are read.
type shallow struct {
	*gguf.File
	layers int
}

func (s shallow) Uint(key string) (uint64, error) {
	if strings.HasSuffix(key, ".block_count") {
		return uint64(s.layers), nil
	}
	return s.File.Uint(key)
}

// tap is the CPU device, listening to what is attended to.
type tap struct {
	device.Device
	layers     []int
	at         []int
	window     int
	k, v       [][]float32 // per saved layer: [tokens][kvheads·dim]
	q          [][]float32 // per saved layer: [len(at)][window][heads·dim]
	dim, heads int
	kvHeads    int
}

// Attend implements device.Device.
func (t *tap) Attend(a *device.Attention) error {
	if i := slices.Index(t.layers, a.Layer); i >= 0 {
		seg := a.Segments[0]
		n, kw, qw := seg.N, a.KVHeads*a.Dim, a.Heads*a.Dim
		t.dim, t.heads, t.kvHeads = a.Dim, a.Heads, a.KVHeads
		t.k[i] = append(t.k[i], a.K.Data[:n*kw]...)
		t.v[i] = append(t.v[i], a.V.Data[:n*kw]...)
		if t.q[i] == nil {
			t.q[i] = make([]float32, len(t.at)*t.window*qw)
		}
		for w, end := range t.at {
			for p := max(end-t.window, seg.Pos); p < min(end, seg.Pos+n); p++ {
				copy(t.q[i][(w*t.window+p-end+t.window)*qw:][:qw], a.Q.Data[(p-seg.Pos)*qw:])
			}
		}
		if i == len(t.layers)-1 {
			return nil // nobody reads what would follow
		}
	}
	return t.Device.Attend(a)
}

func run(path, text string, layers, at []int, window, tokens, skip int, out string) error {
	f, err := gguf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	tok, err := tokenizer.FromGGUF(f)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(text)
	if err != nil {
		return err
	}
	raw = raw[min(skip, len(raw)):]
	ids := tok.Encode(string(raw[:min(len(raw), tokens*6)]), tokenizer.EncodeOptions{})
	if len(ids) < tokens {
		return fmt.Errorf("capture: the text has %d tokens, expected at least %d", len(ids), tokens)
	}
	dev, err := cpu.New(0)
	if err != nil {
		return err
	}
	defer dev.Close()
	t := &tap{Device: dev, layers: layers, at: at, window: window, k: make([][]float32, len(layers)), v: make([][]float32, len(layers)), q: make([][]float32, len(layers))}
	m, err := model.Load(shallow{f, layers[len(layers)-1] + 1}, t, model.Options{})
	if err != nil {
		return err
	}
	cache, err := t.Cache(kvcache.Shape{Layers: m.Layers, KVHeads: m.KVHeads, Dim: m.HeadDim}, (tokens+attention.BlockTokens-1)/attention.BlockTokens, nil)
	if err != nil {
		return err
	}
	defer cache.Close()
	seq := cache.NewSequence()
	for pos := 0; pos < tokens; {
		n := min(m.MaxRows(), tokens-pos)
		if err := seq.Reserve(n); err != nil {
			return err
		}
		step := model.Step{Tokens: ids[pos : pos+n], Segments: []device.Segment{{Seq: seq, N: n, Pos: pos, Mode: device.Prompt}}, Cache: cache}
		if _, err := m.Forward(&step); err != nil {
			return err
		}
		seq.Advance(n)
		pos += n
		fmt.Fprintf(os.Stderr, "\r%d / %d tokens", pos, tokens)
	}
	fmt.Fprintln(os.Stderr)
	return t.save(out, tokens)
}

// save writes the file: "TWLTCAP1", then uint32 dim, group, heads (layers × KV heads), tokens, positions, window, the positions; per head the float32 queries
// [positions][window][group][dim] and, for keys and then values, per block of attention.BlockTokens tokens float32 low[dim], step[dim] and codes [tokens][dim].
func (t *tap) save(path string, tokens int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	put := func(v any) { binary.Write(w, binary.LittleEndian, v) } //nolint:errcheck // bufio keeps the first error for Flush
	group := t.heads / t.kvHeads
	w.WriteString("TWLTCAP1") //nolint:errcheck // as above
	for _, n := range append([]int{t.dim, group, len(t.layers) * t.kvHeads, tokens, len(t.at), t.window}, t.at...) {
		put(uint32(n))
	}
	for i := range t.layers {
		for h := range t.kvHeads {
			for p := range len(t.at) * t.window {
				put(t.q[i][(p*t.heads+h*group)*t.dim:][:group*t.dim])
			}
			for _, x := range [][]float32{t.k[i], t.v[i]} {
				t.blocks(w, x, h, tokens)
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

func (t *tap) blocks(w *bufio.Writer, x []float32, head, tokens int) {
	row := func(i int) []float32 { return x[(i*t.kvHeads+head)*t.dim:][:t.dim] }
	codes := make([]byte, t.dim)
	for b := 0; b < tokens; b += attention.BlockTokens {
		end := min(tokens, b+attention.BlockTokens)
		low, step := slices.Clone(row(b)), slices.Clone(row(b))
		for i := b; i < end; i++ {
			for c, v := range row(i) {
				low[c], step[c] = min(low[c], v), max(step[c], v)
			}
		}
		for c := range step {
			step[c] = max((step[c]-low[c])/255, math.SmallestNonzeroFloat32)
		}
		binary.Write(w, binary.LittleEndian, low)  //nolint:errcheck // Flush tells
		binary.Write(w, binary.LittleEndian, step) //nolint:errcheck // as above
		for i := b; i < end; i++ {
			for c, v := range row(i) {
				codes[c] = byte(min(max((v-low[c])/step[c]+0.5, 0), 255))
			}
			w.Write(codes) //nolint:errcheck // as above
		}
	}
}
