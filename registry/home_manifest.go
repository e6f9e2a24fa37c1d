package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// attachment is what is looked at in a manifest that is pushed, and not in one
// that is pulled: what it refers to, and what others will filter it by.
type attachment struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Subject       *specs.Descriptor `json:"subject"`
}

// pushedManifest reads what a client sent. It is stricter than what is read of
// an upstream, which cannot be told to do better: what is refused here would be
// refused, or read as something else, by those who pull it. Errors have
// [CodeManifestInvalid], or [CodeDigestInvalid] where ref has a digest that
// is not the content's.
func pushedManifest(ref Reference, mediaType string, content []byte, r *Registry) (*Manifest, *specs.Descriptor, error) {
	var a attachment
	if err := readJSON(content, &a); err != nil {
		return nil, nil, err
	}
	if err := spelledOnce(content); err != nil {
		return nil, nil, err
	}
	if err := a.checkType(mediaType); err != nil {
		return nil, nil, err
	}
	p, err := parseManifest(mediaType, content)
	if err != nil {
		return nil, nil, err
	}
	if err := a.check(p); err != nil {
		return nil, nil, err
	}
	d := digest.FromBytes(content)
	if ref.Digest != "" {
		if d = ref.Digest.Algorithm().FromBytes(content); d != ref.Digest {
			return nil, nil, &Error{Code: CodeDigestInvalid, Message: "what was sent has the digest " + d.String() + ", not the one that it is pushed by"}
		}
	}
	return &Manifest{
		Descriptor: specs.Descriptor{MediaType: p.mediaType, Digest: d, Size: int64(len(content))},
		Content:    content, parsed: p, came: r.now(),
	}, a.Subject, nil
}

// readJSON is json.Unmarshal with errors in the words of who sent the content,
// and without the names of our types.
func readJSON(content []byte, into any) error {
	if len(bytes.TrimSpace(content)) == 0 {
		return invalid("the body is empty: a manifest is expected")
	}
	if !utf8.Valid(content) {
		return invalid("what was sent is not a manifest: it is not JSON in UTF-8")
	}
	return notJSON(json.Unmarshal(content, into))
}

func notJSON(err error) error {
	var field *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &field) && field.Field == "":
		return invalid("what was sent is not a manifest: it is a JSON %s, not an object", field.Value)
	case errors.As(err, &field):
		return invalid("%s of the manifest cannot be a JSON %s", field.Field, field.Value)
	case errors.As(err, &syntax):
		return invalid("what was sent is not a manifest: no JSON at byte %d: %v", syntax.Offset, syntax)
	}
	return invalid("what was sent is not a manifest: %v", err)
}

// checkType holds the Content-Type against what the manifest says of itself. A
// client must send the same as it says there (distribution-spec, "Pushing
// Manifests"); one that sends none is believed what it says there.
func (a attachment) checkType(announced string) error {
	switch {
	case isIndex(announced), isImage(announced), strings.HasPrefix(announced, mediaTypeDockerSchema1):
		return nil // the rest is for parseManifest
	case announced != "" && (isIndex(a.MediaType) || isImage(a.MediaType)):
		return invalid("the Content-Type is %s: send %s, as the manifest calls itself", quoted(announced), a.MediaType)
	case announced != "":
		return invalid("the Content-Type %s is none of a manifest: send %s or %s", quoted(announced), specs.MediaTypeImageManifest, specs.MediaTypeImageIndex)
	case a.MediaType == "":
		return invalid("there is no Content-Type, and the manifest has no mediaType: send %s or %s", specs.MediaTypeImageManifest, specs.MediaTypeImageIndex)
	}
	return nil
}

// check refuses what no client could use, though it can be read.
func (a attachment) check(p parsed) error {
	switch {
	case !isIndex(p.mediaType) && !isImage(p.mediaType):
		return invalid("%q is no media type of a manifest", p.mediaType)
	case a.SchemaVersion != 2:
		return invalid("the schemaVersion of the manifest is %d, it must be 2", a.SchemaVersion)
	case isImage(p.mediaType) && p.config == nil:
		return invalid("the manifest has no config; one without anything to say has %s", specs.MediaTypeEmptyJSON)
	}
	named := p.names()
	if s := a.Subject; s != nil {
		if _, err := ParseDigest(s.Digest.String()); err != nil {
			return invalid("the manifest's subject is %s, which is no digest of sha256 or sha512", quoted(s.Digest.String()))
		}
		named = append(named, *s)
	}
	for _, d := range named {
		if d.Data != nil && (int64(len(d.Data)) != d.Size || d.Digest.Algorithm().FromBytes(d.Data) != d.Digest) {
			return invalid("the data that the manifest has of %s are not those of the digest and the size", d.Digest)
		}
	}
	return nil
}

// Fault is what is wrong with a part of what was sent.
type Fault struct {
	Digest  digest.Digest // of the part
	Message string        // one sentence for a person
}

// faultsMost is how many faults are told at once: a manifest of 4 MiB may have
// thirty thousand, and whoever mends a hundred sees the next ones.
const faultsMost = 100

// faulty is the error of a manifest that has faults, nil without any.
func faulty(code Code, faults []Fault) error {
	if len(faults) == 0 {
		return nil
	}
	told := faults[:min(len(faults), faultsMost)]
	if more := len(faults) - len(told); more > 0 {
		told[len(told)-1].Message += fmt.Sprintf("; and %d more", more)
	}
	return &Error{Code: code, Message: told[0].Message, Faults: told}
}
