// Package twilight runs open-weight language models over long contexts fast, because its attention reads only the tokens that matter: at every decode step, head and
// layer it keeps the fewest tokens that hold the wanted share of the attention mass (Twilight, arXiv 2502.02770).
//
//	m, err := twilight.Open(ctx, "smollm2-135m", twilight.Options{Attention: "twilight"})
//	if err != nil { … }
//	defer m.Close()
//	s, err := m.NewSession("")
//	if err != nil { … }
//	defer s.Close()
//	r, err := s.Chat(ctx, []twilight.Message{{Role: "user", Content: "What is the capital of France?"}}, twilight.Request{Emit: show})
package twilight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/catalog"
	"github.com/twilight-go/twilight/internal/chat"
	"github.com/twilight-go/twilight/internal/checkpoint"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/device/reference"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/tokenizer"
)

// DefaultModel is what the commands run when none is named.
const DefaultModel = "smollm2-135m"

// Devices are the names that Options.Device takes.
var Devices = []string{"cpu", "cuda", "reference"}

// Options say how a model is opened. The zero value runs it densely on every processor, with the context it was trained for.
type Options struct {
	// Attention is the spec that sessions use unless they name another; "" is "dense". See attention.Spec.
	Attention string
	// Also lists further specs that sessions may use: the cache keeps what each of them reads.
	Also      []string
	Device    string // one of Devices; "" is "cpu"
	KVOffload bool   // cuda: exact keys and values stay in host memory, and the GPU reads what it needs of them
	GPUMemory int64  // cuda: bytes of the GPU's memory that may be taken, as if it had no more; 0: all that is free
	Threads   int    // 0: one a processor
	Context   int    // tokens of the longest sequence; 0: what the model was trained for
	Sequences int    // sequences of that length at once; 0: 1
	Spare     int    // further cache blocks of attention.BlockTokens tokens, for forks that share most of theirs; negative: fewer, where not all sequences are that long
	Fit       bool   // the cache takes what memory there is where it is less than all these need: fewer such texts, or shorter ones, are then cached at once
	BatchRows int    // rows of the largest step, at least Sequences; 0: 512, on a GPU more as its memory allows
	ScoreRows int    // most tokens of one Session.Score, at least Sequences; 0: 64
	// Watch is shown the queries of prompts beside the cached keys, chunk by chunk, layer by layer, KV heads concurrently. May be nil.
	Watch func(*attention.Observation)
	// Progress is told of bytes, for a person: stage is "downloading", "verifying" or the like, and at last "loading"; total is 0 if unknown. May be nil.
	Progress func(stage string, done, total int64)
}

// Message is one turn of a conversation.
type Message = chat.Message

// Request is one generation; Result is what it did.
type (
	Request = engine.Request
	Result  = engine.Result
)

// Sampling says how tokens are drawn; the zero value is greedy.
type Sampling = engine.Sampling

// ErrContext is in the error of a prompt that does not fit the context.
var ErrContext = engine.ErrContext

// Model is an open model. Its sessions share it; one of them steps at a time.
type Model struct {
	file     checkpoint.File
	tok      *tokenizer.Tokenizer
	template *chat.Template
	dev      device.Device
	eng      *engine.Engine
	spec     string
	specs    map[string]*attention.Pipeline
	batch    []*engine.Session // scratch of StepBatch
}

// Open finds a model by catalog name, path or hf:OWNER/REPO/FILE, fetching it if need be, and loads it. A path is that of a GGUF file, or of an unquantised Hugging
// Face checkpoint: its folder, config.json or model.safetensors. Close the model when done.
func Open(ctx context.Context, name string, o Options) (_ *Model, err error) {
	m := &Model{spec: o.Attention, specs: map[string]*attention.Pipeline{}}
	if m.spec == "" {
		m.spec = "dense"
	}
	var pipes []*attention.Pipeline
	for _, s := range append([]string{m.spec}, o.Also...) {
		p, err := pipeline(s)
		if err != nil {
			return nil, err
		}
		m.specs[s] = p
		pipes = append(pipes, p)
	}
	if o.Watch != nil {
		pipes = append(pipes, attention.Watch(o.Watch))
	}
	progress := o.Progress
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	path, err := catalog.Resolve(ctx, name, catalog.Options{Progress: progress})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	file, meta, err := checkpoint.OpenFile(path)
	if err != nil {
		return nil, err
	}
	m.file = file
	if m.tok, err = tokenizer.FromGGUF(meta); err != nil {
		return nil, err
	}
	if m.template, err = loadTemplate(meta, m.tok); err != nil {
		return nil, err
	}
	dev, err := openDevice(o)
	if err != nil {
		return nil, err
	}
	m.dev = dev // not before: a failed device is a nil pointer in an interface, which is not nil
	size := m.file.Size()
	rows := o.BatchRows // 0 is the model's to fill in
	if rows > 0 {
		rows = max(rows, o.Sequences)
	}
	mod, err := model.Load(m.file, m.dev, model.Options{MaxRows: rows, MaxLogits: max(cmp.Or(o.ScoreRows, 64), o.Sequences), Progress: func(done int64) { progress("loading", done, size) }})
	if err != nil {
		return nil, err
	}
	if mod.Vocab < m.tok.VocabSize() {
		return nil, fmt.Errorf("twilight: %s: the tokenizer has %d tokens and the model %d: expected at least as many", path, m.tok.VocabSize(), mod.Vocab)
	}
	if pipes, err = m.resolve(mod, pipes); err != nil {
		return nil, err
	}
	m.eng, err = engine.New(mod, engine.Config{Context: o.Context, Sequences: o.Sequences, Spare: o.Spare, Fit: o.Fit, Pipelines: pipes})
	return m, err
}

