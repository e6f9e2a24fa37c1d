//go:build e2e

package e2e

import (
	"encoding/base64"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestKubernetesSignsIn: an image of a home that asks who pulls is pulled with the pull secret of a pod, in both of the forms that a kubelet
// sends, and with none or a wrong one it is not.
func TestKubernetesSignsIn(t *testing.T) {
	for _, version := range []containerdVersion{containerd16, containerd24} {
		t.Run(version.name, func(t *testing.T) {
			h := startLockedHome(t)
			ref := h.ref("team/app:v1")
			h.run(t, built("crane"), "push", layoutOf(t, busyboxImage(t, "of a pod")), ref)
			c := newContainerd(t, version)
			c.kubernetes, c.hosts = true, h.hostsFor(t)
			c.writeSettings(t)
			c.start(t)
			k := newKubelet(t, c)
			pull := func(secret *cri.AuthConfig) error {
				_, err := k.images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: secret})
				return err
			}
			for name, secret := range map[string]*cri.AuthConfig{"none": nil, "a wrong one": {Username: homeUser, Password: "wrong"}} {
				if pull(secret) == nil {
					t.Errorf("pulled with the secret %s", name)
				}
			}
			both := base64.StdEncoding.EncodeToString([]byte(homeUser + ":" + homePassword))
			for name, secret := range map[string]*cri.AuthConfig{"in two": {Username: homeUser, Password: homePassword}, "in one": {Auth: both}} {
				if err := pull(secret); err != nil {
					t.Errorf("the secret %s: %v", name, err)
				}
				k.remove(t, ref)
			}
		})
	}
}
