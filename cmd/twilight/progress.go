package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// When progress is shown: a bar on a terminal once a stage has taken a while, and a line now and then elsewhere.
const (
	barAfter  = 400 * time.Millisecond
	lineEvery = 5 * time.Second
)

// progress shows how far a long stage is, with rate and time left.
type progress struct {
	w        io.Writer
	terminal bool
	unit     string // "B", "tok" or another word
	stage    string
	start    time.Time
	first    int64 // done when the stage began
	line     time.Time
	bar      *progressbar.ProgressBar
}

func (c *console) progress(unit string) *progress {
	return &progress{w: c.err, terminal: isTerminal(c.err), unit: unit}
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// report is told of progress; total 0 means unknown.
func (p *progress) report(stage string, done, total int64) {
	now := time.Now()
	if stage != p.stage {
		p.clear()
		p.stage, p.start, p.line, p.first = stage, now, now, done
	}
	if !p.terminal {
		if now.Sub(p.line) >= lineEvery && done < total {
			p.line = now
			fmt.Fprintln(p.w, p.text(done, total, now.Sub(p.start)))
		}
		return
	}
	if p.bar == nil {
		p.bar = p.newBar(total)
	}
	if total > 0 && p.bar.GetMax64() != total {
		p.bar.ChangeMax64(total) // less to do than was thought
	}
	p.bar.Set64(done) //nolint:errcheck // a terminal that is gone is noticed elsewhere
}

// text is the line for where there is no terminal.
func (p *progress) text(done, total int64, took time.Duration) string {
	rate := float64(done-p.first) / took.Seconds()
	left := time.Duration(float64(total-done) / max(rate, 1e-9) * float64(time.Second))
	if p.unit == "B" {
		return fmt.Sprintf("%s: %s of %s, %s/s, %s left", p.stage, size(done), size(total), size(int64(rate)), left.Round(time.Second))
	}
	units := p.unit + "s"
	if p.unit == "tok" {
		units = "tokens"
	}
	return fmt.Sprintf("%s: %d of %d %s, %.0f/s, %s left", p.stage, done, total, units, rate, left.Round(time.Second))
}

func (p *progress) newBar(total int64) *progressbar.ProgressBar {
	if total <= 0 {
		total = -1
	}
	o := []progressbar.Option{progressbar.OptionSetWriter(&patient{p.w, p.start.Add(barAfter)}), progressbar.OptionSetDescription(p.stage), progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true), progressbar.OptionSetWidth(24), progressbar.OptionSetRenderBlankState(false),
		progressbar.OptionSetTheme(progressbar.Theme{Saucer: "━", SaucerHead: "━", SaucerPadding: " ", BarStart: "", BarEnd: ""})}
	if p.unit == "B" {
		o = append(o, progressbar.OptionShowBytes(true), progressbar.OptionShowTotalBytes(true))
	} else {
		o = append(o, progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(p.unit))
	}
	return progressbar.NewOptions64(total, o...)
}

// clear takes the bar off the terminal: the next line is somebody else's.
func (p *progress) clear() {
	if p.bar != nil {
		p.bar.Clear() //nolint:errcheck // as above
		p.bar = nil
	}
	p.stage = ""
}

// patient drops what is written before a moment: stages that end sooner show nothing.
type patient struct {
	io.Writer
	from time.Time
}

func (p *patient) Write(b []byte) (int, error) {
	if time.Now().Before(p.from) {
		return len(b), nil
	}
	return p.Writer.Write(b)
}

// size is a number of bytes for a person, in powers of ten as discs are sold and networks rated.
func size(n int64) string {
	units, f := []string{"B", "kB", "MB", "GB", "TB"}, float64(n)
	i := 0
	for ; f >= 999.5 && i < len(units)-1; i++ {
		f /= 1000
	}
	if i == 0 || f >= 99.95 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
