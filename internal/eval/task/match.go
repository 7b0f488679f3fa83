package task

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// MatchAll is RULER's string_match_all: the share of the references that occur in the answer, whatever their case.
func MatchAll(answer string, references []string) float64 {
	if len(references) == 0 {
		return 0
	}
	answer = strings.ToLower(answer)
	found := 0
	for _, r := range references {
		if strings.Contains(answer, strings.ToLower(r)) {
			found++
		}
	}
	return float64(found) / float64(len(references))
}

// MatchPart is RULER's string_match_part: 1 if one of the references occurs in the answer, whatever its case.
func MatchPart(answer string, references []string) float64 {
	answer = strings.ToLower(answer)
	if slices.ContainsFunc(references, func(r string) bool { return strings.Contains(answer, strings.ToLower(r)) }) {
		return 1
	}
	return 0
}

var integers = regexp.MustCompile(`\p{Nd}+`)

// Integers are the runs of digits in a text.
func Integers(text string) []string { return integers.FindAllString(text, -1) }

// CountMatch is LongBench's count score: the share of the answer's numbers that are the wanted one.
func CountMatch(answer, want string) float64 {
	numbers := Integers(answer)
	right := 0
	for _, n := range numbers {
		if n == want {
			right++
		}
	}
	if right == 0 {
		return 0
	}
	return float64(right) / float64(len(numbers))
}

// RetrievalMatch is LongBench's retrieval score: CountMatch with the number that follows the word in the reference, e.g. 17 in "Paragraph 17".
func RetrievalMatch(answer, reference, word string) float64 {
	for rest := reference; ; {
		_, after, ok := strings.Cut(rest, word)
		if !ok {
			return 0
		}
		if at := integers.FindStringIndex(after); at != nil && at[0] == 0 {
			return CountMatch(answer, after[:at[1]])
		}
		rest = after
	}
}

// ClassMatch is LongBench's classification score: of the labels that occur in the answer, without those that are part of the reference, the reference's share.
func ClassMatch(answer, reference string, labels []string) float64 {
	var found []string
	for _, label := range labels {
		if strings.Contains(answer, label) {
			found = append(found, label)
		}
	}
	// The original removes from the list that it walks, and so does not look at what follows a removed label.
	for i := 0; i < len(found); i++ {
		if label := found[i]; label != reference && strings.Contains(reference, label) {
			at := slices.Index(found, label)
			found = slices.Delete(found, at, at+1)
		}
	}
	if !slices.Contains(found, reference) {
		return 0
	}
	return 1 / float64(len(found))
}

var numbers = regexp.MustCompile(`-?[$0-9.,]{2,}|-?[0-9]+`)

// LastNumber is the last number in a text, with or without currency, thousands separators and a full stop behind it; false if there is none.
func LastNumber(text string) (float64, bool) {
	found := numbers.FindAllString(text, -1)
	for _, n := range slices.Backward(found) {
		n = strings.TrimRight(strings.NewReplacer("$", "", ",", "").Replace(n), ".")
		if strings.IndexFunc(n, unicode.IsDigit) < 0 {
			continue // punctuation
		}
		v, err := strconv.ParseFloat(n, 64)
		if err != nil || math.IsInf(v, 0) {
			continue // such as 1.2.3
		}
		return v, true
	}
	return 0, false
}

// SameNumber is 1 if the last numbers of both texts are equal: GSM8K's metric, with equality of numbers rather than of their digits.
func SameNumber(answer, reference string) float64 {
	a, ok := LastNumber(answer)
	b, has := LastNumber(reference)
	if ok && has && a == b {
		return 1
	}
	return 0
}
