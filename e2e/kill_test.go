//go:build e2e

package e2e

import (
	"errors"
	"testing"
)

// Point 6: imagecache is killed with -9 in the middle of a blob of 200 MB. After it was started again, upstream sends only the rest.
func TestKillNineMidBlob(t *testing.T) {
	const (
		size = 200 << 20
		// slack is what may have been under way or not yet in the journal of the partial file.
		slack = 4 << 20
	)
	upstream := startRegistry(t, nil)
	image := randomImage(t, size, 60)
	upstream.push(t, "team/large:1", image)
	large := blobsOf(t, image)[1]
	liar := startLiar(t, upstream.url())
	half := newGate(size / 2)
	liar.about(large, gated(half))
	d := startDaemon(t, liar.server.URL)

	// Bytes that a client has are bytes that imagecache has written: the client reads them from its file.
	arrived, broken := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		told := false
		_, err := newClient(t, d.addr).blob(t.Context(), "team/large", large, func(n int64) {
			if !told && n >= size/2-slack/2 {
				told = true
				arrived <- struct{}{}
			}
		})
		broken <- err
	}()
	await(t, arrived, 1)
	d.proc.kill()
	if err := <-broken; err == nil || errors.Is(err, errWrongBytes) {
		t.Errorf("the client of a killed daemon says %v", err)
	}
	half.open()
	if d.holds(large) {
		t.Fatal("the store holds half a blob for a whole one")
	}

	d.start(t)
	newClient(t, d.addr).mustPull(t, "team/large", "1")
	if sent := liar.bytesSent(large); sent > size+slack {
		t.Errorf("upstream sent %d bytes of a blob of %d; ranges: %q", sent, size, liar.ranges(large))
	}
	d.requireTrueStore(t)
}
