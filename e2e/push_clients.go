//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// pushClient is what a client does with a home. References are as in "team/app:v1". A client that cannot do one of it has nil there.
type pushClient struct {
	name string
	// prepare tells the client of the home, where that needs telling.
	prepare func(t *testing.T, h *home)
	push    func(t *testing.T, h *home, layout, ref string)
	pull    func(t *testing.T, h *home, ref string) digest.Digest
	list    func(t *testing.T, h *home, repository string) []string
	copy    func(t *testing.T, h *home, from, to string) // within the registry: the blobs are mounted
	remove  func(t *testing.T, h *home, repository, tag string, d digest.Digest)
}

// pushClients are all that push to a home in these tests.
func pushClients() []pushClient {
	return []pushClient{craneClient(), skopeoClient(), regctlClient(), orasClient()}
}

func craneClient() pushClient {
	crane := built("crane")
	return pushClient{
		name: "crane",
		push: func(t *testing.T, h *home, layout, ref string) { h.run(t, crane, "push", layout, h.ref(ref)) },
		pull: func(t *testing.T, h *home, ref string) digest.Digest {
			to := t.TempDir()
			h.run(t, crane, "pull", "--format=oci", h.ref(ref), to)
			return pulled(t, to)
		},
		list: func(t *testing.T, h *home, repository string) []string {
			return strings.Fields(h.run(t, crane, "ls", h.ref(repository)))
		},
		copy: func(t *testing.T, h *home, from, to string) { h.run(t, crane, "copy", h.ref(from), h.ref(to)) },
		remove: func(t *testing.T, h *home, repository, tag string, d digest.Digest) {
			h.run(t, crane, "delete", h.ref(repository+":"+tag))
			h.run(t, crane, "delete", h.ref(repository+"@"+d.String()))
		},
	}
}

func skopeoClient() pushClient {
	skopeo := debian("skopeo")
	return pushClient{
		name: "skopeo",
		push: func(t *testing.T, h *home, layout, ref string) {
			h.run(t, skopeo, "copy", h.tlsVerify("dest-tls-verify"), "oci:"+layout+":v1", "docker://"+h.ref(ref))
		},
		pull: func(t *testing.T, h *home, ref string) digest.Digest {
			to := t.TempDir()
			h.run(t, skopeo, "copy", h.tlsVerify("src-tls-verify"), "docker://"+h.ref(ref), "oci:"+to+":v1")
			return pulled(t, to)
		},
		list: func(t *testing.T, h *home, repository string) []string {
			var list struct{ Tags []string }
			decode(t, h.run(t, skopeo, "list-tags", h.tlsVerify("tls-verify"), "docker://"+h.ref(repository)), &list)
			return list.Tags
		},
		copy: func(t *testing.T, h *home, from, to string) {
			h.run(t, skopeo, "copy", h.tlsVerify("src-tls-verify"), h.tlsVerify("dest-tls-verify"), "docker://"+h.ref(from), "docker://"+h.ref(to))
		},
		remove: func(t *testing.T, h *home, repository, tag string, _ digest.Digest) { // it finds the digest, and deletes by that
			h.run(t, skopeo, "delete", h.tlsVerify("tls-verify"), "docker://"+h.ref(repository+":"+tag))
		},
	}
}

func regctlClient() pushClient {
	regctl := built("regctl")
	return pushClient{
		name: "regctl",
		prepare: func(t *testing.T, h *home) {
			how := "disabled"
			if h.ca != "" {
				how = "enabled"
			}
			h.run(t, regctl, "registry", "set", "--skip-check", "--tls", how, h.addr)
		},
		push: func(t *testing.T, h *home, layout, ref string) {
			h.run(t, regctl, "image", "copy", "ocidir://"+layout+":v1", h.ref(ref))
		},
		pull: func(t *testing.T, h *home, ref string) digest.Digest {
			to := t.TempDir()
			h.run(t, regctl, "image", "copy", h.ref(ref), "ocidir://"+to+":v1")
			return pulled(t, to)
		},
		list: func(t *testing.T, h *home, repository string) []string {
			return strings.Fields(h.run(t, regctl, "tag", "ls", h.ref(repository)))
		},
		copy: func(t *testing.T, h *home, from, to string) {
			h.run(t, regctl, "image", "copy", h.ref(from), h.ref(to))
		},
		remove: func(t *testing.T, h *home, repository, tag string, d digest.Digest) {
			h.run(t, regctl, "tag", "delete", h.ref(repository+":"+tag))
			h.run(t, regctl, "manifest", "delete", h.ref(repository+"@"+d.String()))
		},
	}
}