// resolve measures where a pipeline leaves it to the machine from which length it is sparse.
func (m *Model) resolve(mod *model.Model, pipes []*attention.Pipeline) (out []*attention.Pipeline, _ error) {
	for _, p := range pipes {
		r, err := engine.Resolve(mod, p)
		if err != nil {
			return nil, err
		}
		for text, q := range m.specs {
			if q == p {
				m.specs[text] = r
			}
		}
		out = append(out, r)
	}
	return out, nil
}

func pipeline(spec string) (*attention.Pipeline, error) {
	s, err := attention.Parse(spec)
	if err != nil {
		return nil, err
	}
	return attention.New(s)
}

func openDevice(o Options) (device.Device, error) {
	if o.KVOffload && o.Device != "cuda" {
		return nil, fmt.Errorf("twilight: keys and values are kept beside the device, which %q has no memory apart for: expected cuda", o.Device)
	}
	if o.GPUMemory < 0 || o.GPUMemory > 0 && o.Device != "cuda" {
		return nil, fmt.Errorf("twilight: at most %d bytes of a GPU's memory on device %q: expected none or more, on cuda", o.GPUMemory, o.Device)
	}
	switch o.Device {
	case "", "cpu":
		return cpu.New(o.Threads)
	case "cuda":
		return openCUDA(o)
	case "reference":
		return reference.New(), nil
	}
	return nil, fmt.Errorf("twilight: unknown device %q; known: %s", o.Device, strings.Join(Devices, ", "))
}

func loadTemplate(f *gguf.File, tok *tokenizer.Tokenizer) (*chat.Template, error) {
	source, err := f.String("tokenizer.chat_template")
	if errors.Is(err, gguf.ErrNotFound) {
		source, err = "", nil
	}
	if err != nil {
		return nil, err
	}
	return chat.New(source, tok.Token(tok.BOS()), tok.Token(tok.EOS()))
}

// Close frees the model. Its sessions must not be used any more.
func (m *Model) Close() error {
	var errs []error
	if m.eng != nil {
		errs = append(errs, m.eng.Close())
	}
	if m.dev != nil {
		errs = append(errs, m.dev.Close())
	}
	if m.file != nil {
		errs = append(errs, m.file.Close())
	}
	return errors.Join(errs...)
}

// Tokenizer is the model's tokenizer.
func (m *Model) Tokenizer() *tokenizer.Tokenizer { return m.tok }

// Hyper is the model's hyper-parameters.
func (m *Model) Hyper() model.Hyper { return m.eng.Model().Hyper }

// Context is the longest sequence in tokens.
func (m *Model) Context() int { return m.eng.Context() }

// Room is how many texts of so many tokens the device has room for beside the weights, with what all specs of the model keep of them; 0: unknown.
func (m *Model) Room(tokens int) int {
	return m.eng.Room() / attention.BlocksOf(tokens)
}

// Device describes what the model runs on.
func (m *Model) Device() string { return m.dev.Name() + " (" + m.dev.Description() + ")" }

// Fingerprint identifies the model's file: its size, its header and some of its bytes.
func (m *Model) Fingerprint() [32]byte { return m.eng.Model().Fingerprint() }

// Encode turns text into tokens, with the special tokens that the model expects at the start of a text.
func (m *Model) Encode(text string) []int32 {
	return m.tok.Encode(text, tokenizer.EncodeOptions{AddSpecial: true})
}

