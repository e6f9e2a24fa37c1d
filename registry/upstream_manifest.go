package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxManifest is the size that the OCI distribution spec asks registries
	// to take at least, and that nearly all of them take at most.
	maxManifest = 4 << 20
	// manifestTime bounds a manifest from question to last byte.
	manifestTime = time.Minute
	// maxAgeBound keeps an upstream's max-age from overflowing; nobody means more.
	maxAgeBound = 365 * 24 * time.Hour
)

// manifestTypes is what we accept, both indexes and manifests, and anything
// else when an upstream has only that.
var manifestTypes = []string{
	specs.MediaTypeImageIndex, specs.MediaTypeImageManifest, mediaTypeDockerIndex, mediaTypeDockerManifest, "*/*",
}

// errNoHead: upstream cannot tell a manifest's digest by HEAD. Ask by GET.
var errNoHead = errors.New("upstream does not answer HEAD with a digest")

// fetchedManifest is a manifest or index as upstream sent it, byte for byte.
type fetchedManifest struct {
	Descriptor specs.Descriptor // media type, digest and size
	Content    []byte
	Anonymous  bool          // no credential had a part in getting it
	Mirror     string        // the host of the mirror that sent it, "" for upstream itself
	MaxAge     time.Duration // what upstream said of its lifetime; 0: nothing
	parsed     parsed
}

// manifest fetches by digest, or by tag. The content hashes to the digest
// asked for; by tag, to the one that upstream announced, if it did. By digest
// the mirrors are asked first.
func (u *upstream) manifest(ctx context.Context, path string, ref Reference) (fetchedManifest, error) {
	if u.home != nil {
		return u.home.manifest(ref)
	}
	ctx, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	if ref.Digest != "" {
		if got, ok := u.manifestFromMirrors(ctx, path, ref); ok {
			return got, nil
		}
	}
	if why := u.closedFor(subjectManifest); why != nil {
		return fetchedManifest{}, why.about(ref.String())
	}
	return u.ownManifest(ctx, path, ref)
}

// ownManifest is manifest without the mirrors.
func (u *upstream) ownManifest(ctx context.Context, path string, ref Reference) (fetchedManifest, error) {
	if kept := u.spared(ctx); kept != nil {
		return fetchedManifest{}, kept.about(ref.String())
	}
	got, err := u.manifestOnce(ctx, path, ref)
	var wrong *wrongDigest
	switch {
	case errors.As(err, &wrong):
		// A tag may have moved between two servers, or a byte have flipped.
		got, err = u.manifestOnce(ctx, path, ref)
	case worthRetry(err):
		if u.restBeforeRetry(ctx) == nil {
			got, err = u.manifestOnce(ctx, path, ref)
		}
	}
	return got, aboutReference(err, ref.String())
}

// manifestPause is how long a manifest whose answer failed waits for its one
// more try, half of it at least: a server that is being replaced is back by then.
const manifestPause = 300 * time.Millisecond

// worthRetry: upstream failed quickly and asked for no pause. One that did not
// answer in time has used up its caller's patience.
func worthRetry(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeUnavailable && !e.Permanent() && e.RetryAfter == 0
}

// worthRetryAtOnce: the failure may well have been of one answer alone. It is
// for those who have something to answer with.
func worthRetryAtOnce(err error) bool {
	var e *Error
	return worthRetry(err) && errors.As(err, &e) && e.single
}

func (u *upstream) restBeforeRetry(ctx context.Context) error {
	timer := time.NewTimer(time.Duration(float64(manifestPause) * (0.5 + 0.5*u.env.random())))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (u *upstream) manifestOnce(ctx context.Context, path string, ref Reference) (fetchedManifest, error) {
	res, err := u.ask(ctx, question{subject: subjectManifest, method: http.MethodGet, path: path,
		rest: "manifests/" + ref.asked(), header: http.Header{"Accept": manifestTypes}})
	if err != nil {
		return fetchedManifest{}, err
	}
	defer res.Body.Close()
	content, err := u.readBody(ctx, subjectManifest, res, maxManifest)
	if err != nil {
		return fetchedManifest{}, err
	}
	if len(content) > maxManifest {
		return fetchedManifest{}, u.reject(CodeManifestInvalid, "the manifest is larger than 4 MiB")
	}
	declared, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	p, err := parseManifest(declared, content)
	if err != nil {
		return fetchedManifest{}, u.reject(CodeManifestInvalid, err.Error())
	}
	d, err := u.verify(content, ref.Digest, res.Header)
	if err != nil {
		return fetchedManifest{}, err
	}
	return fetchedManifest{
		Descriptor: specs.Descriptor{MediaType: p.mediaType, Digest: d, Size: int64(len(content))},
		Content:    content, Anonymous: res.anonymous, MaxAge: maxAge(res.Header), parsed: p,
	}, nil
}

// readBody reads a small body to at most one byte more than limit.
func (u *upstream) readBody(ctx context.Context, s subject, res answer, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		e := networkError(err)
		if e.Code == CodeUnavailable {
			e.Message = "upstream broke off its answer"
		}
		return nil, u.failed(ctx, s, e)
	}
	return content, nil
}

