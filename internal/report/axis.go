package report

import (
	"math"
	"strconv"
	"strings"
)

// Numbers beyond these are not drawn: no measurement has them, and a file may hold anything.
const (
	least = 1e-9
	most  = 1e12
)

// drawable reports whether a value can stand on an axis.
func drawable(v float64, log bool) bool {
	if log {
		return v >= least && v <= most
	}
	return v >= -most && v <= most
}

// axis maps values to places in a figure.
type axis struct {
	log      bool
	lo, hi   float64 // in values
	from, to float64 // in the figure
	ticks    []float64
}

// newAxis holds all values, all of them drawable, with room at both ends; lo and hi are round.
func newAxis(values []float64, log bool, from, to float64) axis {
	a := axis{log: log, lo: math.Inf(1), hi: math.Inf(-1), from: from, to: to}
	for _, v := range values {
		a.lo, a.hi = min(a.lo, v), max(a.hi, v)
	}
	if len(values) == 0 {
		a.lo, a.hi = 0.1, 1
	}
	if log && a.hi/a.lo > 3 {
		a.decades()
		return a
	}
	a.steps()
	return a
}

// decades makes ticks at powers of ten, with 2 and 5 between them where there are few.
func (a *axis) decades() {
	first, last := int(math.Floor(math.Log10(a.lo)+1e-9)), int(math.Ceil(math.Log10(a.hi)-1e-9))
	step := (last-first)/7 + 1
	all := []float64{1}
	if last-first <= 3 {
		all = []float64{1, 2, 5}
	}
	var ticks []float64
	for e := first; e <= last; e += step {
		for _, m := range all {
			ticks = append(ticks, m*math.Pow(10, float64(e)))
		}
	}
	lo, hi := a.lo, a.hi
	for _, t := range ticks {
		if t <= a.lo*(1+1e-9) {
			lo = t
		}
	}
	for i := len(ticks) - 1; i >= 0; i-- {
		if ticks[i] >= a.hi*(1-1e-9) {
			hi = ticks[i]
		}
	}
	a.lo, a.hi = lo, hi
	for _, t := range ticks {
		if t >= lo*(1-1e-9) && t <= hi*(1+1e-9) {
			a.ticks = append(a.ticks, t)
		}
	}
}

// steps makes ticks at even distances.
func (a *axis) steps() {
	span := a.hi - a.lo
	if span <= 1e-9*max(math.Abs(a.lo), math.Abs(a.hi)) {
		pad := max(0.1*math.Abs(a.hi), 1e-3)
		if a.log {
			pad = a.hi / 2
		}
		a.lo, a.hi = a.lo-pad, a.hi+pad
		span = a.hi - a.lo
	}
	step := math.Pow(10, math.Floor(math.Log10(span/4)))
	for _, m := range []float64{5, 2} {
		if span/(m*step) >= 3 {
			step *= m
			break
		}
	}
	first, last := math.Floor(a.lo/step+1e-9), math.Ceil(a.hi/step-1e-9)
	if a.log && first <= 0 {
		first = a.lo / step // no zero on a logarithmic axis
	}
	a.lo, a.hi = first*step, last*step
	for i := math.Ceil(first - 1e-9); i <= last+1e-9; i++ {
		a.ticks = append(a.ticks, i*step+0) // not −0
	}
}

// at is where a value stands.
func (a *axis) at(v float64) float64 {
	lo, hi := a.lo, a.hi
	if a.log {
		v, lo, hi = math.Log(v), math.Log(lo), math.Log(hi)
	}
	return a.from + (v-lo)/(hi-lo)*(a.to-a.from)
}

// share writes a part of one in percent.
func share(v float64) string { return significant(100*v, 3) + "%" }

// significant writes a number with so many digits, and no exponent unless it is very small or very large.
func significant(v float64, digits int) string {
	switch m := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case m == 0:
		return "0"
	case m < 1e-5 || m >= 1e9:
		return strconv.FormatFloat(v, 'g', digits, 64)
	default:
		places := max(0, digits-1-int(math.Floor(math.Log10(m))))
		s := strconv.FormatFloat(v, 'f', places, 64)
		if strings.Contains(s, ".") {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return minus(group(s))
	}
}

// fixed writes a number with so many places, for columns.
func fixed(v float64, places int) string {
	if math.IsNaN(v) || math.Abs(v) > most {
		return significant(v, 3)
	}
	s := strconv.FormatFloat(v, 'f', places, 64)
	if strings.Trim(s, "-0.") == "" {
		s = strings.TrimPrefix(s, "-")
	}
	return minus(group(s))
}

// signed is fixed with a sign.
func signed(v float64, places int) string {
	s := fixed(v, places)
	if v > 0 && strings.Trim(s, "0.") != "" {
		s = "+" + s
	}
	return s
}

// thousands writes a whole number.
func thousands(v float64) string { return fixed(v, 0) }

// group sets commas between thousands.
func group(s string) string {
	whole, rest, _ := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	return sign + whole
}

// minus writes the sign as typesetters do, as wide as a plus.
func minus(s string) string { return strings.Replace(s, "-", "−", 1) }
