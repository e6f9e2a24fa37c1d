package registry

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// moody is a credential helper that does what stands in a file.
type moody struct {
	t    *testing.T
	mood string // the file
}

func newMoody(t *testing.T) *moody {
	t.Helper()
	folder := t.TempDir()
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	m := &moody{t, filepath.Join(folder, "mood")}
	writeFile(t, filepath.Join(folder, "docker-credential-moody"), `#!/bin/sh
case "$(cat `+m.mood+`)" in
fails) echo "the session ended"; exit 1 ;;
leaves) sleep 5 & ;;
esac
while [ "$(cat `+m.mood+`)" = hangs ]; do sleep 0.02; done
echo '{"Username":"alice","Secret":"open sesame"}'
`)
	if err := os.Chmod(filepath.Join(folder, "docker-credential-moody"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.is("well")
	t.Cleanup(func() { m.is("well") })
	return m
}

func (m *moody) is(mood string) {
	m.t.Helper()
	writeFile(m.t, m.mood, mood)
}

func asMoody(o *UpstreamOptions) { o.CredentialHelper = "moody" }

func TestWhatAHelperSaidLastIsShownWhileItFailsOrHangs(t *testing.T) {
	for _, mood := range []string{"fails", "hangs"} {
		t.Run(mood, func(t *testing.T) {
			r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
			r.AddImage("a/b", "v1")
			m, c := newMoody(t), newClock()
			u := upstreamIn(t, upstreamEnv{now: c.now}, r, asMoody)
			_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
			noErr(t, err)
			m.is(mood)
			c.advance(helperLife)
			_, err = u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
			noErr(t, err)
			r.SetPassword("another")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err = u.manifest(ctx, "a/b", tagged(r, "a/b", "v1")); err == nil {
				t.Error("upstream refuses what the helper said last, and the helper was not asked")
			}
		})
	}
}

func TestAHelperThatLeavesAnAgentBehindHasAnswered(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	r.AddImage("a/b", "v1")
	newMoody(t).is("leaves")
	_, err := upstreamOf(t, r, asMoody).manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
}

func TestAHelperThatHangsIsNamed(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	newMoody(t).is("hangs")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := upstreamOf(t, r, asMoody).manifest(ctx, "a/b", tagged(r, "a/b", "v1"))
	if e := wantCode(t, err, CodeTimeout); !strings.Contains(e.Message, "docker-credential-moody does not answer") {
		t.Errorf("the error is %v", e)
	}
}

func TestWhoeverIsSilentIsNamed(t *testing.T) {
	life, end := context.WithCancel(t.Context())
	p := newPulse(life, 10*time.Millisecond, nil)
	probe := func(context.Context) error {
		return &Error{Code: CodeTimeout, Message: "docker-credential-x does not answer"}
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = awake(ctx, p, probe, func(ctx context.Context) (bool, error) { <-ctx.Done(); return false, ctx.Err() })
	}()
	eventually(t, func() bool { return p.hung() != nil })
	if why := p.hung(); !strings.HasPrefix(why.Message, "docker-credential-x does not answer") {
		t.Errorf("upstream is blamed: %v", why)
	}
	leave()
	<-left
	end()
	p.wait()
}
