package registrytest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
)

// Rule makes a registry lie to the requests that it fits.
type Rule struct {
	Method string // "": any
	Path   string // a regular expression over the path, which begins with /v2/, /token or /storage/
	Skip   int    // let so many fitting requests pass first
	Times  int    // then lie so many times; 0: until Heal
	Lie    Lie
}

// Lie is one way of not answering as one should.
type Lie struct {
	edit func(*reply, *http.Request)
}

// reply is an answer in the making.
type reply struct {
	status      int
	header      http.Header
	content     content
	corruptAt   int64 // offset in the content, -1: none
	cutAfter    int64 // bytes of this answer, -1: none
	stallAfter  int64 // likewise
	ignoreRange bool
	shiftRange  bool
	redirect    bool
	noDigest    bool
	hang        bool
}

type rule struct {
	Rule
	path *regexp.Regexp
	seen int
}

// Add makes the registry follow a rule. Of several that fit a request all
// count it, and all lies are told.
func (r *Registry) Add(rules ...Rule) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range rules {
		r.rules = append(r.rules, &rule{Rule: n, path: regexp.MustCompile(n.Path)})
	}
}

// Heal takes all rules away and lets stalled answers go on.
func (r *Registry) Heal() {
	r.mu.Lock()
	r.rules = nil
	r.mu.Unlock()
	r.Release()
}

// Stubborn takes all rules away, and leaves stalled answers as they are: those
// who ask now are answered, and those who wait go on waiting.
func (r *Registry) Stubborn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = nil
}

// Release lets the answers go on that stall or hang now, and those to all
// requests that came before. Later ones stall again.
func (r *Registry) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.release)
	r.release = make(chan struct{})
}

// lies returns the lies for a request.
func (r *Registry) lies(req *http.Request) []Lie {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lies []Lie
	for _, rule := range r.rules {
		if (rule.Method != "" && rule.Method != req.Method) || !rule.path.MatchString(req.URL.Path) {
			continue
		}
		rule.seen++
		if rule.seen > rule.Skip && (rule.Times == 0 || rule.seen <= rule.Skip+rule.Times) {
			lies = append(lies, rule.Lie)
		}
	}
	return lies
}

// Cut closes the connection after n bytes of the body.
func Cut(n int64) Lie { return Lie{func(r *reply, _ *http.Request) { r.cutAfter = n }} }

// Stall sends n bytes of the body and then nothing until the next Release.
func Stall(n int64) Lie { return Lie{func(r *reply, _ *http.Request) { r.stallAfter = n }} }

// Hang answers nothing at all until the next Release.
func Hang() Lie { return Lie{func(r *reply, _ *http.Request) { r.hang = true }} }

// Answer answers with a status and an OCI error body. retryAfter is the value
// of the header, "" for none.
func Answer(status int, retryAfter string) Lie {
	return Lie{func(r *reply, _ *http.Request) {
		r.refuse(status, "LIE", "told to answer "+strconv.Itoa(status))
		if retryAfter != "" {
			r.header.Set("Retry-After", retryAfter)
		}
	}}
}

// Echo refuses with a message that repeats the credential it was shown, as
// it came and decoded, and a header that does.
func Echo() Lie {
	return Lie{func(r *reply, req *http.Request) {
		_, password, _ := req.BasicAuth()
		r.refuse(http.StatusForbidden, "DENIED", req.Header.Get("Authorization")+" is not good enough, "+password)
		r.header.Set("X-Shown", req.Header.Get("Authorization"))
	}}
}

// Corrupt flips a bit of the byte at that offset of the whole content.
func Corrupt(offset int64) Lie { return Lie{func(r *reply, _ *http.Request) { r.corruptAt = offset }} }

// Substitute sends another content, headed as the right one.
func Substitute(other []byte) Lie {
	return Lie{func(r *reply, _ *http.Request) { r.content = content{bytes.NewReader(other), int64(len(other))} }}
}

// Short ends the content cleanly after n bytes, as if that were all of it.
func Short(n int64) Lie {
	return Lie{func(r *reply, _ *http.Request) { r.content.size = min(n, r.content.size) }}
}

// NoHead answers HEAD with 405.
func NoHead() Lie {
	return Lie{func(r *reply, req *http.Request) {
		if req.Method == http.MethodHead {
			r.refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "no HEAD here")
		}
	}}
}

// NoDigest leaves Docker-Content-Digest out.
func NoDigest() Lie { return Lie{func(r *reply, _ *http.Request) { r.noDigest = true }} }

// IgnoreRange answers a range with the whole.
func IgnoreRange() Lie { return Lie{func(r *reply, _ *http.Request) { r.ignoreRange = true }} }

// ShiftRange answers a range with 206 and one that begins a byte later.
func ShiftRange() Lie { return Lie{func(r *reply, _ *http.Request) { r.shiftRange = true }} }

// Redirect sends the caller to a signed address on another host, which
// refuses requests with Authorization.
func Redirect() Lie { return Lie{func(r *reply, _ *http.Request) { r.redirect = true }} }

// RedirectTo sends the caller to any address.
func RedirectTo(address string) Lie {
	return Lie{func(r *reply, _ *http.Request) {
		r.status, r.content = http.StatusTemporaryRedirect, content{bytes.NewReader(nil), 0}
		r.header.Set("Location", address)
	}}
}

// ChallengeRealm names another token service in challenges.
func ChallengeRealm(address string) Lie {
	return Lie{func(r *reply, _ *http.Request) {
		if r.header.Get("WWW-Authenticate") != "" {
			r.header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="registrytest"`, address))
		}
	}}
}

// Header sets a header of the answer; an empty value removes it.
func Header(name, value string) Lie {
	return Lie{func(r *reply, _ *http.Request) {
		if value == "" {
			r.header.Del(name)
			return
		}
		r.header.Set(name, value)
	}}
}

func (r *reply) refuse(status int, code, message string) {
	r.status = status
	r.header.Set("Content-Type", "application/json")
	r.header.Del("Docker-Content-Digest")
	body := fmt.Appendf(nil, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
	r.content = content{bytes.NewReader(body), int64(len(body))}
}

// flipped is content with a bit flipped at one offset.
type flipped struct {
	io.ReaderAt
	at int64
}

func (f flipped) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, offset)
	if i := f.at - offset; i >= 0 && i < int64(n) {
		p[i] ^= 1
	}
	return n, err
}
