package cuda

import "github.com/twilight-go/twilight/attention"

// Read is what a step reads of one KV head with n tokens: candidates, exact and coded are tokens of the group, counting a token that several heads share once. Dense attention reads all n
// exactly.
func (s *Shape) Read(m Mode, n, candidates, exact, coded int) attention.Bytes {
	row := s.Dim * 4 // key and value in fp16
	if m.Dense {
		return attention.Bytes{Attend: int64(n * row)}
	}
	blocks := attention.BlocksOf(n)
	ranges := blocks * s.Dim * 4 // of a block's channels: where its codes begin and how far they are apart
	var b attention.Bytes
	b.Select = int64(ranges)
	if m.Keep < 1 {
		b.Select += int64(ceil(n, attention.PageTokens) * s.Dim) // bounds of a page: two nibbles a channel
	}
	code := s.Dim / 2
	if m.TokenCodes {
		code += 4 // where a token's codes begin and how far they are apart
	} else {
		b.Estimate = int64(ranges)
	}
	logit := 2 * s.Group // of the group's heads, written by the estimate and read by what follows
	b.Estimate += int64(candidates * (code + logit))
	const entry = 4 // of the list of survivors
	b.Attend = int64(exact*(row+entry) + coded*(s.Dim/2+s.Dim/8+entry+logit))
	return b
}
