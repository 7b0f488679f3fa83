package task

import (
	"strings"
	"unicode"
)

// F1 compares bags of tokens: the harmonic mean of precision and recall.
func F1(answer, reference []string) float64 {
	left := make(map[string]int, len(reference))
	for _, t := range reference {
		left[t]++
	}
	same := 0
	for _, t := range answer {
		if left[t] > 0 {
			left[t]--
			same++
		}
	}
	if same == 0 {
		return 0
	}
	precision, recall := float64(same)/float64(len(answer)), float64(same)/float64(len(reference))
	return 2 * precision * recall / (precision + recall)
}

// Words splits a text as SQuAD's metric does: lower case, without punctuation of ASCII and without articles.
func Words(text string) []string {
	var b strings.Builder
	for _, r := range strings.ToLower(text) {
		if !punctuation(r) {
			b.WriteRune(r)
		}
	}
	text = b.String()
	b.Reset()
	for text != "" {
		// A word of letters and digits, then what stands between it and the next. Other signs may touch it: the article in "the’s" is one.
		n := strings.IndexFunc(text, func(r rune) bool { return !wordRune(r) })
		if n < 0 {
			n = len(text)
		}
		switch w := text[:n]; w {
		case "a", "an", "the":
			b.WriteByte(' ')
		default:
			b.WriteString(w)
		}
		text = text[n:]
		if n = strings.IndexFunc(text, wordRune); n < 0 {
			n = len(text)
		}
		b.WriteString(text[:n])
		text = text[n:]
	}
	return strings.Fields(b.String())
}

// Characters splits a Chinese text: lower case, without punctuation and space, a token for each character, and one for each run of ASCII letters and digits.
func Characters(text string) []string {
	var out []string
	text = strings.ToLower(text)
	for text != "" {
		n := strings.IndexFunc(text, func(r rune) bool { return !asciiWord(r) })
		if n < 0 {
			n = len(text)
		}
		if n > 0 {
			out, text = append(out, text[:n]), text[n:]
			continue
		}
		for at, r := range text {
			if at > 0 {
				n = at
				break
			}
			if !unicode.IsSpace(r) && !punctuation(r) && !strings.ContainsRune(punctuationZh, r) {
				out = append(out, string(r))
			}
			n = len(text)
		}
		text = text[n:]
	}
	return out
}

func wordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }

func asciiWord(r rune) bool { return r < 128 && wordRune(r) }

func punctuation(r rune) bool {
	return r < 128 && r > ' ' && !asciiWord(r) && r != 127
}

// punctuationZh is the punctuation beyond ASCII that LongBench's Chinese normalisation drops.
const punctuationZh = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏"
