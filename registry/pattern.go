package registry

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// matchesMost is how many references a pattern may stand for: more is more
// likely a slip than a wish.
const matchesMost = 1000

// IsPattern reports whether s has a character that stands for others: * for
// any but a slash, ? for one of them, […] for one of a set.
func IsPattern(s string) bool {
	name, _, _ := strings.Cut(s, "@")
	return strings.ContainsAny(name, "*?[")
}

// pattern stands for references: the registry as it is, path and tag as globs.
type pattern struct {
	registry, path, tag string
}

// parsePattern reads a pattern by the rules of [ParseReference]. Errors have
// [CodeNameInvalid].
func parsePattern(s string) (pattern, error) {
	bad := func(why string) (pattern, error) {
		return pattern{}, &Error{Code: CodeNameInvalid, Reference: quoted(s), Message: why}
	}
	if strings.Contains(s, "@") {
		return bad("a pattern has no digest")
	}
	name, tag, hasTag := cutTag(s)
	if !hasTag {
		tag = "latest"
	}
	p := pattern{registry: dockerHub, path: name, tag: tag}
	if first, rest, more := strings.Cut(name, "/"); more && (first == "localhost" || strings.ContainsAny(first, ".:")) {
		p.registry, p.path = canonicalRegistry(first), rest
	}
	if p.registry == dockerHub && !strings.Contains(p.path, "/") {
		p.path = "library/" + p.path
	}
	switch _, err := path.Match(p.path+":"+p.tag, ""); {
	case err != nil:
		return bad("a [ in it has no end")
	case !isRegistryName(p.registry):
		return bad("the registry of a pattern is a name, not a pattern")
	case p.path == "" || p.tag == "":
		return bad("not a pattern of references, which is like registry.example/team/*:v*")
	}
	return p, nil
}

// Match lists the references that a pattern stands for now, sorted, such as
// "registry.example/team/app:v*". Tags are those that upstream lists: where it cannot be
// asked that is an error, for those that are known here may be few of them.
// Upstreams tell nobody which repositories they have, so that a pattern in the
// path stands for those that are known here. Tags made by tools (sha256-…) are matched by nothing that does not
// begin like them. Errors are those of Tags, and *[Error] with
// [CodeUnsupported] where there are too many.
func (r *Registry) Match(ctx context.Context, s string) ([]Reference, error) {
	p, err := parsePattern(s)
	if err != nil {
		return nil, err
	}
	repositories, err := r.repositoriesLike(p)
	if err != nil {
		return nil, err
	}
	var matches []Reference
	for _, in := range repositories {
		tags, err := r.operatorTags(ctx, in)
		if err != nil {
			return nil, err
		}
		for _, tag := range tags {
			if p.matchesTag(tag) {
				matches = append(matches, Reference{Repository: in, Tag: tag})
			}
		}
		if len(matches) > matchesMost {
			return nil, &Error{Code: CodeUnsupported, Reference: quoted(s), Message: fmt.Sprintf("more than %d references match", matchesMost)}
		}
	}
	slices.SortFunc(matches, func(a, b Reference) int { return strings.Compare(a.String(), b.String()) })
	return matches, nil
}

// toolTag is a tag that names a digest: referrers, and cosign's signatures.
var toolTag = regexp.MustCompile(`^sha(256|512)-[0-9a-f]{32,}`)

func (p pattern) matchesTag(tag string) bool {
	if toolTag.MatchString(tag) && !strings.HasPrefix(p.tag, "sha") {
		return false
	}
	ok, _ := path.Match(p.tag, tag)
	return ok
}

// repositoriesLike is the repository of a pattern, or those known here that
// its path stands for.
func (r *Registry) repositoriesLike(p pattern) ([]Repository, error) {
	if !strings.ContainsAny(p.path, "*?[") {
		in, err := NewRepository(p.registry, p.path)
		return []Repository{in}, err
	}
	known, err := r.knownRepositories(p.registry)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(known, func(in Repository) bool {
		ok, _ := path.Match(p.path, in.Path)
		return !ok
	}), nil
}

// knownRepositories are those of a registry of which anything was fetched.
func (r *Registry) knownRepositories(registry string) (known []Repository, err error) {
	prefix := registry + "/"
	err = r.state.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketHolds).Cursor()
		for k, _ := c.Seek([]byte(prefix)); k != nil && strings.HasPrefix(string(k), prefix); {
			name, _, _ := strings.Cut(strings.TrimPrefix(string(k), prefix), "@")
			if in, err := NewRepository(registry, name); err == nil {
				known = append(known, in)
			}
			k, _ = c.Seek([]byte(prefix + name + "A")) // the byte after @: past all its digests
		}
		return nil
	})
	return known, err
}

// operatorTags lists upstream's tags of a repository as the operator may see them.
func (r *Registry) operatorTags(ctx context.Context, in Repository) ([]string, error) {
	v, err := r.operatorView(in)
	if err != nil {
		return nil, r.about(in.String(), err)
	}
	wait, cancel := context.WithTimeoutCause(ctx, tagListWait, errNoAnswer)
	defer cancel()
	tags, err := v.upstream.tags(wait, in.Path)
	return tags, r.about(in.String(), err)
}
