// Package chat turns a conversation into the text that a model was trained to continue, with the chat template that its file carries.
package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/twilight-go/twilight/internal/chat/jinja"
)

// Default is the template, in the ChatML format, for models whose file carries none: what most models without a template of their own were trained on.
const Default = `{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`

// A Message is one turn of a conversation.
type Message struct {
	Role      string     // system, user, assistant or tool
	Content   string     // text
	Reasoning string     // of an assistant: what it thought before the content; templates that keep thoughts print it
	ToolCalls []ToolCall // of an assistant
	Name      string     // of a tool's answer: the tool
	CallID    string     // of a tool's answer: the call that it answers
}

// A ToolCall is a function that an assistant asks for.
type ToolCall struct {
	ID        string
	Name      string
	Arguments string // a JSON object, as text
}

// Options go with the conversation to the template.
type Options struct {
	AddGenerationPrompt bool              // end with the opening of the assistant's turn
	Tools               []json.RawMessage // {"type":"function","function":{...}} each; the order of keys is kept
	Now                 time.Time         // what templates take for today; the zero value means time.Now()
	Extra               map[string]any    // further variables that some templates know, such as enable_thinking
	Limits              jinja.Limits      // of the rendering; zero fields grow with the conversation, see Render
}

// A Template is a model's chat template. It may be used by several goroutines at once.
type Template struct {
	Fallback bool // the model has no template of its own: this is Default

	tmpl     *jinja.Template
	bos, eos string
}

// New parses a chat template: tokenizer.chat_template of a GGUF file, chat_template of a tokenizer_config.json. An empty source means that the model has none, and
// gives Default with Fallback set. bos and eos are the texts of those tokens, which templates name; "" where the tokenizer has none.
func New(source, bos, eos string) (*Template, error) {
	t := &Template{bos: bos, eos: eos}
	if source == "" || source == Default {
		source, t.Fallback = Default, true
	}
	var err error
	if t.tmpl, err = jinja.Parse(source); err != nil {
		return nil, fmt.Errorf("chat: template: %w", err)
	}
	return t, nil
}

// An arrangement is a way to present a conversation where templates differ in what they expect.
type arrangement struct {
	emptyTools    bool // no tools are an empty list, not None
	textArguments bool // arguments of tool calls are JSON text, not an object
}

// arrangements, in the order in which they are tried; the first one is that of the transformers library.
var arrangements = []arrangement{{}, {textArguments: true}, {emptyTools: true}, {emptyTools: true, textArguments: true}}

// Render returns the text of a conversation. A template that fails on what it is given is tried with the other arrangements of tools that are in use. A template
// that refuses the conversation, by its own raise_exception, gives an error with Raised set (errors.As, *jinja.Error); the message is the template's.
//
// A rendering is bounded by Options.Limits. Left at zero, memory and steps grow with the size of the conversation, so that long contexts pass and an
// endless template still fails within seconds.
func (t *Template) Render(messages []Message, opt Options) (string, error) {
	size := inputSize(messages, opt)
	limits := opt.Limits
	if limits.Steps == 0 {
		limits.Steps = 5_000_000 + int64(size) + 5_000*int64(len(messages))
	}
	if limits.Memory == 0 {
		limits.Memory = 64<<20 + 64*int64(size)
	}
	if limits.Output == 0 {
		limits.Output = 4<<20 + 4*size
	}
	if opt.Now.IsZero() {
		opt.Now = time.Now()
	}
	var first error
	for _, a := range arrangements {
		vars, err := t.vars(messages, opt, a)
		if err != nil {
			return "", fmt.Errorf("chat: %w", err)
		}
		text, err := t.tmpl.Render(jinja.Env{Vars: vars, Now: opt.Now, Limits: limits})
		if err == nil {
			return text, nil
		}
		var e *jinja.Error
		if errors.As(err, &e) && e.Raised || errors.Is(err, jinja.ErrLimit) {
			return "", fmt.Errorf("chat: template: %w", err)
		}
		if first == nil {
			first = err
		}
	}
	return "", fmt.Errorf("chat: template: %w", first)
}

func inputSize(messages []Message, opt Options) int {
	n := 0
	for i := range messages {
		m := &messages[i]
		n += len(m.Content) + len(m.Reasoning) + 256
		for j := range m.ToolCalls {
			n += len(m.ToolCalls[j].Arguments) + 256
		}
	}
	for _, tool := range opt.Tools {
		n += 4 * len(tool)
	}
	return n
}

// vars returns what the template sees. Each rendering gets its own values, because templates may change them.
func (t *Template) vars(messages []Message, opt Options, a arrangement) (map[string]jinja.Value, error) {
	vars := map[string]jinja.Value{
		"add_generation_prompt": opt.AddGenerationPrompt,
		"documents":             jinja.None,
		"bos_token":             t.bos,
		"eos_token":             t.eos,
		"tools":                 jinja.None,
	}
	if len(opt.Tools) > 0 || a.emptyTools {
		tools := jinja.NewList()
		for i, tool := range opt.Tools {
			v, err := jinja.FromJSON(tool)
			if err != nil {
				return nil, fmt.Errorf("tool %d: %w", i, err)
			}
			tools.Items = append(tools.Items, v)
		}
		vars["tools"] = tools
	}
	for name, x := range opt.Extra {
		v, err := jinja.FromGo(x)
		if err != nil {
			return nil, fmt.Errorf("variable %q: %w", name, err)
		}
		vars[name] = v
	}
	list := jinja.NewList()
	for i := range messages {
		list.Items = append(list.Items, messages[i].value(a))
	}
	vars["messages"] = list
	return vars, nil
}

// value returns a message as templates know it, with the entries that it has.
func (m *Message) value(a arrangement) *jinja.Dict {
	d := jinja.NewDict()
	d.Set("role", m.Role)
	d.Set("content", m.Content)
	if m.Reasoning != "" {
		d.Set("reasoning_content", m.Reasoning)
	}
	if len(m.ToolCalls) > 0 {
		calls := jinja.NewList()
		for _, c := range m.ToolCalls {
			calls.Items = append(calls.Items, c.value(a))
		}
		d.Set("tool_calls", calls)
	}
	if m.Name != "" {
		d.Set("name", m.Name)
	}
	if m.CallID != "" {
		d.Set("tool_call_id", m.CallID)
	}
	return d
}

func (c *ToolCall) value(a arrangement) *jinja.Dict {
	f := jinja.NewDict()
	f.Set("name", c.Name)
	f.Set("arguments", c.Arguments)
	if !a.textArguments {
		// What is not JSON stays text: the template may print it.
		if v, err := jinja.FromJSON([]byte(c.Arguments)); err == nil {
			f.Set("arguments", v)
		}
	}
	d := jinja.NewDict()
	if c.ID != "" {
		d.Set("id", c.ID)
	}
	d.Set("type", "function")
	d.Set("function", f)
	return d
}