// Head is the text of the first n tokens of a text, all of it for n = 0, and how many tokens the text has.
func (m *Model) Head(text string, n int) (head string, tokens int) {
	ids := m.tok.Encode(text, tokenizer.EncodeOptions{})
	if n == 0 || n >= len(ids) {
		return text, len(ids)
	}
	return strings.ToValidUTF8(m.tok.Decode(ids[:n], tokenizer.DecodeOptions{Special: true, TrimPrefix: true}), ""), len(ids)
}

// EncodeChat renders a conversation by the model's chat template, ready for the assistant's turn, with exactly one BOS where the model uses one.
func (m *Model) EncodeChat(messages []Message) ([]int32, error) {
	text, err := m.template.Render(messages, chat.Options{AddGenerationPrompt: true})
	if err != nil {
		return nil, fmt.Errorf("twilight: rendering the chat template: %w", err)
	}
	return chat.Encode(m.tok, text), nil
}

// SplitChat renders a conversation in which cut stands once, and returns the tokens of what comes before it and of what comes after: how a chat template is filled around a text that is cached
// already, or will be. Each part is encoded by itself.
func (m *Model) SplitChat(messages []Message, cut string) (head, tail []int32, err error) {
	text, err := m.template.Render(messages, chat.Options{AddGenerationPrompt: true})
	if err != nil {
		return nil, nil, fmt.Errorf("twilight: rendering the chat template: %w", err)
	}
	if n := strings.Count(text, cut); n != 1 {
		return nil, nil, fmt.Errorf("twilight: the rendered conversation has %q %d times, expected once", cut, n)
	}
	before, after, _ := strings.Cut(text, cut)
	return chat.Encode(m.tok, before), m.tok.Encode(after, tokenizer.EncodeOptions{ParseSpecial: true}), nil
}

// Session is one text, read and written in turns. Not safe for concurrent use.
type Session struct {
	*engine.Session
	m *Model
}

// NewSession starts an empty text that decodes by spec: the model's Options.Attention if "", or one of Options.Also.
func (m *Model) NewSession(spec string) (*Session, error) {
	p, err := m.pipeline(spec)
	if err != nil {
		return nil, err
	}
	return &Session{m.eng.NewSession(p), m}, nil
}

// Model is what the session runs.
func (s *Session) Model() *Model { return s.m }

// StepBatch decodes tokens[i] in sessions[i], all in one step, which reads the weights once: several texts together cost little more than one. It returns the logits
// after each, [len(sessions)][Vocab], valid until the model's next step. Each session gets what a Step of its own would give it. An error names the session by
// its place, and then none has changed.
func (m *Model) StepBatch(sessions []*Session, tokens []int32) ([]float32, error) {
	m.batch = m.batch[:0]
	for _, s := range sessions {
		m.batch = append(m.batch, s.Session)
	}
	return m.eng.StepBatch(m.batch, tokens)
}

// NextBatch is StepBatch that sets next[i] to the most likely token after tokens[i] instead of returning logits, which a GPU then need not hand over.
func (m *Model) NextBatch(sessions []*Session, tokens, next []int32) error {
	m.batch = m.batch[:0]
	for _, s := range sessions {
		m.batch = append(m.batch, s.Session)
	}
	return m.eng.NextBatch(m.batch, tokens, next)
}

// Copy starts a session with the first n tokens of the text that shares nothing with s, unlike a Fork: for measurements.
func (s *Session) Copy(n int, spec string) (*Session, error) {
	p, err := s.m.pipeline(spec)
	if err != nil {
		return nil, err
	}
	c, err := s.Session.Copy(n, p)
	if err != nil {
		return nil, err
	}
	return &Session{c, s.m}, nil
}

// Fork starts a session with the same text, sharing what is cached, that decodes by spec.
func (s *Session) Fork(spec string) (*Session, error) {
	p, err := s.m.pipeline(spec)
	if err != nil {
		return nil, err
	}
	return &Session{s.Session.Fork(p), s.m}, nil
}

func (m *Model) pipeline(spec string) (*attention.Pipeline, error) {
	if spec == "" {
		spec = m.spec
	}
	if p, ok := m.specs[spec]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("twilight: the model was opened without attention %q; name it in Options.Also", spec)
}

// Generate continues the tokens of r.Prompt; what the session has cached of them is reused.
func (s *Session) Generate(ctx context.Context, r Request) (Result, error) {
	return s.Session.Generate(ctx, s.m.tok, r)
}

// Chat answers a conversation: Generate with the prompt that EncodeChat makes of it.
func (s *Session) Chat(ctx context.Context, messages []Message, r Request) (Result, error) {
	var err error
	if r.Prompt, err = s.m.EncodeChat(messages); err != nil {
		return Result{}, err
	}
	return s.Generate(ctx, r)
}
