package safetensors

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

const (
	maxIndex  = 32 << 20 // bytes; some 300,000 tensors
	shardsKey = "weight_map"
	extension = ".safetensors"
)

// weight is an entry of an index: the file that a tensor lies in.
type weight struct{ tensor, file string }

// parseIndex reads the weight map of an index, in its order; the rest of the index is passed over.
func parseIndex(name string, data []byte) ([]weight, error) {
	s := scanner{file: name, data: data, end: uint64(len(data))}
	whole := field{what: "index"}
	switch {
	case len(data) > maxIndex:
		return nil, s.fail(0, whole, "%d bytes, expected at most %d", len(data), maxIndex)
	case !utf8.Valid(data) || !json.Valid(data):
		return nil, s.fail(0, whole, "the text is not valid JSON")
	}
	var out []weight
	found := false
	err := s.list('{', '}', whole, func(int) error {
		s.peek()
		start := s.at
		key, err := s.key(whole)
		if err != nil || string(key) != shardsKey {
			s.skip()
			return err
		}
		if found {
			return s.fail(start, field{what: shardsKey}, "it stands twice")
		}
		found = true
		return s.list('{', '}', field{what: shardsKey}, func(int) error {
			w, err := s.weight()
			out = append(out, w)
			return err
		})
	})
	if err == nil && len(out) == 0 {
		err = s.fail(0, whole, "found no tensors in its %s", shardsKey)
	}
	return out, err
}

// weight passes over an entry of the weight map. The name of a shard must be plain: an index never leads out of its folder.
func (s *scanner) weight() (weight, error) {
	key, err := s.key(field{what: shardsKey})
	if err != nil {
		return weight{}, err
	}
	f := field{"file of tensor", key}
	s.peek()
	start := s.at
	raw, err := s.string(f)
	if err != nil {
		return weight{}, err
	}
	file, err := unquote(raw)
	if err != nil || !filepath.IsLocal(file) || strings.ContainsAny(file, `/\:`) || !strings.HasSuffix(file, extension) {
		return weight{}, s.fail(start, f, "found %.100q, expected the name of a %s file in the same folder", file, extension)
	}
	return weight{string(key), file}, nil
}

// skip passes over one value of JSON that is known to be valid.
func (s *scanner) skip() {
	for depth := 0; ; {
		switch s.peek() {
		case 0:
			return
		case '"':
			_, _ = s.string(field{}) // the whole text was found valid
		case '{', '[':
			depth++
			s.at++
		case '}', ']':
			depth--
			s.at++
		case ',', ':':
			s.at++
			continue
		default:
			for s.at < s.end && strings.IndexByte(" \t\r\n,]}", s.data[s.at]) < 0 {
				s.at++
			}
		}
		if depth == 0 {
			return
		}
	}
}
