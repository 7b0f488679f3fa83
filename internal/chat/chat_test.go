package chat

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/chat/jinja"
	"github.com/twilight-go/twilight/internal/testenv"
)

// conversations are those of testdata/conversations.json.
type conversations struct {
	Now   time.Time
	BOS   string
	EOS   string
	Tools []json.RawMessage
	Cases []struct {
		Name     string
		Generate bool
		Tools    bool
		Extra    map[string]any
		Messages []struct {
			Role      string
			Content   string
			Reasoning string `json:"reasoning_content"`
			Name      string
			CallID    string `json:"tool_call_id"`
			ToolCalls []struct {
				ID       string
				Function struct {
					Name      string
					Arguments json.RawMessage
				}
			} `json:"tool_calls"`
		}
	}
}

// rendering is what Jinja2 made of one template and conversation: a text, or an error.
type rendering struct {
	Text    string
	Raised  string // by the template itself
	Failure string // of Jinja2
}

func (r *rendering) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, &r.Text)
	}
	type plain rendering
	return json.Unmarshal(data, (*plain)(r))
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func loadConversations(t testing.TB) *conversations {
	c := &conversations{}
	readJSON(t, "conversations.json", c)
	return c
}

// input returns the i-th conversation.
func (c *conversations) input(i int) ([]Message, Options) {
	var messages []Message
	for _, m := range c.Cases[i].Messages {
		out := Message{Role: m.Role, Content: m.Content, Reasoning: m.Reasoning, Name: m.Name, CallID: m.CallID}
		for _, call := range m.ToolCalls {
			var arguments bytes.Buffer
			if err := json.Compact(&arguments, call.Function.Arguments); err != nil {
				panic(err) // it was decoded a moment ago
			}
			out.ToolCalls = append(out.ToolCalls, ToolCall{call.ID, call.Function.Name, arguments.String()})
		}
		messages = append(messages, out)
	}
	opt := Options{AddGenerationPrompt: c.Cases[i].Generate, Now: c.Now, Extra: c.Cases[i].Extra}
	if c.Cases[i].Tools {
		opt.Tools = c.Tools
	}
	return messages, opt
}

// beyond names the renderings that succeed here and failed in Jinja2, with the reason.
var beyond = map[string]string{
	"llama-cpp-deepseek-r1.jinja": "it writes what map returns as JSON: a list here, a generator there",
}

// Every template renders every conversation as Jinja2 does.
func TestTemplates(t *testing.T) {
	conv := loadConversations(t)
	var want map[string]struct {
		SHA256 string
		Texts  map[string]rendering
	}
	readJSON(t, "rendered.json", &want)
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			source := templateSource(t, name)
			if sum := sha256.Sum256([]byte(source)); hex.EncodeToString(sum[:]) != want[name].SHA256 {
				t.Fatalf("the template is not the one that was rendered: sha256 %x", sum)
			}
			tmpl, err := New(source, conv.BOS, conv.EOS)
			if err != nil {
				t.Fatal(err)
			}
			for i, c := range conv.Cases {
				messages, opt := conv.input(i)
				got, err := tmpl.Render(messages, opt)
				checkRendering(t, name, c.Name, want[name].Texts[c.Name], got, err)
			}
		})
	}
}

func checkRendering(t *testing.T, template, conversation string, want rendering, got string, err error) {
	t.Helper()
	var e *jinja.Error
	switch {
	case want.Raised != "":
		if !errors.As(err, &e) || !e.Raised || e.Err.Error() != want.Raised {
			t.Errorf("%s: %q, %v; expected the template to refuse with %q", conversation, got, err, want.Raised)
		}
	case want.Failure != "" && beyond[template] == "":
		if err == nil {
			t.Errorf("%s: %q; Jinja2 failed with %s", conversation, got, want.Failure)
		}
	case err != nil:
		t.Errorf("%s: %v", conversation, err)
	case want.Failure == "" && got != want.Text:
		t.Errorf("%s (-Jinja2 +here):\n%s", conversation, cmp.Diff(strings.SplitAfter(want.Text, "\n"), strings.SplitAfter(got, "\n")))
	}
}

