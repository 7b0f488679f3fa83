package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
)

// vars are what the texts of flags mention.
func vars() kong.Vars {
	return kong.Vars{"model": twilight.DefaultModel, "system": defaultSystem, "devices": strings.Join(twilight.Devices, ",")}
}

// deviceFlags say which model runs on what.
type deviceFlags struct {
	Model   string `short:"m" default:"${model}" placeholder:"NAME" help:"A name that 'twilight list' shows, the path of a GGUF file or of a checkpoint folder, or hf:OWNER/REPO/FILE (${default})."`
	Device  string `enum:"${devices}" default:"cpu" placeholder:"NAME" help:"What computes: cpu; cuda, an NVIDIA GPU; or reference, which is plain Go and slow (${default})."`
	Threads int    `short:"t" placeholder:"N" help:"Threads; 0: one a processor."`
}

// Validate reports values out of range.
func (f *deviceFlags) Validate() error {
	if f.Threads < 0 || f.Threads > 1024 {
		return fmt.Errorf("--threads=%d: expected 0 to 1024", f.Threads)
	}
	return nil
}

// gpuFlags say where a GPU keeps the cache and how much of its memory is taken.
type gpuFlags struct {
	KVOffload bool     `name:"kv-offload" help:"With --device=cuda: keep exact keys and values in host memory, for contexts beyond the GPU's own."`
	GPUMemory byteSize `name:"gpu-memory" placeholder:"SIZE" help:"With --device=cuda: take at most so much of the GPU's memory, such as 4GiB or 500MB; left out: what is free."`
}

func (f *gpuFlags) check(device string) error {
	if f.KVOffload && device != "cuda" {
		return fmt.Errorf("--kv-offload goes with --device=cuda, not %s", device)
	}
	if f.GPUMemory > 0 && device != "cuda" {
		return fmt.Errorf("--gpu-memory goes with --device=cuda, not %s", device)
	}
	return nil
}

// byteSize is a number of bytes, typed as a number with or without a unit.
type byteSize int64

