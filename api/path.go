package api

import (
	"errors"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry"
)

// kind is what a request is about. It is also a metric's label, hence few.
type kind uint8

const (
	kindOther kind = iota // health, metrics, paths we do not know
	kindBase              // GET /v2/
	kindManifest
	kindBlob
	kindTags
	kindReferrers
	kindUpload  // of a blob: /v2/<name>/blobs/uploads/
	kindCatalog // GET /v2/_catalog
	kindAdmin
	kinds // how many there are
)

var kindNames = [kinds]string{"other", "base", "manifest", "blob", "tags", "referrers", "upload", "catalog", "admin"}

func (k kind) String() string { return kindNames[k] }

// request is a path below /v2/, parsed.
type request struct {
	kind       kind
	repository registry.Repository
	name       string             // the repository as the client wrote it, for links and bodies
	manifest   registry.Reference // of kindManifest: by tag or by digest, never both
	digest     digest.Digest      // of kindBlob and kindReferrers
	upload     string             // of kindUpload: which one, "" for one that is to begin
}

// dockerHub is the registry of a reference that names none.
const dockerHub = "docker.io"

// parse reads the escaped path of a URL below /v2/ and the value of its ns
// parameter. Its errors are *registry.Error or errNoEndpoint.
//
// Names may hold the words manifests, blobs and tags as components, so the
// path is read from its end.
func parse(escaped, ns string) (request, error) {
	path, err := unescape(strings.TrimPrefix(escaped, "/v2"))
	if err != nil {
		return request{}, err
	}
	if path == "" || path == "/" {
		return request{kind: kindBase}, nil
	}
	if path == "/_catalog" {
		return request{kind: kindCatalog}, nil
	}
	kind, name, last := endpoint(path[1:])
	if kind == kindOther || last == "." || last == ".." {
		return request{}, noEndpoint(path[1:])
	}
	req := request{kind: kind, name: name}
	if req.repository, err = registry.NewRepository(splitHost(name, ns)); err != nil {
		return req, err
	}
	switch kind {
	case kindManifest:
		req.manifest, err = req.repository.Reference(last)
	case kindBlob, kindReferrers:
		req.digest, err = registry.ParseDigest(last)
	case kindUpload:
		req.upload = last
	}
	return req, err
}

// absentTag makes a tag that no registry can have one that is not there. Who
// asks for it is answered as by a registry whose routes are patterns, which does
// not match it; who pushes to it is told what a tag looks like.
func absentTag(err error) error {
	var invalid *registry.Error
	if errors.As(err, &invalid) && invalid.Code == registry.CodeTagInvalid {
		return &registry.Error{Code: registry.CodeManifestUnknown, Reference: invalid.Reference, Message: invalid.Message}
	}
	return err
}

// unescape decodes percent-encoding, which no legal path needs but some
// clients use for the colon of a digest. Bytes that would change how the path
// is cut are refused rather than decoded: a slash, a dot and another percent
// sign hidden in an escape are how one path is made to look like another.
func unescape(path string) (string, error) {
	if !strings.Contains(path, "%") {
		return path, nil
	}
	for rest := path; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			break
		}
		if len(after) < 2 || hidden(after[:2]) {
			return "", invalidName(path, "it has an escape that hides a separator")
		}
		rest = after[2:]
	}
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return "", invalidName(path, "it has an ill-formed escape")
	}
	return decoded, nil
}

// hidden reports whether the two hex digits stand for a byte that separates
// or rewrites path components, or for a control character.
func hidden(hex string) bool {
	switch strings.ToLower(hex) {
	case "2f", "5c", "2e", "25", "7f":
		return true
	}
	return hex[0] == '0' || hex[0] == '1'
}

// endpoint cuts a path into the name of a repository and what is asked of
// it: last is the tag or digest. kindOther: no endpoint has this form.
func endpoint(path string) (k kind, name, last string) {
	head, last := cutLast(path)
	name, word := cutLast(head)
	if word == "blobs" && last == "uploads" { // clients forget the slash, and no digest is spelled so
		return kindUpload, name, ""
	}
	if parent, upload := cutLast(name); word == "uploads" && upload == "blobs" {
		return kindUpload, parent, last
	}
	switch {
	case last == "":
		return kindOther, "", ""
	case word == "manifests":
		return kindManifest, name, last
	case word == "blobs":
		return kindBlob, name, last
	case word == "referrers":
		return kindReferrers, name, last
	case word == "tags" && last == "list":
		return kindTags, name, last
	}
	return kindOther, "", ""
}

// cutLast cuts s at its last slash; without one head is empty.
func cutLast(s string) (head, last string) {
	i := strings.LastIndexByte(s, '/')
	return s[:max(i, 0)], s[i+1:]
}

// noEndpoint is the error of a path that no endpoint has the form of: unknown,
// unless its components are such that no path should hold them.
func noEndpoint(path string) error {
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return invalidName(path, "it has an empty or relative component")
		}
	}
	return errNoEndpoint
}

// splitHost tells registry and repository apart. With ns, the name is the whole
// repository (containerd's way). Without, docker's rule holds: the first of
// several components names a registry when it has a dot or a colon, or is
// localhost; otherwise the registry is Docker Hub.
func splitHost(name, ns string) (host, path string) {
	if ns != "" {
		return ns, name
	}
	first, rest, more := strings.Cut(name, "/")
	if more && (first == registry.LocalHome || first == "localhost" || strings.ContainsAny(first, ".:")) {
		return first, rest
	}
	return dockerHub, name
}
