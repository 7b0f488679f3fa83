package chat

import (
	"slices"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/testenv"
	"github.com/twilight-go/twilight/tokenizer"
)

// A letters tokenizer has one token a byte; 's' is its BOS.
type letters struct {
	bos int32
	add bool
}

func (l letters) BOS() int32   { return l.bos }
func (l letters) AddBOS() bool { return l.add }

func (l letters) Encode(text string, o tokenizer.EncodeOptions) []int32 {
	if o.AddSpecial || !o.ParseSpecial {
		panic("a chat is encoded with the special tokens that stand in it, and no others")
	}
	ids := make([]int32, len(text))
	for i := range ids {
		ids[i] = int32(text[i])
	}
	return ids
}

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		text string
		bos  int32
		add  bool
		want string
	}{
		{"abc", 's', true, "sabc"},
		{"abc", 's', false, "abc"},
		{"sabc", 's', true, "sabc"},
		{"sabc", 's', false, "sabc"},
		{"ssabc", 's', true, "sabc"},
		{"sssasbs", 's', false, "sasbs"},
		{"", 's', true, "s"},
		{"", 's', false, ""},
		{"ss", 's', true, "s"},
		{"ssabc", tokenizer.None, true, "ssabc"},
	} {
		var want []int32
		for _, b := range []byte(c.want) {
			want = append(want, int32(b))
		}
		if got := Encode(letters{c.bos, c.add}, c.text); !slices.Equal(got, want) {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// With every model of the catalog, whatever its template says, a conversation has one BOS where the model uses one and none elsewhere.
func TestOneBOS(t *testing.T) {
	for model, want := range map[string]int{"smollm2-135m": 1, "gemma3-270m": 1, "qwen2.5-coder-0.5b": 0} {
		t.Run(model, func(t *testing.T) {
			f, err := gguf.Open(testenv.Model(t, model))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			tok, err := tokenizer.FromGGUF(f)
			if err != nil {
				t.Fatal(err)
			}
			own, _ := f.String("tokenizer.chat_template") // gemma3's base model has none
			for _, source := range []string{own, Default, "{{ bos_token }}" + Default} {
				tmpl, err := New(source, tok.Token(tok.BOS()), tok.Token(tok.EOS()))
				if err != nil {
					t.Fatal(err)
				}
				text, err := tmpl.Render([]Message{{Role: "user", Content: "Hi"}}, Options{AddGenerationPrompt: true})
				if err != nil {
					t.Fatal(err)
				}
				ids := Encode(tok, text)
				bos := 0
				for _, id := range ids {
					if id == tok.BOS() {
						bos++
					}
				}
				expected := want
				if source != own && source != Default {
					expected = 1 // the template asks for it by name
				}
				if model == "smollm2-135m" && expected == 1 {
					// Its BOS is <|im_start|>, which also opens every turn; what counts is that none is doubled at the start.
					if len(ids) < 2 || ids[0] != tok.BOS() || ids[1] == tok.BOS() {
						t.Errorf("%.40q begins with %v", text, ids[:2])
					}
					continue
				}
				if bos != expected || expected == 1 && ids[0] != tok.BOS() {
					t.Errorf("%.40q has %d BOS tokens, expected %d: %v", text, bos, expected, ids)
				}
			}
		})
	}
}
