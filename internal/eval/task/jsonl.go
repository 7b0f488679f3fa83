package task

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// The bounds of a file of samples: a line and the whole, decompressed.
const (
	maxLine = 32 << 20
	maxFile = 1 << 30
	maxRows = 1 << 20
)

// ReadJSONL reads a file of JSON values, one a line, plain or compressed with gzip. check looks at each row, and its error is returned with the line's number.
func ReadJSONL[T any](path string, check func(*T) error) ([]T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("eval: %w", err)
	}
	defer f.Close()
	rows, err := DecodeJSONL(f, check)
	if err != nil {
		return nil, fmt.Errorf("eval: %s: %w", path, err)
	}
	return rows, nil
}

// DecodeJSONL is ReadJSONL of what r gives.
func DecodeJSONL[T any](r io.Reader, check func(*T) error) ([]T, error) {
	in := bufio.NewReaderSize(r, 1<<16)
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		in = bufio.NewReaderSize(z, 1<<16)
	}
	var rows []T
	var total int64
	for number := 1; ; number++ {
		line, err := readLine(in)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if total += int64(len(line)); total > maxFile {
			return nil, fmt.Errorf("line %d: more than %d bytes in all", number, maxFile)
		}
		if text := bytes.TrimSpace(line); len(text) > 0 {
			if len(rows) == maxRows {
				return nil, fmt.Errorf("line %d: more than %d rows", number, maxRows)
			}
			var row T
			if err := json.Unmarshal(text, &row); err != nil {
				return nil, fmt.Errorf("line %d: %w", number, err)
			}
			if err := check(&row); err != nil {
				return nil, fmt.Errorf("line %d: %w", number, err)
			}
			rows = append(rows, row)
		}
		if err == io.EOF {
			break
		}
	}
	if len(rows) == 0 {
		return nil, errors.New("no rows")
	}
	return rows, nil
}

// readLine reads up to and with the next newline, or to the end with io.EOF.
func readLine(in *bufio.Reader) (line []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		}
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}
