package registrytest_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func get(t *testing.T, url string) ([]byte, error) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

func TestStallGoesOnAfterRelease(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	content := registrytest.Bytes(1, 100_000)
	url := r.URL() + "/v2/a/b/blobs/" + r.AddBlob("a/b", content).String()
	r.Add(registrytest.Rule{Path: "/blobs/", Times: 1, Lie: registrytest.Stall(60_000)})
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	head := make([]byte, 60_000)
	if _, err := io.ReadFull(res.Body, head); err != nil {
		t.Fatal(err)
	}
	if sent := r.Sent("GET", "/blobs/"); sent != 60_000 {
		t.Errorf("%d bytes sent before the stall", sent)
	}
	r.Release()
	rest, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Equal(append(head, rest...), content) {
		t.Errorf("%d bytes after the stall, %v", len(rest), err)
	}
}

func TestLies(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	content := registrytest.Bytes(1, 1000)
	url := r.URL() + "/v2/a/b/blobs/" + r.AddBlob("a/b", content).String()
	flipped := bytes.Clone(content)
	flipped[999] ^= 1
	for name, c := range map[string]struct {
		lie  registrytest.Lie
		want []byte
		cut  bool
	}{
		"cut":        {registrytest.Cut(10), content[:10], true},
		"corrupt":    {registrytest.Corrupt(999), flipped, false},
		"substitute": {registrytest.Substitute([]byte("other")), []byte("other"), false},
		"short":      {registrytest.Short(10), content[:10], false},
	} {
		r.Heal()
		r.Add(registrytest.Rule{Path: "/blobs/", Skip: 1, Times: 1, Lie: c.lie})
		for i, want := range [][]byte{content, c.want, content} {
			got, err := get(t, url)
			if !bytes.Equal(got, want) || (err != nil) != (c.cut && i == 1) {
				t.Errorf("%s, request %d: %d bytes, %v", name, i, len(got), err)
			}
		}
	}
}

func TestStopAndStartAtTheSameAddress(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	before := r.URL()
	r.Stop()
	if _, err := get(t, before+"/v2/"); err == nil {
		t.Fatal("a stopped registry answers")
	}
	r.Start(t)
	if _, err := get(t, before+"/v2/"); err != nil || r.URL() != before {
		t.Fatal(err)
	}
}
