package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/registry"
)

func TestMirrorsAndAccountsAreReadInOrder(t *testing.T) {
	file := `[upstreams."docker.io"]
mirrors = ["https://one.example", "https://two.example/hub/"]
token_hosts = ["auth.example:8443"]
allowance_reserve = "20%"
client_id = "me"
client_secret_file = "secret"
token_url = "https://login.example/token"

[[upstreams."docker.io".accounts]]
repositories = "team-a/*"
username = "a"
password_file = "pa"

[[upstreams."docker.io".accounts]]
repositories = "team-b/**"
credential_helper = "ecr-login"
`
	s, _, err := load(t, file, []string{"IMAGECACHE_MIRROR=quay.io=https://a.example,quay.io=https://b.example"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	u := s.Upstreams["docker.io"]
	if strings.Join(u.Mirrors, " ") != "https://one.example https://two.example/hub" || u.TokenHosts[0] != "auth.example:8443" ||
		u.AllowanceReserve != (registry.AllowanceReserve{Set: true, Fraction: 0.2}) {
		t.Errorf("docker.io is %+v", u)
	}
	if u.ClientID != "me" || filepath.Base(u.ClientSecretFile) != "secret" || !filepath.IsAbs(u.ClientSecretFile) || u.TokenURL != "https://login.example/token" {
		t.Errorf("its client is %+v", u.Login())
	}
	if len(u.Accounts) != 2 || u.Accounts[0].Repositories != "team-a/*" || u.Accounts[0].Username != "a" || !filepath.IsAbs(u.Accounts[0].PasswordFile) ||
		u.Accounts[1].CredentialHelper != "ecr-login" || u.Accounts[1].Username != "" {
		t.Errorf("its accounts are %+v", u.Accounts)
	}
	if got := s.Upstreams["quay.io"].Mirrors; strings.Join(got, " ") != "https://a.example https://b.example" {
		t.Errorf("the mirrors of quay.io are %q", got)
	}
	shown := map[string]shownSetting{}
	for _, setting := range s.shown() {
		shown[setting.Key] = setting
	}
	for key, want := range map[string]string{
		`upstreams."docker.io".mirrors`:                  "https://one.example, https://two.example/hub",
		`upstreams."docker.io".allowance_reserve`:        "20%",
		`upstreams."docker.io".accounts[1].repositories`: "team-b/**",
		`upstreams."docker.io".accounts[0].username`:     "a",
		`upstreams."ghcr.io".allowance_reserve`:          "10%",
	} {
		if shown[key].Value != want || shown[key].Origin == "" {
			t.Errorf("%s is shown as %+v, want %s", key, shown[key], want)
		}
	}
	if from := shown[`upstreams."docker.io".accounts[1].repositories`].Origin; !strings.HasSuffix(string(from), "config.toml:15") {
		t.Errorf("an account comes from %s", from)
	}
}

func TestAFlagForMirrorsReplacesTheFiles(t *testing.T) {
	s, _, err := load(t, "[upstreams.\"docker.io\"]\nmirrors=[\"https://one.example\"]\n", nil,
		[]string{"--mirror", "docker.io=https://two.example", "--mirror", "docker.io=http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Upstreams["docker.io"].Mirrors, " "); got != "https://two.example http://127.0.0.1:1" {
		t.Errorf("the mirrors are %s", got)
	}
}

func TestWrongMirrorsAndLoginsSayTheirLine(t *testing.T) {
	const account = "[[upstreams.\"ghcr.io\".accounts]]\nrepositories = \"a/*\"\n"
	for name, tt := range map[string]struct {
		file string
		want []string
	}{
		"an unknown key of an account": {account + "usrname = \"x\"\n", []string{":3:", "did you mean username?"}},
		"a password in an account":     {account + "password = \"hush\"\n", []string{":3:", "password_file"}},
		"a secret":                     {"[upstreams.\"ghcr.io\"]\nclient_secret = \"hush\"\n", []string{":2:", "client_secret_file"}},
		"an account without a login":   {account, []string{":2:", "has no login"}},
		"an account for nothing":       {"[[upstreams.\"ghcr.io\".accounts]]\nusername = \"x\"\npassword_file = \"y\"\n", []string{":2:", "no repositories"}},
		"half an account":              {account + "client_id = \"x\"\n", []string{"need each other"}},
		"one account, not a list":      {"[upstreams.\"ghcr.io\".accounts]\nrepositories = \"a/*\"\n", []string{":2:", "[[upstreams.\"ghcr.io\".accounts]]"}},
		"accounts that are no tables":  {"[upstreams.\"ghcr.io\"]\naccounts = [\"a\"]\n", []string{":2:", "[[upstreams"}},
		"a number for a user":          {account + "username = 1\n", []string{":3:", "text in quotes"}},
		"half a client":                {"[upstreams.\"ghcr.io\"]\nclient_id = \"x\"\n", []string{"config.toml:", "need each other"}},
		"a mirror that is none":        {"[upstreams.\"ghcr.io\"]\nmirrors = [\"mirror.example\"]\n", []string{":2:", "not a mirror's url"}},
		"a mirror with a secret":       {"[upstreams.\"ghcr.io\"]\nmirrors = [\"https://u:hush@m.example\"]\n", []string{":2:", "table of its own"}},
		"a mirror with /v2":            {"[upstreams.\"ghcr.io\"]\nmirrors = [\"https://m.example/v2/hub\"]\n", []string{":2:", "leave /v2 out"}},
		"a mirror twice":               {"[upstreams.\"ghcr.io\"]\nmirrors = [\"https://m.example\", \"https://m.example/\"]\n", []string{":2:", "twice"}},
		"a token host with a scheme":   {"[upstreams.\"ghcr.io\"]\ntoken_hosts = [\"https://m.example\"]\n", []string{":2:", "not a host"}},
		"an odd reserve":               {"[upstreams.\"ghcr.io\"]\nallowance_reserve = \"110%\"\n", []string{":2:", "part of the limit"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := load(t, tt.file, nil, nil)
			if err == nil {
				t.Fatal("taken")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the error shows a secret: %q", err)
			}
		})
	}
	if _, _, err := load(t, "", nil, []string{"--mirror", "docker.io"}); err == nil || !strings.Contains(err.Error(), "NAME=URL") {
		t.Errorf("a mirror without url: %v", err)
	}
}

// However wrongly a password is written into an address, what is said of that
// goes into a log.
func TestAPasswordInAnAddressIsNotTold(t *testing.T) {
	table := "[upstreams.\"r.example\"]\n"
	for _, address := range []string{
		"robot:hunter2@r.example", "//robot:hunter2@r.example", "https://robot:hunter2@r.example", "https://robot:100%hunter2@r.example",
	} {
		for name, load := range map[string]func() error{
			"url":        func() error { _, _, err := load(t, table+"url = \""+address+"\"\n", nil, nil); return err },
			"mirrors":    func() error { _, _, err := load(t, table+"mirrors = [\""+address+"\"]\n", nil, nil); return err },
			"--upstream": func() error { _, _, err := load(t, "", nil, []string{"--upstream", address}); return err },
			"--mirror":   func() error { _, _, err := load(t, "", nil, []string{"--mirror", address}); return err },
			"variable":   func() error { _, _, err := load(t, "", []string{"IMAGECACHE_UPSTREAM=" + address}, nil); return err },
		} {
			if err := load(); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s %q: %v", name, address, err)
			}
		}
	}
}
