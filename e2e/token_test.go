//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// TestTokenThatEndsMidPull: between the manifest and the layers the token ends, though more was said of it.
func TestTokenThatEndsMidPull(t *testing.T) {
	for _, k := range kinds() {
		if !k.tokens {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			g := startGuarded(t, k)
			image := busyboxImage(t, "long pull")
			g.push(t, "team/app:v1", image)
			d := startDaemon(t, g.url(), `read_ahead = "off"`)
			// The registry forgives a minute: what ended 58 s ago is good for two seconds more.
			g.tokens.lives(-58 * time.Second)
			c := newClient(t, d.addr)
			top, err := c.manifest(t.Context(), "team/app", "v1")
			if err != nil {
				t.Fatal(err)
			}
			used := g.tokens.tokens()
			last := withAuthorization("Bearer " + used[len(used)-1])
			eventually(t, "the token has ended", func() error {
				direct := &client{base: g.url(), http: &http.Client{Transport: last}}
				if status, _ := direct.ask(t, http.MethodHead, "team/app", "manifests/"+top.digest.String(), nil); status != http.StatusUnauthorized {
					return fmt.Errorf("it is answered %d", status)
				}
				return nil
			})
			g.tokens.lives(0)
			before := len(g.tokens.asked())
			for _, b := range blobsOf(t, image) {
				if _, err := c.blob(t.Context(), "team/app", b, nil); err != nil {
					t.Error(err)
				}
			}
			if n := len(g.tokens.asked()) - before; n != 1 {
				t.Errorf("%d tokens were asked for, want one", n)
			}
		})
	}
}

// TestAThousandPullsOfATag: an old one is one HEAD, a fresh one none.
func TestAThousandPullsOfATag(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			g := startGuarded(t, k)
			want := g.push(t, "team/app:v1", busyboxImage(t, "asked for often"))
			d := startDaemon(t, g.url(), `tag_ttl = "1h"`)
			newClient(t, d.addr).mustPull(t, "team/app", "v1")
			d.proc.stop()
			makeOld(t, d, upstreamName+"/team/app:v1")
			d.start(t)
			heads, gets := g.answered(t, http.MethodHead), g.answered(t, http.MethodGet)
			thousand := func() {
				t.Helper()
				transport := &http.Transport{DisableCompression: true}
				defer transport.CloseIdleConnections()
				var pulls errgroup.Group
				for range 1000 {
					pulls.Go(func() error {
						c := &client{base: "http://" + d.addr, ns: upstreamName, http: &http.Client{Transport: transport}}
						got, err := c.manifest(t.Context(), "team/app", "v1")
						if err == nil && got.digest != want {
							err = fmt.Errorf("got %s, want %s", got.digest, want)
						}
						return err
					})
				}
				if err := pulls.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			thousand()
			eventually(t, "the registry has logged it", func() error {
				if n := g.answered(t, http.MethodHead) - heads; n != 1 {
					return fmt.Errorf("%d HEADs", n)
				}
				return nil
			})
			thousand()
			if n, m := g.answered(t, http.MethodHead)-heads, g.answered(t, http.MethodGet)-gets; n != 1 || m != 0 {
				t.Errorf("%d HEADs and %d GETs of manifests, want 1 and 0", n, m)
			}
		})
	}
}

// makeOld makes the tags that a stopped daemon knows two hours older.
func makeOld(t *testing.T, d *daemon, reference string) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(d.root, "registry.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error {
		tags := tx.Bucket([]byte("tags"))
		var row map[string]any
		if err := json.Unmarshal(tags.Get([]byte(reference)), &row); err != nil {
			return fmt.Errorf("row of %s: %w", reference, err)
		}
		row["checked"] = time.Now().Add(-2 * time.Hour).Format(time.RFC3339)
		value, err := json.Marshal(row)
		if err != nil {
			return err
		}
		return tags.Put([]byte(reference), value)
	})
	if err != nil {
		t.Fatal(err)
	}
}
