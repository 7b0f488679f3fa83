package tokenizer

import "hash/maphash"

const (
	cacheSlots = 1 << 14 // a power of two
	cacheWord  = 48      // longer words are not kept
	cacheBytes = 1 << 18 // of words; when full the cache starts over
	cacheProbe = 4       // slots a word may lie in
)

// wordCache remembers the tokens of words that an encoder met. Natural text repeats its words, so most are found here instead of being merged again.
type wordCache struct {
	seed  maphash.Seed
	slots []cacheSlot
	words []byte
	ids   []int32
}

type cacheSlot struct {
	hash      uint32 // 0: empty
	word, ids uint32 // where they begin
	size      uint8  // bytes of the word
	count     uint8  // of tokens
}

// hash is never 0.
func (c *wordCache) hash(word string) uint32 {
	return uint32(maphash.String(c.seed, word)) | 1
}

// get appends the tokens of a word if they are known. A word of no tokens is known too.
func (c *wordCache) get(out []int32, hash uint32, word string) ([]int32, bool) {
	for k := range uint32(cacheProbe) {
		s := &c.slots[(hash>>1+k)%cacheSlots]
		if s.hash == hash && string(c.words[s.word:s.word+uint32(s.size)]) == word {
			return append(out, c.ids[s.ids:s.ids+uint32(s.count)]...), true
		}
	}
	return out, false
}

// put remembers a word of at most cacheWord bytes. No model writes a byte as more than two tokens, so count fits.
func (c *wordCache) put(hash uint32, word string, ids []int32) {
	if len(c.words)+len(word) > cacheBytes || len(c.ids)+len(ids) > cacheBytes {
		clear(c.slots)
		c.words, c.ids = c.words[:0], c.ids[:0]
	}
	at := hash >> 1 % cacheSlots
	for k := range uint32(cacheProbe) {
		if i := (hash>>1 + k) % cacheSlots; c.slots[i].hash == 0 {
			at = i
			break
		}
	}
	c.slots[at] = cacheSlot{hash: hash, word: uint32(len(c.words)), ids: uint32(len(c.ids)), size: uint8(len(word)), count: uint8(len(ids))}
	c.words = append(c.words, word...)
	c.ids = append(c.ids, ids...)
}
