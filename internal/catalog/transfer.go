package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// An origin identifies the contents that a partial file is a part of. It is kept beside the partial file.
type origin struct {
	Hash   string `json:"hash,omitempty"`   // what the repository says of the file: SHA-256 for large files
	ETag   string `json:"etag,omitempty"`   // of the server that sent the bytes; may differ from the repository's
	Bytes  int64  `json:"bytes,omitempty"`  // of the whole file; 0 if unknown
	SHA256 string `json:"sha256,omitempty"` // expected; "" where the repository does not say
}

// errRestart says that the partial file belongs to other contents and was emptied.
var errRestart = errors.New("the file changed on the server")

// errTooLarge says that a file is larger than it should be, or than the disk has room for.
var errTooLarge = errors.New("too large")

// errStalled says that no byte came for Options.Stall.
var errStalled = errors.New("the transfer stalled")

// A getter asks one server for one file.
type getter struct {
	s      *store
	it     item
	url    string
	token  string
	client *http.Client
	stall  time.Duration
}

func (s *store) getter(it item) (*getter, error) {
	base := s.opt.Endpoint
	if base == "" {
		base = os.Getenv("HF_ENDPOINT")
	}
	if base == "" {
		base = hfEndpoint
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("endpoint %q: expected http(s)://HOST", base)
	}
	token := s.opt.Token
	if token == "" {
		token = os.Getenv("HF_TOKEN")
	}
	if token != "" && u.Scheme != "https" && !loopback(u.Hostname()) {
		return nil, fmt.Errorf("endpoint %q: a token would travel in the clear; use https or unset HF_TOKEN", base)
	}
	client := s.opt.Client
	if client == nil {
		client = http.DefaultClient // a stalled answer ends by Options.Stall
	}
	stall := s.opt.Stall
	if stall == 0 {
		stall = time.Minute
	}
	path := []string{it.hf.owner, it.hf.repo, "resolve", "main"}
	path = append(path, strings.Split(it.hf.file, "/")...)
	return &getter{s, it, u.JoinPath(path...).String(), token, client, stall}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// A statusError is an answer that is not the file.
type statusError struct {
	url  string
	code int
}

func (e *statusError) temporary() bool {
	return e.code >= 500 || e.code == http.StatusTooManyRequests || e.code == http.StatusRequestTimeout
}

func (e *statusError) Error() string {
	msg := fmt.Sprintf("%s: %d %s", e.url, e.code, http.StatusText(e.code))
	switch e.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return msg + ": the repository does not exist or wants an accepted licence; set HF_TOKEN to an access token that may read it"
	case http.StatusNotFound:
		return msg + ": no such file on the main branch"
	}
	return msg
}

func (g *getter) request(ctx context.Context, method string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, g.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "twilight")
	req.Header.Set("Accept-Encoding", "identity") // ranges are of the file, not of a compressed form
	if g.token != "" {
		req.Header.Set("Authorization", "Bearer "+g.token) // net/http drops it on a redirect to another host
	}
	return req, nil
}

// head asks the repository what the file is. The hash stands in its own answer, not in that of the storage server to which it redirects.
func (g *getter) head(ctx context.Context) (origin, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, g.stall, errStalled)
	defer cancel()
	req, err := g.request(ctx, http.MethodHead)
	if err != nil {
		return origin{}, err
	}
	client := *g.client
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if next.Response.Header.Get("X-Linked-Etag") != "" || next.URL.Host != via[0].URL.Host || len(via) > 5 {
			return http.ErrUseLastResponse
		}
		return nil
	}
	resp, err := client.Do(req)
	if err != nil {
		return origin{}, g.reason(ctx, err, 0)
	}
	resp.Body.Close()
	if resp.StatusCode >= 400 {
		return origin{}, &statusError{g.url, resp.StatusCode}
	}
	src := origin{Hash: cleanETag(resp.Header.Get("X-Linked-Etag"))}
	if sha256Hex.MatchString(src.Hash) {
		src.SHA256 = strings.ToLower(src.Hash)
	}
	if n, err := strconv.ParseInt(resp.Header.Get("X-Linked-Size"), 10, 64); err == nil && n > 0 {
		src.Bytes = n
	}
	return src, nil
}

var sha256Hex = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)

func cleanETag(tag string) string { return strings.Trim(strings.TrimPrefix(tag, "W/"), `"`) }

// transfer fetches what the partial file lacks of src and returns what is then known about the file. It ends without an error only when all bytes are there.
func (g *getter) transfer(ctx context.Context, src origin) (origin, error) {
	out, err := os.OpenFile(g.it.partial(), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return src, err
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return src, err
	}
	var old origin
	if data, err := os.ReadFile(g.it.origin()); err == nil {
		_ = json.Unmarshal(data, &old) // what cannot be read matches nothing below
	}
	// Bytes may be continued only where something proves that both halves are of one file.
	same := src.Hash != "" && src.Hash == old.Hash || src.Hash == "" && old.Hash == "" && strongETag(old.ETag)
	if have > 0 && !same {
		if err := restart(out); err != nil {
			return src, err
		}
		have, old = 0, origin{}
	}
	if src.Bytes == 0 || src.Bytes > have {
		if src, err = g.get(ctx, out, have, src, old); err != nil {
			return src, err
		}
	} else if have > src.Bytes {
		return src, errors.Join(fmt.Errorf("%s has %d bytes, expected %d", g.it.partial(), have, src.Bytes), restart(out))
	}
	return src, out.Sync()
}