// orasRepository is a repository of the home as oras-go has it.
func orasRepository(t *testing.T, h *home, repository string) *remote.Repository {
	t.Helper()
	r, err := remote.NewRepository(h.ref(repository))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.roots(t)}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &auth.Client{Client: &http.Client{Transport: transport}, Cache: auth.NewCache()}
	if h.user != "" {
		client.Credential = auth.StaticCredential(h.addr, auth.Credential{Username: homeUser, Password: homePassword})
	}
	r.Client, r.PlainHTTP = client, h.ca == ""
	return r
}

func orasClient() pushClient {
	return pushClient{
		name: "oras-go",
		push: func(t *testing.T, h *home, layout, ref string) {
			from, err := oci.New(layout)
			if err != nil {
				t.Fatal(err)
			}
			repository, tag, _ := strings.Cut(ref, ":")
			if _, err := oras.Copy(t.Context(), from, "v1", orasRepository(t, h, repository), tag, oras.DefaultCopyOptions); err != nil {
				t.Fatal(err)
			}
		},
		pull: func(t *testing.T, h *home, ref string) digest.Digest {
			repository, tag, _ := strings.Cut(ref, ":")
			d, err := oras.Copy(t.Context(), orasRepository(t, h, repository), tag, memory.New(), "", oras.DefaultCopyOptions)
			if err != nil {
				t.Fatal(err)
			}
			return d.Digest
		},
		list: func(t *testing.T, h *home, repository string) (all []string) {
			err := orasRepository(t, h, repository).Tags(t.Context(), "", func(tags []string) error { all = append(all, tags...); return nil })
			if err != nil {
				t.Fatal(err)
			}
			return all
		},
		copy:   orasMounts,
		remove: orasRemoves,
	}
}

// orasMounts copies as oras does where source and destination are one registry.
func orasMounts(t *testing.T, h *home, from, to string) {
	t.Helper()
	source, tag, _ := strings.Cut(from, ":")
	target, newTag, _ := strings.Cut(to, ":")
	options := oras.DefaultCopyOptions
	options.MountFrom = func(context.Context, specs.Descriptor) ([]string, error) { return []string{"local/" + source}, nil }
	if _, err := oras.Copy(t.Context(), orasRepository(t, h, source), tag, orasRepository(t, h, target), newTag, options); err != nil {
		t.Fatal(err)
	}
}

func orasRemoves(t *testing.T, h *home, repository, tag string, _ digest.Digest) {
	t.Helper()
	r := orasRepository(t, h, repository)
	desc, err := r.Resolve(t.Context(), tag)
	if err == nil {
		err = r.Delete(t.Context(), desc)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// pulled is the digest of the one image that was pulled into a layout.
func pulled(t *testing.T, layout string) digest.Digest {
	t.Helper()
	d, err := layoutDigest(layout)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// hostsFor writes how containerd reaches the home.
func (h *home) hostsFor(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	scheme, ca := "http", ""
	if h.ca != "" {
		scheme, ca = "https", fmt.Sprintf("  ca = %q\n", h.ca)
	}
	folder := filepath.Join(dir, h.addr)
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "hosts.toml"), fmt.Appendf(nil, "server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n%s", scheme+"://"+h.addr, scheme+"://"+h.addr, ca))
	return dir
}
