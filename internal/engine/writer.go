package engine

import (
	"strings"

	"github.com/twilight-go/twilight/tokenizer"
)

// writer turns tokens into text for a reader: whole characters only, and nothing that may turn out to be a stop string's beginning.
type writer struct {
	dec     *tokenizer.Decoder
	stop    []string
	emit    func(string) error
	text    strings.Builder // what was emitted
	held    string
	stopped bool
}

func newWriter(tok *tokenizer.Tokenizer, stop []string, emit func(string) error) *writer {
	w := &writer{dec: tok.NewDecoder(tokenizer.DecodeOptions{}), emit: emit}
	for _, s := range stop {
		if s != "" {
			w.stop = append(w.stop, s)
		}
	}
	return w
}

func (w *writer) token(id int32) error { return w.add(w.dec.Next(id)) }

func (w *writer) add(piece string) error {
	w.held += piece
	end := -1
	for _, s := range w.stop {
		if i := strings.Index(w.held, s); i >= 0 && (end < 0 || i < end) {
			end = i
		}
	}
	if end >= 0 {
		w.stopped = true
		return w.put(end)
	}
	return w.put(len(w.held) - w.begun())
}

// begun is the length of the longest end of the held text that begins a stop string.
func (w *writer) begun() (longest int) {
	for _, s := range w.stop {
		for n := min(len(s)-1, len(w.held)); n > longest; n-- {
			if strings.HasSuffix(w.held, s[:n]) {
				longest = n
			}
		}
	}
	return longest
}

func (w *writer) put(n int) error {
	out := w.held[:n]
	w.held = w.held[n:]
	if out == "" {
		return nil
	}
	w.text.WriteString(out)
	if w.emit == nil {
		return nil
	}
	return w.emit(out)
}

// flush emits what was held back, unless the text was stopped.
func (w *writer) flush() error {
	if w.stopped {
		return nil
	}
	if err := w.add(w.dec.Flush()); err != nil {
		return err
	}
	if w.stopped {
		return nil
	}
	return w.put(len(w.held))
}
