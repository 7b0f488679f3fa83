package safetensors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/bits"
)

// scanner reads the header's JSON in place. The header is a small subset of JSON: objects, strings, and arrays of whole
// numbers; a general parser would copy it all, and let a name stand twice.
type scanner struct {
	file    string
	data    []byte
	at, end uint64 // the next byte, and the end of the header
}

// field is what is being read. It becomes text only when something is wrong with it.
type field struct {
	what string
	name []byte // of the tensor that it belongs to, if known
}

func (f field) String() string {
	const most = 100 // a name must not make a message longer than a line
	switch {
	case f.name == nil:
		return f.what
	case len(f.name) > most:
		return fmt.Sprintf("%s %q...", f.what, f.name[:most])
	}
	return fmt.Sprintf("%s %q", f.what, f.name)
}

func (s *scanner) fail(at uint64, f field, format string, args ...any) error {
	return &FormatError{File: s.file, Field: f.String(), Offset: at, Problem: fmt.Sprintf(format, args...)}
}

// peek is the next byte that is not white space; 0, which no JSON has there, at the end.
func (s *scanner) peek() byte {
	for ; s.at < s.end; s.at++ {
		switch c := s.data[s.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// expect passes over the byte c, and white space before it.
func (s *scanner) expect(c byte, f field) error {
	found := s.peek()
	if s.at >= s.end {
		return s.fail(s.at, f, "the header ends, expected %q", c)
	}
	if found != c {
		return s.fail(s.at, f, "found %q, expected %q", found, c)
	}
	s.at++
	return nil
}

// list passes over what stands between the brackets open and close, separated by commas.
func (s *scanner) list(open, close byte, f field, each func(i int) error) error {
	if err := s.expect(open, f); err != nil {
		return err
	}
	if s.peek() == close {
		s.at++
		return nil
	}
	for i := 0; ; i++ {
		if err := each(i); err != nil {
			return err
		}
		if s.peek() != ',' {
			return s.expect(close, f)
		}
		s.at++
	}
}

// string passes over a string and returns it with its quotes, escapes checked but not resolved.
func (s *scanner) string(f field) ([]byte, error) {
	if err := s.expect('"', f); err != nil {
		return nil, err
	}
	start, escaped := s.at-1, false
	for ; s.at < s.end; s.at++ {
		switch c := s.data[s.at]; {
		case c == '"':
			s.at++
			raw := s.data[start:s.at]
			if escaped && !json.Valid(raw) {
				return nil, s.fail(start, f, "a string with a broken escape")
			}
			return raw, nil
		case c == '\\':
			escaped = true
			s.at++
		case c < ' ':
			return nil, s.fail(s.at, f, "found the control character %q in a string", c)
		}
	}
	s.at = s.end // an escape may have gone past it
	return nil, s.fail(start, f, "a string that does not end in the header")
}

// key passes over the key of an object and its colon. Keys are compared as they stand, so they may have no escapes.
func (s *scanner) key(f field) ([]byte, error) {
	raw, err := s.string(f)
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(raw, '\\') >= 0 {
		return nil, s.fail(s.at-uint64(len(raw)), f, "a name with an escape is not supported")
	}
	return raw[1 : len(raw)-1], s.expect(':', f)
}

// pair passes over a key and a string, and resolves them.
func (s *scanner) pair() (key, value string, err error) {
	k, err := s.key(field{what: "metadata key"})
	if err != nil {
		return "", "", err
	}
	raw, err := s.string(field{"metadata of key", k})
	if err != nil {
		return "", "", err
	}
	value, err = unquote(raw)
	return string(k), value, err
}

// integer passes over a whole number.
func (s *scanner) integer(f field) (n uint64, err error) {
	if c := s.peek(); c < '0' || c > '9' {
		return 0, s.fail(s.at, f, "found %q, expected a whole number", c)
	}
	start := s.at
	for ; s.at < s.end && s.data[s.at]-'0' <= 9; s.at++ {
		high, low := bits.Mul64(n, 10)
		sum, carry := bits.Add64(low, uint64(s.data[s.at]-'0'), 0)
		if high|carry != 0 {
			return 0, s.fail(start, f, "a number beyond 64 bits")
		}
		n = sum
	}
	if s.data[start] == '0' && s.at-start > 1 {
		return 0, s.fail(start, f, "a number that begins with 0")
	}
	return n, nil
}

// integers passes over an array of whole numbers.
func (s *scanner) integers(f field, each func(i int, n uint64) error) error {
	return s.list('[', ']', f, func(i int) error {
		n, err := s.integer(f)
		if err != nil {
			return err
		}
		return each(i, n)
	})
}