// templateSource reads a template of the shared data, or of a model file.
func templateSource(t *testing.T, name string) string {
	t.Helper()
	model, isModel := strings.CutSuffix(name, ".gguf")
	if !isModel {
		data, err := os.ReadFile(testenv.Shared(t, "templates", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	f, err := gguf.Open(testenv.Model(t, model))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	source, err := f.String("tokenizer.chat_template")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Clone(source) // the file's bytes end with it
}

// The built-in template is ChatML, and says that it is not the model's own.
func TestDefault(t *testing.T) {
	for _, source := range []string{"", Default} {
		tmpl, err := New(source, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if !tmpl.Fallback {
			t.Errorf("New(%q) does not say that the template is a fallback", source)
		}
		conversation := []Message{{Role: "system", Content: "Be brief."}, {Role: "user", Content: " Hi "}}
		open := "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
		for generate, want := range map[bool]string{false: open, true: open + "<|im_start|>assistant\n"} {
			if got, err := tmpl.Render(conversation, Options{AddGenerationPrompt: generate}); err != nil || got != want {
				t.Errorf("generation prompt %v: %q, %v; expected %q", generate, got, err, want)
			}
		}
	}
	if tmpl, err := New("{{ messages }}", "", ""); err != nil || tmpl.Fallback {
		t.Errorf("a model's own template counts as a fallback (%v)", err)
	}
}

// A hostile template costs an error, whatever the arrangement; a damaged tool or variable too.
func TestRenderErrors(t *testing.T) {
	conversation := []Message{{Role: "user", Content: "Hi", ToolCalls: []ToolCall{{Name: "f", Arguments: "not JSON"}}}}
	for _, c := range []struct {
		source string
		opt    Options
		want   string
	}{
		{"{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", Options{}, "limit exceeded"},
		{"{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f('xxxx') }}", Options{}, "limit exceeded"},
		{"{{ 1 + 'a' }}", Options{}, "line 1"},
		{"\n\n{% if messages|nosuch %}{% endif %}", Options{}, "line 3: no filter named \"nosuch\""},
		{"{{ raise_exception('no ' ~ messages[0].content) }}", Options{}, "chat: template: no Hi"},
		{"ok", Options{Tools: []json.RawMessage{[]byte("{")}}, "tool 0: json"},
		{"ok", Options{Extra: map[string]any{"x": func() {}}}, `variable "x"`},
		{"ok", Options{Limits: jinja.Limits{Output: 1}}, "bytes of output"},
	} {
		tmpl, err := New(c.source, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tmpl.Render(conversation, c.opt); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v; expected an error about %q", c.source, got, err, c.want)
		}
	}
	for _, source := range []string{"{% if %}", "{{ x", "{% for %}", "{% include 'x' %}", "{% extends 'x' %}", strings.Repeat("x", 1<<20)} {
		if _, err := New(source, "", ""); err == nil {
			t.Errorf("%.20s parses", source)
		}
	}
	tmpl, err := New("{{ messages[0].tool_calls[0].function.arguments }}", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tmpl.Render(conversation, Options{}); err != nil || got != "not JSON" {
		t.Errorf("arguments that are no JSON: %q, %v", got, err)
	}
}

// A long conversation passes within the default limits, and what it costs grows with its length, not with its square.
func TestRenderLong(t *testing.T) {
	conv := loadConversations(t)
	source := templateSource(t, "Qwen-Qwen3-0.6B.jinja")
	tmpl, err := New(source, conv.BOS, conv.EOS)
	if err != nil {
		t.Fatal(err)
	}
	var messages []Message
	for range 4000 {
		messages = append(messages, Message{Role: "user", Content: strings.Repeat("word ", 200)}, Message{Role: "assistant", Content: "<think>\nhm\n</think>\n\n" + strings.Repeat("answer ", 100)})
	}
	messages = append(messages, Message{Role: "user", Content: strings.Repeat("long ", 1_000_000)})
	text, err := tmpl.Render(messages, Options{AddGenerationPrompt: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := 4000*200*5 + 4000*100*7 + 5_000_000; len(text) < want {
		t.Errorf("%d bytes, expected at least %d", len(text), want)
	}
}

// Whatever a template's source, a conversation with tools ends in a text or an error. The templates of the shared data are the seeds, where they are.
func FuzzTemplate(f *testing.F) {
	f.Add(Default)
	seeds, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "data", "templates", "*.jinja"))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range seeds {
		source, err := os.ReadFile(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(source))
	}
	conv := loadConversations(f)
	var messages []Message
	var opt Options
	for i, c := range conv.Cases {
		if c.Name == "tool-answer" {
			messages, opt = conv.input(i)
		}
	}
	opt.Limits = jinja.Limits{Steps: 50_000, Memory: 4 << 20, Output: 1 << 18, Depth: 500}
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := New(source, conv.BOS, conv.EOS)
		if err != nil {
			return
		}
		start := time.Now()
		text, err := tmpl.Render(messages, opt)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		var e *jinja.Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("error of type %T: %v", err, err)
		}
		if len(text) > opt.Limits.Output {
			t.Errorf("%d bytes of output, limit %d", len(text), opt.Limits.Output)
		}
	})
}
