package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const (
	maxTagsPage  = 10 << 20 // bytes
	maxTagsPages = 2_000    // some page by 50
	maxTags      = 100_000
)

// tags lists all tags of a repository, in upstream's order.
func (u *upstream) tags(ctx context.Context, path string) ([]string, error) {
	if u.home != nil {
		return u.home.tags(Repository{u.name, path})
	}
	reference := u.name + "/" + path
	var all []string
	query := "" // upstream's own page size: some refuse one they find too large
	for range maxTagsPages {
		page, next, err := u.tagsPage(ctx, path, query)
		if err != nil {
			return nil, aboutReference(err, reference)
		}
		if all = append(all, page...); len(all) > maxTags {
			return nil, u.reject(CodeUnsupported, fmt.Sprintf("upstream lists more than %d tags", maxTags)).about(reference)
		}
		if next == "" || next == query {
			return all, nil
		}
		query = next
	}
	return nil, u.reject(CodeUnsupported, fmt.Sprintf("upstream lists its tags on more than %d pages", maxTagsPages)).about(reference)
}

// tagsPage returns the tags of one page and the query of the next, "" at the end.
func (u *upstream) tagsPage(ctx context.Context, path, query string) ([]string, string, error) {
	res, err := u.ask(ctx, question{subject: subjectTags, method: http.MethodGet, path: path, rest: "tags/list", query: query,
		header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	content, err := u.readBody(ctx, subjectTags, res, maxTagsPage)
	if err != nil {
		return nil, "", err
	}
	if len(content) > maxTagsPage {
		return nil, "", u.reject(CodeUnsupported, "a page of upstream's tags is larger than 10 MiB")
	}
	var page struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(content, &page); err != nil {
		return nil, "", u.reject(CodeUnavailable, "upstream's list of tags cannot be read")
	}
	tags := page.Tags[:0]
	for _, tag := range page.Tags {
		if isTagName(tag) {
			tags = append(tags, tag)
		}
	}
	return tags, nextQuery(res.Header), nil
}

// nextQuery reads the query of the next page from Link (RFC 8288). Only the
// query: the next page of this list is at the same address, wherever
// upstream may point.
func nextQuery(h http.Header) string {
	for _, value := range h.Values("Link") {
		for link := range strings.SplitSeq(value, ",") {
			target, parameters, _ := strings.Cut(link, ";")
			target = strings.TrimSpace(target)
			if !strings.HasPrefix(target, "<") || !strings.HasSuffix(target, ">") || !isNext(parameters) {
				continue
			}
			if u, err := url.Parse(target[1 : len(target)-1]); err == nil {
				return u.RawQuery
			}
		}
	}
	return ""
}

func isNext(parameters string) bool {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if strings.EqualFold(name, "rel") && strings.EqualFold(strings.Trim(value, `"`), "next") {
			return true
		}
	}
	return false
}
