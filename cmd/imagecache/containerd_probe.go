package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry"
)

// probePatience bounds one host's answer: long enough for a cold manifest from far away, short enough for a person who waits.
const probePatience = 15 * time.Second

// dockerMediaTypes are Docker's manifests, which are asked for beside OCI's as containerd does.
const dockerMediaTypes = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"

// probe asks one host what containerd would: this cache for the manifest, any other whether it is there, with containerd's own client for
// it, so that its dial timeout and its certificates count.
func probe(ctx context.Context, host docker.RegistryHost, ours bool, ref registry.Reference) (ok bool, outcome string) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	method, target := http.MethodGet, hostURL(host)+"/"
	if ours {
		method, target = http.MethodHead, manifestURL(host, ref)
	}
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return false, err.Error()
	}
	request.Header.Set("User-Agent", "imagecache/"+buildVersion())
	request.Header.Set("Accept", strings.Join([]string{specs.MediaTypeImageIndex, specs.MediaTypeImageManifest, dockerMediaTypes, "*/*"}, ", "))
	for name, values := range host.Header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	response, err := host.Client.Do(request)
	if err != nil {
		return false, "does not answer: " + unwrapURL(err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // for the connection's sake; what it says does not matter
	return judgeAnswer(response, ours)
}

func manifestURL(host docker.RegistryHost, ref registry.Reference) string {
	what := ref.Tag
	if ref.Digest != "" {
		what = ref.Digest.String()
	}
	return fmt.Sprintf("%s/%s/manifests/%s?ns=%s", hostURL(host), ref.Path, what, url.QueryEscape(ref.Registry))
}

// judgeAnswer puts an answer in words. A registry may ask for a login, and is there all the same.
func judgeAnswer(response *http.Response, ours bool) (ok bool, outcome string) {
	outcome = fmt.Sprintf("answers %d %s", response.StatusCode, strings.ToLower(http.StatusText(response.StatusCode)))
	if !ours {
		return response.StatusCode == http.StatusOK || response.StatusCode == http.StatusUnauthorized, outcome
	}
	if digest := response.Header.Get("Docker-Content-Digest"); digest != "" {
		outcome += ", " + digest
	}
	if status := response.Header.Get("Cache-Status"); status != "" {
		outcome += ", " + status
	}
	return response.StatusCode == http.StatusOK, outcome
}

// unwrapURL takes the method and the address off an error: the table has them already.
func unwrapURL(err error) string {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var operation *net.OpError
	if errors.As(err, &operation) && operation.Err != nil {
		err = operation.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("nothing came within %s", probePatience)
	}
	return err.Error()
}
