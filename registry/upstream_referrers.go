package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	subjectReferrers subject = "list of referrers"

	maxReferrersPages = 20
	maxReferrers      = 4096 // of one manifest; an image has a handful
)

// errNoReferrers: upstream does not have the referrers API.
var errNoReferrers = errors.New("upstream has no referrers API")

// referrers lists what refers to a manifest: by the referrers API, else by the
// fallback tag (OCI distribution spec 1.1, "Listing Referrers" and "Referrers
// Tag Schema"). That nothing does is an empty list.
func (u *upstream) referrers(ctx context.Context, path string, of digest.Digest) ([]specs.Descriptor, error) {
	if u.home != nil {
		return u.home.referrers(Repository{u.name, path}, of)
	}
	ctx, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	list, err := u.referrersByAPI(ctx, path, of)
	if errors.Is(err, errNoReferrers) {
		list, err = u.referrersByTag(ctx, path, of)
	}
	if err != nil {
		return nil, aboutReference(err, u.name+"/"+path+"@"+of.String())
	}
	return wellFormed(list), nil
}

func (u *upstream) referrersByAPI(ctx context.Context, path string, of digest.Digest) ([]specs.Descriptor, error) {
	var all []specs.Descriptor
	query := ""
	for range maxReferrersPages {
		page, next, err := u.referrersPage(ctx, path, of, query)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if next == "" || next == query || len(all) > maxReferrers {
			break
		}
		query = next
	}
	return all[:min(len(all), maxReferrers)], nil
}

func (u *upstream) referrersPage(ctx context.Context, path string, of digest.Digest, query string) ([]specs.Descriptor, string, error) {
	res, err := u.ask(ctx, question{subject: subjectReferrers, method: http.MethodGet, path: path, rest: "referrers/" + of.String(),
		query: query, header: http.Header{"Accept": {specs.MediaTypeImageIndex}}, accept: referrersAnswers})
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, "", errNoReferrers
	}
	content, err := u.readBody(ctx, subjectReferrers, res, maxManifest)
	if err != nil {
		return nil, "", err
	}
	list, err := referrersIn(content)
	if err != nil {
		return nil, "", errNoReferrers // some page of a proxy or a login: not this API
	}
	return list, nextQuery(res.Header), nil
}

// referrersAnswers are the statuses of an answer, and those by which a
// registry says that it has no such API: the spec's 404, and what routers say
// of a path that they do not know.
func referrersAnswers(status int) bool {
	switch status {
	case http.StatusOK, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}

func (u *upstream) referrersByTag(ctx context.Context, path string, of digest.Digest) ([]specs.Descriptor, error) {
	ref := Reference{Repository: Repository{Registry: u.name, Path: path}, Tag: referrersTag(of)}
	got, err := u.manifest(ctx, path, ref)
	if e := (*Error)(nil); errors.As(err, &e) && (e.Code == CodeManifestUnknown || e.Code == CodeNameUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := referrersIn(got.Content)
	if err != nil {
		return nil, u.reject(CodeManifestInvalid, fmt.Sprintf("the tag %s is not an index of referrers", ref.Tag))
	}
	return list, nil
}

// referrersTag is the tag under which referrers are listed where there is no
// API: the algorithm cut to 32 characters, a dash, the digits cut to 64.
func referrersTag(of digest.Digest) string {
	algorithm, digits := of.Algorithm().String(), of.Encoded()
	return algorithm[:min(32, len(algorithm))] + "-" + digits[:min(64, len(digits))]
}

func referrersIn(content []byte) ([]specs.Descriptor, error) {
	var index struct {
		MediaType string             `json:"mediaType"`
		Manifests []specs.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, err
	}
	if index.Manifests == nil || index.MediaType != "" && index.MediaType != specs.MediaTypeImageIndex {
		return nil, errors.New("not an index")
	}
	return index.Manifests, nil
}

// wellFormed leaves out what could not be asked for.
func wellFormed(list []specs.Descriptor) []specs.Descriptor {
	right := make([]specs.Descriptor, 0, len(list))
	for _, d := range list {
		if _, err := ParseDigest(d.Digest.String()); err == nil && d.Size >= 0 {
			right = append(right, d)
		}
	}
	return right
}
