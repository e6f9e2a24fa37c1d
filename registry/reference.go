package registry

import (
	_ "crypto/sha256" // the two algorithms of the OCI image spec, which go-digest
	_ "crypto/sha512" // knows only when they are linked in
	"errors"
	"fmt"
	"regexp"
	"strings"

	dockerref "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// registryName is a host with or without a port, as references have it.
var registryName = regexp.MustCompile(`^(?:` + dockerref.DomainRegexp.String() + `)$`)

// maxName is the longest registry and path together, in bytes. The spec names
// 255 as what many clients take; longer ones could not be pulled anyway.
const maxName = 255

// Repository names a repository: the registry as it stands in references
// ("docker.io", "127.0.0.1:5000"), never an address to dial, and the path in
// it ("library/nginx").
type Repository struct {
	Registry, Path string
}

// NewRepository checks both parts and brings them into the one form we keep:
// the registry in lower case, Docker Hub's other names as docker.io, and its
// official images under library/. Errors have [CodeNameInvalid].
func NewRepository(registry, path string) (Repository, error) {
	name := canonicalRegistry(registry)
	if !isRegistryName(name) {
		return Repository{}, &Error{Code: CodeNameInvalid, Reference: quoted(registry),
			Message: "not the name of a registry: a host with a dot, with a port, or localhost"}
	}
	if !isRepositoryPath(path) {
		return Repository{}, &Error{Code: CodeNameInvalid, Reference: quoted(path),
			Message: "not the name of a repository: lower case letters and digits, parted by one of . _ __ - or /"}
	}
	if name == dockerHub && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	if len(name)+1+len(path) > maxName {
		return Repository{}, &Error{Code: CodeNameInvalid, Reference: quoted(path), Message: fmt.Sprintf("a name has at most %d characters", maxName)}
	}
	return Repository{Registry: name, Path: path}, nil
}

// isRegistryName reports whether name can stand first in a reference. Docker's
// rules take a word without dot and port for a part of a path on Docker Hub, so
// that a registry of such a name could not be referred to.
func isRegistryName(name string) bool {
	return (isPlainHost(name) || registryName.MatchString(name)) && (name == LocalHome || name == "localhost" || strings.ContainsAny(name, ".:"))
}

// String is the full name: "docker.io/library/nginx".
func (r Repository) String() string { return r.Registry + "/" + r.Path }

// Reference names a manifest of the repository by what stands in a request:
// a digest (it has a colon) or a tag. Errors have [CodeDigestInvalid] or
// [CodeTagInvalid].
func (r Repository) Reference(tagOrDigest string) (Reference, error) {
	if strings.Contains(tagOrDigest, ":") {
		d, err := ParseDigest(tagOrDigest)
		if err != nil {
			return Reference{}, err
		}
		return Reference{Repository: r, Digest: d}, nil
	}
	if !isTagName(tagOrDigest) {
		return Reference{}, &Error{Code: CodeTagInvalid, Reference: quoted(tagOrDigest),
			Message: "not a tag: at most 128 letters, digits, dots, dashes and underscores"}
	}
	return Reference{Repository: r, Tag: tagOrDigest}, nil
}

// Reference names a manifest. At least one of Tag and Digest is set; the
// digest wins over the tag.
type Reference struct {
	Repository
	Tag    string
	Digest digest.Digest
}

// ParseReference reads a reference as users type it, by the rules of
// docker: "nginx" is docker.io/library/nginx:latest. Errors are *[Error]
// with [CodeNameInvalid], [CodeTagInvalid] or [CodeDigestInvalid].
func ParseReference(s string) (Reference, error) {
	name, rest, hasDigest := strings.Cut(s, "@")
	name, tag, hasTag := cutTag(name)
	repository, err := parseName(name)
	if err != nil {
		return Reference{}, err
	}
	if !hasTag && !hasDigest {
		tag, hasTag = "latest", true
	}
	ref := Reference{Repository: repository}
	if hasTag {
		if ref, err = repository.Reference(tag); err != nil {
			return Reference{}, err
		}
	}
	if hasDigest {
		if ref.Digest, err = ParseDigest(rest); err != nil {
			return Reference{}, err
		}
	}
	return ref, nil
}

// parseName reads the name of a repository by the rules of docker, but for
// one: what begins with local/ is at home, and not on Docker Hub.
func parseName(name string) (Repository, error) {
	if path, ok := strings.CutPrefix(name, LocalHome+"/"); ok {
		return NewRepository(LocalHome, path)
	}
	named, err := dockerref.ParseNormalizedNamed(name)
	if err == nil && !dockerref.IsNameOnly(named) {
		err = errors.New("it has two tags")
	}
	if err != nil {
		return Repository{}, &Error{Code: CodeNameInvalid, Reference: quoted(name), Message: "not a reference of an image", Err: err}
	}
	return NewRepository(dockerref.Domain(named), dockerref.Path(named))
}

// cutTag parts name from tag. A colon before a slash belongs to a port.
func cutTag(s string) (name, tag string, found bool) {
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// String is the full form: "docker.io/library/nginx:latest", with "@" and the
// digest when there is one.
func (r Reference) String() string {
	var colon, at string
	if r.Tag != "" {
		colon = ":"
	}
	if r.Digest != "" {
		at = "@"
	}
	return r.Registry + "/" + r.Path + colon + r.Tag + at + r.Digest.String()
}

// asked is what upstream is asked for: the digest, else the tag.
func (r Reference) asked() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// ParseDigest reads a digest of one of the two algorithms of the OCI image
// spec, sha256 and sha512, in lower case. Errors have [CodeDigestInvalid].
func ParseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if layerstore.IsSHA256(d) { // as nearly all are
		return d, nil
	}
	if err := d.Validate(); err != nil {
		return "", &Error{Code: CodeDigestInvalid, Reference: quoted(s), Message: "not a digest: sha256: or sha512: and its hex digits, in lower case", Err: err}
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", &Error{Code: CodeDigestInvalid, Reference: quoted(s), Message: fmt.Sprintf("the algorithm %s is not supported, only sha256 and sha512", a)}
	}
	return d, nil
}

// quoted shows what a caller sent, which may be long and hold anything.
func quoted(s string) string {
	const enough = 300 // bytes; the longest right reference with a tag is not much longer
	if len(s) > enough {
		s = s[:enough] + "…"
	}
	return fmt.Sprintf("%q", s)
}