// reject books and returns an error about an answer that came whole.
func (u *upstream) reject(code Code, message string) *Error {
	e := &Error{Code: code, Message: message}
	u.tally.failed(e, u.env.now())
	return e
}

// wrongDigest is the cause of an error about bytes that are not what they
// should be.
type wrongDigest struct{ want, got digest.Digest }

func (w *wrongDigest) Error() string {
	return fmt.Sprintf("its bytes hash to %s, not to %s", w.got, w.want)
}

// verify returns the digest of content after comparing it with what was asked
// for, else with what upstream announced.
func (u *upstream) verify(content []byte, asked digest.Digest, h http.Header) (digest.Digest, error) {
	want := asked
	if want == "" {
		want = announced(h)
	}
	if want == "" {
		return digest.FromBytes(content), nil
	}
	if got := want.Algorithm().FromBytes(content); got != want {
		e := u.reject(CodeUnavailable, "upstream sent a wrong manifest")
		e.Err = &wrongDigest{want: want, got: got}
		return "", e
	}
	return want, nil
}

// announced is the digest in the answer's head, "" if there is none of a
// kind we can check.
func announced(h http.Header) digest.Digest {
	d, err := ParseDigest(h.Get("Docker-Content-Digest"))
	if err != nil {
		return ""
	}
	return d
}

// maxAge reads Cache-Control (RFC 9111 section 5.2.2.1).
func maxAge(h http.Header) time.Duration {
	for _, value := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(value, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			if !strings.EqualFold(name, "max-age") {
				continue
			}
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return 0
			}
			return min(time.Duration(seconds)*time.Second, maxAgeBound)
		}
	}
	return 0
}

// head asks what a tag points to without fetching it: Docker Hub does not
// count HEADs. Size is -1 if upstream did not say. The error is errNoHead if
// upstream has no HEAD, or none that tells the digest.
func (u *upstream) head(ctx context.Context, path, tag string) (specs.Descriptor, error) {
	got, err := u.tagHead(ctx, path, tag)
	return got.Descriptor, err
}

// tagHead is what a HEAD told.
type tagHead struct {
	specs.Descriptor
	Anonymous bool          // no credential had a part in the answer
	MaxAge    time.Duration // as that of a fetchedManifest
	Mirror    string        // likewise
}

// tagHead is head, and tells how the answer came.
func (u *upstream) tagHead(ctx context.Context, path, tag string) (tagHead, error) {
	if u.home != nil {
		d, err := u.home.head(Repository{u.name, path}, tag)
		return tagHead{Descriptor: d}, err
	}
	ctx, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	got, err := u.headOnce(ctx, path, tag)
	if worthRetryAtOnce(err) && u.restBeforeRetry(ctx) == nil {
		got, err = u.headOnce(ctx, path, tag)
	}
	return got, err
}

func (u *upstream) headOnce(ctx context.Context, path, tag string) (tagHead, error) {
	res, err := u.ask(ctx, question{subject: subjectHead, method: http.MethodHead, path: path, rest: "manifests/" + tag,
		header: http.Header{"Accept": manifestTypes}, accept: headAnswers})
	if err != nil {
		return tagHead{}, aboutReference(err, u.name+"/"+path+":"+tag)
	}
	res.Body.Close()
	d := announced(res.Header)
	if res.StatusCode == http.StatusNotFound && (d != "" || res.Header.Get("Docker-Distribution-Api-Version") != "") {
		return tagHead{}, u.missing(subjectHead, u.name+"/"+path+":"+tag)
	}
	if res.StatusCode != http.StatusOK || d == "" {
		return tagHead{}, errNoHead
	}
	mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return tagHead{Descriptor: specs.Descriptor{MediaType: mediaType, Digest: d, Size: res.ContentLength},
		Anonymous: res.anonymous, MaxAge: maxAge(res.Header)}, nil
}

// headAnswers are the statuses by which an upstream answers, or says that it
// knows no HEAD. A 404 may be either.
func headAnswers(status int) bool {
	switch status {
	case http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}

func (u *upstream) missing(s subject, reference string) *Error {
	return statusError(s, http.StatusNotFound, false, "").about(reference)
}

// aboutReference puts what was asked for into an error of ours.
func aboutReference(err error, reference string) error {
	var ours *Error
	if errors.As(err, &ours) {
		return ours.about(reference)
	}
	return err
}
