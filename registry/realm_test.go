package registry

import (
	"net/netip"
	"net/url"
	"testing"
)

func TestJudgeRealm(t *testing.T) {
	for _, c := range []struct{ base, realm, want string }{
		{"https://registry-1.docker.io", "https://auth.docker.io/token", "trusted"},
		{"https://registry.gitlab.com", "https://gitlab.com/jwt/auth", "trusted"},
		{"https://quay.io", "https://quay.io/v2/auth", "trusted"},
		{"https://10.0.0.5:5000", "https://10.0.0.5:5001/token", "trusted"},
		{"https://10.0.0.5:5000", "https://[::ffff:10.0.0.5]:5001/token", "trusted"},
		{"http://127.0.0.1:5000", "http://127.0.0.1:5001/token", "trusted"},
		{"https://registry", "https://registry:5001/token", "trusted"},
		{"https://registry.example.com", "https://auth.registry.example.com/token", "trusted"},
		{"https://registry.digitalocean.com", "https://api.digitalocean.com/v2/registry/auth", "trusted"},

		{"https://quay.io", "https://auth.elsewhere.com/token", "anonymous"},
		{"https://one.registry.example.com", "https://two.registry.example.com/token", "anonymous"},
		{"https://registry.example.com", "https://auth.example.com/token", "anonymous"},
		{"https://registry.example.com", "https://notregistry.example.com/token", "anonymous"},
		{"https://registry.gitlab.com", "https://pages.gitlab.com/token", "anonymous"},
		{"https://quay.io", "https://auth.docker.io/token", "anonymous"},
		{"https://alice.github.io", "https://mallory.github.io/token", "anonymous"},
		{"https://one.co.uk", "https://two.co.uk/token", "anonymous"},
		{"http://127.0.0.1:5000", "https://auth.elsewhere.com/token", "anonymous"},

		{"https://quay.io", "http://quay.io/token", "refused"},
		{"http://127.0.0.1:5000", "http://auth.elsewhere.com/token", "refused"},
		{"http://127.0.0.1:5000", "http://127.0.0.2:5000/token", "refused"},
		{"https://quay.io", "https://127.0.0.1/token", "refused"},
		{"https://quay.io", "https://127.1/token", "refused"},
		{"https://quay.io", "https://0x7f000001/token", "refused"},
		{"https://quay.io", "https://2130706433/token", "refused"},
		{"https://quay.io", "https://169.254.169.254/latest", "refused"},
		{"https://quay.io", "https://[fe80::1%25eth0]/token", "refused"},
		{"https://quay.io", "https://8.8.8.8/token", "refused"},
		{"https://quay.io", "https://localhost/token", "refused"},
		{"https://quay.io", "https://a.localhost/token", "refused"},
		{"https://quay.io", "https://db/token", "refused"},
		{"https://quay.io", "https://db.corp/token", "refused"},
		{"https://registry.internal.corp", "https://auth.internal.corp/token", "refused"},
		{"https://quay.io", "https://qu\u0430y.io/token", "refused"},
		{"https://quay.io", "https://alice:x@quay.io/token", "refused"},
		{"https://quay.io", "ftp://quay.io/token", "refused"},
		{"https://quay.io", "/token", "refused"},
		{"https://quay.io", "", "refused"},
		{"https://quay.io", "https://%zz/", "refused"},
	} {
		base, err := url.Parse(c.base)
		if err != nil {
			t.Fatal(err)
		}
		got := "anonymous"
		r, refused := judgeRealm(base, c.realm, nil)
		if refused != nil {
			got = "refused"
		} else if r.trusted {
			got = "trusted"
		}
		if got != c.want {
			t.Errorf("%s names %s: %s, want %s (%v)", c.base, c.realm, got, c.want, refused)
		}
	}
}

func TestATokenServiceThatTheOperatorVouchesForGetsTheCredential(t *testing.T) {
	for _, c := range []struct {
		host, realm string
		want        bool
	}{
		{"auth.internal.corp", "https://auth.internal.corp/token", true},
		{"auth.internal.corp", "https://AUTH.internal.corp:8443/token", true},
		{"auth.internal.corp:8443", "https://auth.internal.corp:8443/token", true},
		{"auth.internal.corp:443", "https://auth.internal.corp/token", true},
		{"auth.internal.corp:8443", "https://auth.internal.corp/token", false},
		{"auth.internal.corp", "https://x.auth.internal.corp/token", false},
		{"auth.internal.corp", "http://auth.internal.corp/token", false}, // upstream is https
	} {
		r, _ := judgeRealm(&url.URL{Scheme: "https", Host: "registry.internal.corp"}, c.realm, []string{"other.corp", c.host})
		if r.trusted != c.want {
			t.Errorf("%s named, realm %s: trusted is %v", c.host, c.realm, r.trusted)
		}
	}
}

func TestOffLimits(t *testing.T) {
	for addr, want := range map[string]bool{
		"169.254.169.254": true, "::ffff:169.254.169.254": true, "fe80::1": true, "fd00:ec2::254": true, "0.0.0.0": true,
		"127.0.0.1": true, "::1": true, "93.184.215.14": false, "10.1.2.3": false,
	} {
		if got := offLimits(netip.MustParseAddr(addr), false) != ""; got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if offLimits(netip.MustParseAddr("127.0.0.1"), true) != "" {
		t.Error("an upstream on loopback may not lead to loopback")
	}
}
