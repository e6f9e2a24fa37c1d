//go:build e2e

package e2e

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

// lieSize is the size of the blob that upstream lies about.
const lieSize = 8 << 20

// lieCases are what upstream does to a blob, each time it is asked, until it heals.
var lieCases = []struct {
	name    string
	how     lie
	refused bool  // upstream says no, so clients must be told so rather than be cut
	waits   bool  // imagecache may hope for longer than clients do
	kept    int64 // bytes that came true, and so are not sent again
}{
	{name: "cut", how: cutAt(lieSize / 2), kept: lieSize / 2},
	{name: "stall", how: stallAt(lieSize / 2), waits: true, kept: lieSize / 2},
	{name: "silence", how: stallAt(0), waits: true},
	{name: "500", how: refuse(http.StatusInternalServerError, 0), refused: true},
	{name: "429", how: refuse(http.StatusTooManyRequests, time.Second), refused: true},
	{name: "wrong last byte", how: wrongLastByte},
	{name: "another blob of the same size", how: anotherBlob(randomBytes(lieSize, 50))},
	{name: "a shorter blob", how: anotherBlob(randomBytes(lieSize/3, 51))},
	{name: "a longer blob", how: anotherBlob(randomBytes(lieSize*2, 52))},
}

// Point 5: upstream lies about a blob. No client completes wrong bytes, nothing wrong is stored, and when upstream heals, the pull succeeds
// and nothing true is sent twice.
func TestLyingUpstream(t *testing.T) {
	upstream := startRegistry(t, nil)
	image := ociImage(t, "amd64",
		static.NewLayer(randomBytes(1<<20, 53), types.OCIUncompressedLayer), static.NewLayer(randomBytes(lieSize, 54), types.OCIUncompressedLayer))
	upstream.push(t, "team/lies:1", image)
	blobs := blobsOf(t, image)
	about, others := blobs[2], blobs[:2]
	for _, test := range lieCases {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // most of the time is spent waiting
			liar := startLiar(t, upstream.url())
			liar.about(about, test.how)
			d := startDaemon(t, liar.server.URL)
			limit := patience
			if test.waits {
				limit = patience / 6
			}
			for _, err := range pullTogether(t, d, 3, limit) {
				if !test.waits || !errors.Is(err, context.DeadlineExceeded) {
					requireToldOfLie(t, err, test.refused)
				}
			}
			if d.holds(about) {
				t.Error("the store holds the blob that never came true")
			}
			d.requireTrueStore(t)

			sent := liar.bytesSent(about)
			liar.about(about, nil)
			eventually(t, "the pull succeeds when upstream has healed", func() error {
				_, err := newClient(t, d.addr).pull(t.Context(), "team/lies", "1")
				if errors.Is(err, errWrongBytes) {
					t.Fatal(err)
				}
				return err
			})
			// 1 MiB is what a broken connection may take with it, on its way to us.
			if again := liar.bytesSent(about) - sent; again > lieSize-test.kept+1<<20 {
				t.Errorf("%d bytes of a blob of %d were sent though %d were here; ranges: %q", again, lieSize, test.kept, liar.ranges(about))
			}
			requireSentOnce(t, liar, others)
			d.requireTrueStore(t)
		})
	}
}

// pullTogether lets clients pull at once, for no longer than limit, and gives how they fared.
func pullTogether(t *testing.T, d *daemon, clients int, limit time.Duration) []error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	ends := make(chan error, clients)
	for range clients {
		c := newClient(t, d.addr)
		go func() {
			_, err := c.pull(ctx, "team/lies", "1")
			ends <- err
		}()
	}
	var all []error
	for range clients {
		all = append(all, <-ends)
	}
	return all
}

// requireToldOfLie wants a pull to have failed, in a way that the client can see and by the daemon's will.
func requireToldOfLie(t *testing.T, err error, refused bool) {
	t.Helper()
	var status *statusError
	switch {
	case err == nil:
		t.Error("a pull succeeded while upstream lied")
	case errors.Is(err, errWrongBytes):
		t.Error(err)
	case errors.Is(err, context.DeadlineExceeded):
		t.Errorf("a client was left waiting: %v", err)
	case errors.As(err, &status):
		if status.status != http.StatusTooManyRequests && status.status <= http.StatusInternalServerError {
			t.Errorf("the trouble is upstream's, and the client is told %v", err)
		}
	case refused:
		t.Errorf("upstream refused and the client is not told: %v", err)
	}
}

// requireSentOnce wants each blob to have been asked for once.
func requireSentOnce(t *testing.T, liar *liar, blobs []digest.Digest) {
	t.Helper()
	for _, hash := range blobs {
		if ranges := liar.ranges(hash); len(ranges) != 1 {
			t.Errorf("%s, about which nobody lied, was asked for %d times: %q", hash, len(ranges), ranges)
		}
	}
}
