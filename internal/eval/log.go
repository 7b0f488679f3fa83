package eval

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Log is a file of rows that grows as results come. What stands in it is not computed again, so a run that was stopped goes on where it was. Not safe for concurrent use.
type Log struct {
	file *os.File // nil: rows are kept in memory alone
	rows []Row
	have map[key]int // place in rows
	torn error       // of a write that failed: what follows would stand behind half a line
}

// key says what a row is a result of: rows with equal keys are of the same question to the same model.
type key struct {
	kind, task, sample, spec, fingerprint, device, promptDevice, prompt string
	size, scored                                                        int
	seed                                                                uint64
	measured                                                            bool
}

func (r *Row) key() key {
	return key{kind: r.Kind, task: r.Task, sample: r.Sample, spec: r.Spec, fingerprint: r.Fingerprint, device: deviceName(r.Device), promptDevice: deviceName(r.PromptDevice), prompt: r.Prompt, size: r.Size, scored: r.Scored, seed: r.Seed,
		measured: r.Measured}
}

// deviceName is the name before the description in parentheses: another machine's results of the same kind of device stand for this one's.
func deviceName(device string) string {
	name, _, _ := strings.Cut(device, " (")
	return name
}

// OpenLog opens or makes the file of an evaluation, and reads what stands in it; a last line that was torn when a run was stopped is cut off. A file that holds something
// else is ErrRow, and is left as it was. An empty path keeps rows in memory alone. Close it when done.
func OpenLog(path string) (_ *Log, err error) {
	l := &Log{have: map[key]int{}}
	if path == "" {
		return l, nil
	}
	if err := l.read(path); err != nil {
		return nil, fmt.Errorf("eval: reading %s: %w", path, err)
	}
	if l.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666); err != nil {
		return nil, fmt.Errorf("eval: opening the file of results: %w", err)
	}
	return l, nil
}

// read takes what stands in a file, and cuts off what was torn.
func (l *Log) read(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rows, whole, err := readRows(f)
	info, infoErr := f.Stat()
	if err = errors.Join(err, infoErr, f.Close()); err != nil {
		return err
	}
	for i := range rows {
		l.add(&rows[i])
	}
	if info.Size() > whole {
		return os.Truncate(path, whole)
	}
	return nil
}

func (l *Log) add(r *Row) {
	if _, ok := l.have[r.key()]; !ok {
		l.have[r.key()] = len(l.rows)
		l.rows = append(l.rows, *r)
	}
}

// Distinct leaves of rows that stand for the same question and spec the first, as a Log does: for files that are read together.
func Distinct(rows []Row) []Row {
	l := Log{have: map[key]int{}}
	for i := range rows {
		l.add(&rows[i])
	}
	return l.rows
}

// Find returns the row that stands for the same question, or nil. r needs only what identifies it.
func (l *Log) Find(r *Row) *Row {
	if i, ok := l.have[r.key()]; ok {
		return &l.rows[i]
	}
	return nil
}

// Append writes a row and waits until the disk has it.
func (l *Log) Append(r *Row) error {
	if err := cmp.Or(l.torn, r.check()); err != nil {
		return fmt.Errorf("eval: writing a row: %w", err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("eval: writing a row of task %s: %w", r.Task, err)
	}
	if line = append(line, '\n'); len(line) > MaxRow {
		return fmt.Errorf("eval: writing a row of task %s: it has %d bytes, expected at most %d", r.Task, len(line), MaxRow)
	}
	if l.file != nil {
		if _, err = l.file.Write(line); err == nil {
			err = l.file.Sync()
		}
		if err != nil {
			l.torn = err
			return fmt.Errorf("eval: writing to %s: %w", l.file.Name(), err)
		}
	}
	l.add(r)
	return nil
}

// Close ends writing.
func (l *Log) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
