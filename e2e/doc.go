// Package e2e holds the end-to-end tests: imagecache as it is built, between real registries and real clients.
//
// setup.sh installs the programs they need; the tests run as root, because containers do:
//
//	e2e/setup.sh && go test -tags e2e ./e2e/
//
// Upstream is Debian's docker-registry (registry:2), behind htpasswd or behind a service for bearer tokens. Clients are containerd 1.6 and
// 2.4 with runc, skopeo, crane, regctl, oras-go and a strict client in Go; with the tag clients podman, buildah, helm and cosign too. Between imagecache and a registry a test may put a liar, which forwards what it
// hears and breaks, delays or falsifies what the test asks it to, and counts. All traffic stays on the loopback interface.
package e2e
