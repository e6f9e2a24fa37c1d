//go:build e2e

package e2e

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Before it judges imagecache, the suite shows that its own measures measure: that the registries want credentials and count, and that the
// strict client sees each lie when nobody stands between it and the liar.

func TestRegistryWithBearerTokens(t *testing.T) {
	tokens := startTokenService(t)
	upstream := startRegistry(t, tokens)
	image := busyboxImage(t, "hello")
	upstream.push(t, "team/app:1", image)
	resp, err := http.Get(upstream.url() + "/v2/team/app/manifests/1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if challenge := resp.Header.Get("Www-Authenticate"); resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(challenge, "Bearer ") {
		t.Fatalf("without a token: %s, %q", resp.Status, challenge)
	}
	reference := upstream.addr + "/team/app:1"
	copyOut := []string{"copy", "--src-tls-verify=false", "--src-creds", puller + ":" + pullerPassword}
	output(t, debian("skopeo"), append(copyOut, "docker://"+reference, "dir:"+t.TempDir())...)
	upstream.requireFetchedOnce(t, blobsOf(t, image))
	if asked := tokens.asked(); len(asked) == 0 || asked[0].user != puller {
		t.Errorf("the token service was asked %+v", asked)
	}
}

func TestStrictClientSeesLies(t *testing.T) {
	upstream := startRegistry(t, nil)
	const size = 4 << 20
	image := randomImage(t, size, 1)
	upstream.push(t, "team/lies:1", image)
	hash := blobsOf(t, image)[1]
	liar := startLiar(t, upstream.url())
	c := newClient(t, strings.TrimPrefix(liar.server.URL, "http://"))
	c.http.Transport, c.ns = basic(puller, pullerPassword), ""
	refused := new(statusError)
	for name, test := range map[string]struct {
		how  lie
		want func(err error) bool
		sent int64
	}{
		"truth":        {nil, func(err error) bool { return err == nil }, size},
		"cut":          {cutAt(size / 2), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }, size / 2},
		"429":          {refuse(429, time.Second), func(err error) bool { return errors.As(err, &refused) && refused.header.Get("Retry-After") == "1" }, 0},
		"last byte":    {wrongLastByte, func(err error) bool { return errors.Is(err, errWrongBytes) }, size},
		"another blob": {anotherBlob([]byte("another")), func(err error) bool { return errors.Is(err, errWrongBytes) }, 7},
	} {
		t.Run(name, func(t *testing.T) {
			liar.about(hash, test.how)
			before := liar.bytesSent(hash)
			if _, err := c.blob(t.Context(), "team/lies", hash, nil); !test.want(err) {
				t.Errorf("the client says %v", err)
			}
			if sent := liar.bytesSent(hash) - before; sent != test.sent {
				t.Errorf("the liar counts %d bytes, want %d", sent, test.sent)
			}
		})
	}
}