func strongETag(tag string) bool { return strings.HasPrefix(tag, `"`) }

func restart(out *os.File) error {
	if err := out.Truncate(0); err != nil {
		return err
	}
	_, err := out.Seek(0, io.SeekStart)
	return err
}

// get appends the bytes from have on to out.
func (g *getter) get(ctx context.Context, out *os.File, have int64, src, old origin) (origin, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(g.stall, func() { cancel(errStalled) })
	defer watchdog.Stop()
	req, err := g.request(ctx, http.MethodGet)
	if err != nil {
		return src, err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		if strongETag(old.ETag) {
			req.Header.Set("If-Range", old.ETag)
		}
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return src, g.reason(ctx, err, have)
	}
	defer resp.Body.Close()
	total := int64(0)
	switch {
	case resp.StatusCode == http.StatusPartialContent && have > 0:
		var from int64
		if from, total, err = contentRange(resp.Header.Get("Content-Range")); err != nil || from != have {
			return src, errors.Join(fmt.Errorf("%s: content range %q, asked for bytes %d-", g.url, resp.Header.Get("Content-Range"), have), restart(out))
		}
		if strongETag(old.ETag) && resp.Header.Get("ETag") != "" && resp.Header.Get("ETag") != old.ETag {
			return src, errors.Join(fmt.Errorf("%s: %w", g.url, errRestart), restart(out))
		}
	case resp.StatusCode == http.StatusOK:
		// The server knows no ranges, or the file changed: from the start.
		if err := restart(out); err != nil {
			return src, err
		}
		have, total = 0, max(resp.ContentLength, 0)
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return src, errors.Join(fmt.Errorf("%s: %w", g.url, errRestart), restart(out))
	default:
		return src, &statusError{g.url, resp.StatusCode}
	}
	if src.Bytes > 0 && total > 0 && src.Bytes != total {
		return src, errors.Join(fmt.Errorf("%s: %d bytes, the repository says %d", g.url, total, src.Bytes), restart(out))
	}
	src.Bytes, src.ETag = max(src.Bytes, total), resp.Header.Get("ETag")
	if src.ETag == "" {
		src.ETag = old.ETag
	}
	limit, err := g.limit(src.Bytes, have)
	if err != nil {
		return src, err
	}
	data, err := json.Marshal(src)
	if err != nil {
		return src, err
	}
	if err := os.WriteFile(g.it.origin(), data, 0o644); err != nil {
		return src, err
	}
	w := &meter{w: out, done: have, report: func(done int64) {
		watchdog.Reset(g.stall)
		g.s.opt.progress(StageDownload, done, src.Bytes)
	}}
	n, err := io.Copy(w, io.LimitReader(resp.Body, limit-have+1))
	switch {
	case err != nil:
		return src, g.reason(ctx, err, have+n)
	case have+n > limit:
		return src, errors.Join(fmt.Errorf("%s: more than %d bytes came: %w", g.url, limit, errTooLarge), restart(out))
	case src.Bytes > 0 && have+n < src.Bytes:
		return src, fmt.Errorf("%s: %d of %d bytes came: %w", g.url, have+n, src.Bytes, io.ErrUnexpectedEOF)
	}
	return src, nil
}

// reason says why a transfer ended after done bytes: err, unless the watchdog ended it.
func (g *getter) reason(ctx context.Context, err error, done int64) error {
	if context.Cause(ctx) == errStalled {
		return fmt.Errorf("%s: %w after %d bytes: nothing came for %v", g.url, errStalled, done, g.stall)
	}
	return err
}

// limit returns the size that the file may reach: its own where known, else what the disk holds.
func (g *getter) limit(total, have int64) (int64, error) {
	if total > 0 {
		if err := g.s.room(total - have); err != nil {
			return 0, fmt.Errorf("%w: %w", errTooLarge, err)
		}
		return total, nil
	}
	free, err := freeBytes(g.s.dir)
	if err != nil {
		return 0, fmt.Errorf("%w: the server does not say how large the file is, and the free space is unknown: %w", errTooLarge, err)
	}
	return max(have, have+free-spare), nil
}

// contentRange reads "bytes 5-9/10" and returns the first byte and the size of the whole, 0 where it is "*".
func contentRange(s string) (from, total int64, err error) {
	var last int64
	if _, err := fmt.Sscanf(s, "bytes %d-%d/%d", &from, &last, &total); err == nil {
		if from < 0 || last < from || total <= last {
			return 0, 0, fmt.Errorf("content range %q", s)
		}
		return from, total, nil
	}
	if _, err := fmt.Sscanf(s, "bytes %d-%d/*", &from, &last); err != nil || from < 0 || last < from {
		return 0, 0, fmt.Errorf("content range %q", s)
	}
	return from, 0, nil
}

// A meter reports the bytes that pass.
type meter struct {
	w      io.Writer
	done   int64
	report func(done int64)
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.done += int64(n)
	m.report(m.done)
	return n, err
}