// UnmarshalText implements encoding.TextUnmarshaler for the parser.
func (n *byteSize) UnmarshalText(b []byte) error {
	digits := strings.TrimRight(string(b), "kKMGTiB")
	unit, known := map[string]float64{"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[string(b[len(digits):])]
	x, err := strconv.ParseFloat(digits, 64)
	if x *= unit; err != nil || !known || !(x >= 1 && x < 1<<62) {
		return fmt.Errorf("%q: expected a size such as 4GiB, 500MB or a number of bytes", b)
	}
	*n = byteSize(x)
	return nil
}

// modelFlags are shared by every command that opens a model.
type modelFlags struct {
	deviceFlags
	gpuFlags
	Ctx       int `short:"c" placeholder:"N" help:"Tokens of the longest text; 0: what the model was trained for."`
	BatchRows int `placeholder:"N" help:"Tokens of a prompt that are read in one step; 0: 512, or as many as suit the GPU."`
}

// Validate reports values out of range.
func (f *modelFlags) Validate() error {
	if err := f.deviceFlags.Validate(); err != nil {
		return err
	}
	if err := f.gpuFlags.check(f.Device); err != nil {
		return err
	}
	if f.Ctx < 0 {
		return fmt.Errorf("--ctx=%d: expected a number of tokens", f.Ctx)
	}
	if f.BatchRows < 0 || f.BatchRows > 1<<16 {
		return fmt.Errorf("--batch-rows=%d: expected 1 to %d", f.BatchRows, 1<<16)
	}
	return nil
}

func (f *modelFlags) options() twilight.Options {
	return twilight.Options{Device: f.Device, Threads: f.Threads, Context: f.Ctx, BatchRows: f.BatchRows, KVOffload: f.KVOffload, GPUMemory: int64(f.GPUMemory)}
}

// systemFlag is the system message.
type systemFlag struct {
	System *string `short:"s" placeholder:"TEXT" help:"The system message (${system}); empty: what the chat template says by itself."`
}

// defaultSystem is plainer than what many templates say by themselves, and small models answer better under it than under a message about their maker.
const defaultSystem = "You are a helpful AI assistant."

// system is the conversation's beginning: empty for a template that takes no system message, unless one was asked for.
func (f *systemFlag) system(m *twilight.Model) []twilight.Message {
	text := defaultSystem
	if f.System != nil {
		text = *f.System
	}
	if text == "" {
		return nil
	}
	begin := []twilight.Message{{Role: "system", Content: text}}
	if f.System == nil {
		if _, err := m.EncodeChat(append(begin, twilight.Message{Role: "user", Content: "x"})); err != nil {
			return nil
		}
	}
	return begin
}

// spec is an attention spec, checked as it is read.
type spec string

// UnmarshalText implements encoding.TextUnmarshaler for the parser.
func (s *spec) UnmarshalText(b []byte) error {
	*s = spec(b)
	_, err := attention.Parse(string(b))
	return err
}

// attentionFlag is for commands that decode by one spec; specsFlag for those that compare several.
type attentionFlag struct {
	Attention spec `short:"a" default:"twilight" placeholder:"SPEC" help:"Attention: a preset or selector+estimator+pruner, see 'twilight list --methods' (${default})."`
}

type specsFlag struct {
	Attention []spec `short:"a" aliases:"spec" sep:"none" placeholder:"SPEC" help:"Attention to measure; repeat it to compare. See 'twilight list --methods' (all presets)."`
}

// specs are those given, without repetition, or the presets.
func (f *specsFlag) specs() (out []string) {
	if len(f.Attention) == 0 {
		for _, p := range attention.Presets {
			out = append(out, p.Name)
		}
	}
	seen := map[spec]bool{}
	for _, s := range f.Attention {
		if !seen[s] {
			out = append(out, string(s))
		}
		seen[s] = true
	}
	return out
}

// samplingFlags say how tokens are drawn.
type samplingFlags struct {
	Temp             float64  `placeholder:"N" help:"Temperature; 0: greedy, the same answer every time."`
	TopK             int      `placeholder:"N" help:"Draw from the K most likely tokens; 0: all."`
	TopP             float64  `default:"1" placeholder:"N" help:"Draw from the fewest tokens with this share of the probability."`
	MinP             float64  `placeholder:"N" help:"Leave out tokens less likely than this share of the most likely one's."`
	RepeatPenalty    float64  `default:"1" placeholder:"N" help:"Divide logits of recent tokens by this; 1: off."`
	PresencePenalty  float64  `placeholder:"N" help:"Subtract this from logits of recent tokens, once."`
	FrequencyPenalty float64  `placeholder:"N" help:"Subtract this from logits of recent tokens, for each time they occurred."`
	Seed             *uint64  `placeholder:"N" help:"Of the draw, with --temp above 0; left out, another one every time."`
	Stop             []string `sep:"none" placeholder:"TEXT" help:"End the answer before this text; may be repeated."`
	MaxTokens        int      `default:"1024" placeholder:"N" help:"Tokens of an answer at most; 0: until the model ends it or the context is full (${default})."`
}

// Validate reports values out of range.
func (f *samplingFlags) Validate() error {
	if f.MaxTokens < 0 {
		return fmt.Errorf("--max-tokens=%d: expected a number of tokens, or 0", f.MaxTokens)
	}
	return f.sampling().Check()
}

func (f *samplingFlags) sampling() twilight.Sampling {
	s := twilight.Sampling{Temperature: f.Temp, TopK: f.TopK, TopP: f.TopP, MinP: f.MinP, Repetition: f.RepeatPenalty, Presence: f.PresencePenalty, Frequency: f.FrequencyPenalty}
	if f.Seed != nil {
		s.Seed = *f.Seed
	} else if f.Temp > 0 {
		s.Seed = uint64(rand.Uint32()) // short enough to be typed again
	}
	return s
}
