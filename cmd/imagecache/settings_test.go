package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// load puts settings together as "imagecache config" would.
func load(t *testing.T, file string, environ, args []string) (*Settings, []Warning, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	c := &cli{in: strings.NewReader(""), out: io.Discard, err: io.Discard, environ: environ, uid: 1000}
	var settings *Settings
	var warnings []Warning
	root := c.rootCommand()
	var flags *settingsFlags
	probe := &cobra.Command{Use: "probe", RunE: func(cmd *cobra.Command, _ []string) (err error) {
		settings, warnings, err = c.loadSettings(cmd, flags)
		return err
	}}
	flags = addSettingsFlags(probe)
	root.AddCommand(probe)
	root.SetArgs(append([]string{"probe"}, args...))
	err := root.ExecuteContext(context.Background())
	return settings, warnings, err
}

func TestEachSourceIsStrongerThanTheOneBefore(t *testing.T) {
	file := "# a comment\nlisten = \"127.0.0.1:1\"\n"
	environ := []string{"IMAGECACHE_LISTEN=127.0.0.1:2"}
	flag := []string{"--listen", "127.0.0.1:3"}
	for _, tt := range []struct {
		name    string
		file    string
		environ []string
		args    []string
		listen  string
		from    string
	}{
		{"default", "", nil, nil, "127.0.0.1:5050", "default"},
		{"file", file, nil, nil, "127.0.0.1:1", "config.toml:2"},
		{"environment", file, environ, nil, "127.0.0.1:2", "IMAGECACHE_LISTEN"},
		{"flag", file, environ, flag, "127.0.0.1:3", "--listen"},
		{"an empty variable is none", file, []string{"IMAGECACHE_LISTEN="}, nil, "127.0.0.1:1", "config.toml:2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _, err := load(t, tt.file, tt.environ, tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if s.Listen != tt.listen {
				t.Errorf("listen is %q, want %q", s.Listen, tt.listen)
			}
			if from := string(s.origins["listen"]); !strings.HasSuffix(from, tt.from) {
				t.Errorf("listen comes from %q, want %q", from, tt.from)
			}
		})
	}
}

func TestEveryScalarKeyHasAFileAVariableAndAFlag(t *testing.T) {
	values := map[string]string{
		"listen": "127.0.0.1:7", "admin": "http://127.0.0.1:8", "admin_group": "ops", "root": "/r", "log_format": "json",
		"log_level": "debug", "stale_wait": "7s", "stall_after": "9s", "drain_timeout": "8s", "lockfile": "/l",
		"store.max_size": "7GiB", "store.min_free": "7%", "store.max_age": "7d",
		"store.verify_after": "3d", "store.scrub_rate": "7MiB",
		"tls.cert_file": "/c", "tls.key_file": "/k", "tls.client_ca_file": "/ca", "access.htpasswd_file": "/h",
		"access.issuers": "https://login.example audience=a username=email groups=roles prefix=corp: ca_file=/ca keys_file=/keys", "access.rules": "user:ann,* pull,push local/**,docker.io/library/*",
		"snapshotter.address": "/s", "snapshotter.form": "erofs", "snapshotter.prepare_wait": "7m0s", "snapshotter.unpack": "wanted",
		"snapshotter.drop_layers": "unpinned", "snapshotter.drop_after": "7m0s",
		"access.admin_listen": "127.0.0.1:9", "access.token_url": "https://cache.example/token", "access.requests_per_second": "7", "access.requests_at_once": "8", "access.connections_at_once": "9",
	}
	for _, key := range scalarKeys() {
		value, known := values[key.name]
		if !known {
			t.Fatalf("no value to try for %s", key.name)
		}
		for source, from := range map[string]func() (*Settings, []Warning, error){
			"file": func() (*Settings, []Warning, error) {
				return load(t, key.name+" = "+inFile(key.name, value)+"\n", nil, nil)
			},
			"environment": func() (*Settings, []Warning, error) { return load(t, "", []string{key.env() + "=" + value}, nil) },
			"flag":        func() (*Settings, []Warning, error) { return load(t, "", nil, []string{"--" + key.flag(), value}) },
		} {
			s, _, err := from()
			if err != nil {
				t.Errorf("%s from the %s: %v", key.name, source, err)
				continue
			}
			if got := key.show(s); got != value {
				t.Errorf("%s from the %s is %q, want %q", key.name, source, got, value)
			}
			if s.origins[key.name] == originDefault {
				t.Errorf("%s from the %s is said to be the default", key.name, source)
			}
		}
	}
}

func TestSettingsRefuse(t *testing.T) {
	for _, tt := range []struct {
		name string
		file string
		args []string
		want []string
	}{
		{"a mistyped key", "\nlisen = \"x:1\"\n", nil, []string{"config.toml:2:", "unknown key lisen", "did you mean listen?"}},
		{"a mistyped key of an upstream", "[upstreams.\"docker.io\"]\ntagttl = \"1m\"\n", nil, []string{":2:", "docker.io", "did you mean tag_ttl?"}},
		{"a table of another release", "[cluster]\n", nil, []string{":1:", "unknown key cluster"}},
		{"a mistyped key of the store", "[store]\nmaxsize = \"1GiB\"\n", nil, []string{":2:", "store.maxsize", "did you mean max_size?"}},
		{"a table within the store", "[store.cache]\n", nil, []string{":1:", "unknown key store.cache"}},
		{"a number for a size", "[store]\nmax_size = 5\n", nil, []string{":2:", "store.max_size", "text in quotes"}},
		{"a size without unit", "store.max_size = \"200\"\n", nil, []string{":1:", "not a size", "200GiB"}},
		{"a key in an inline table", "upstreams.\"docker.io\" = {url = \"https://a\",\n uri = \"b\"}\n", nil, []string{"unknown key", "uri", "did you mean url?"}},
		{"a password", "[upstreams.\"docker.io\"]\nusername = \"u\"\npassword = \"hush\"\n", nil, []string{":3:", "password_file"}},
		{"a port without a host", "listen = \"5050\"\n", nil, []string{":1:", "host:port"}},
		{"a port that is none", "listen = \"127.0.0.1:http\"\n", nil, []string{"port between 0 and 65535"}},
		{"a number for a duration", "stale_wait = 5\n", nil, []string{":1:", "text in quotes"}},
		{"a duration without unit", "stale_wait = \"5\"\n", nil, []string{"not a duration", "1s"}},
		{"a negative duration", "stale_wait = \"-5s\"\n", nil, []string{"not a duration"}},
		{"broken TOML", "listen = \"a:1\"\nroot = \n", nil, []string{"config.toml:2:"}},
		{"a key twice", "listen = \"a:1\"\nlisten = \"b:1\"\n", nil, []string{"config.toml:2:"}},
		{"an unknown registry without url", "[upstreams.\"registry.example\"]\ntag_ttl = \"5m\"\n", nil, []string{"config.toml:2:", "registry.example", "no url"}},
		{"an url with a path", "[upstreams.\"a.example\"]\nurl = \"https://a.example/v2/x\"\n", nil, []string{"more than a scheme and a host"}},
		{"an url with a secret", "[upstreams.\"a.example\"]\nurl = \"https://u:hush@a.example\"\n", nil, []string{"password_file"}},
		{"two kinds of credential", "[upstreams.\"ghcr.io\"]\nusername=\"u\"\npassword_file=\"p\"\ncredential_helper=\"h\"\n", nil, []string{"one of them"}},
		{"a user without a password", "[upstreams.\"ghcr.io\"]\nusername=\"u\"\n", nil, []string{"no password_file"}},
		{"an odd access", "[upstreams.\"ghcr.io\"]\naccess=\"public\"\n", nil, []string{"open or proven"}},
		{"an odd read_ahead", "[upstreams.\"ghcr.io\"]\nread_ahead=\"yes\"\n", nil, []string{":2:", "neither on nor off"}},
		{"an odd platform", "[upstreams.\"ghcr.io\"]\nplatforms=[\"linux amd64\"]\n", nil, []string{"not a platform"}},
		{"all beside a platform", "[upstreams.\"ghcr.io\"]\nplatforms=[\"all\", \"linux/amd64\"]\n", nil, []string{"not a platform"}},
		{"a registry that is a path", "[upstreams.\"../etc\"]\nurl=\"https://a\"\n", nil, []string{"not a registry's name"}},
		{"administration for everybody", "admin = \"http://0.0.0.0:80\"\n", nil, []string{"no login"}},
		{"an upstream flag without url", "", []string{"--upstream", "docker.io"}, []string{"--upstream", "NAME=URL"}},
		{"a bad flag", "", []string{"--stale-wait", "soon"}, []string{"--stale-wait", "not a duration"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.file, nil, tt.args)
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
}

func TestAnUpstreamIsPutTogetherKeyByKey(t *testing.T) {
	file := `[upstreams."docker.io"]
tag_ttl = "5m"
password_file = "secret"
username = "me"
platforms = ["linux/amd64", "linux/arm64"]
`
	s, _, err := load(t, file, []string{"IMAGECACHE_UPSTREAM=a.example=http://127.0.0.1:1,b.example=http://127.0.0.1:2"},
		[]string{"--upstream", "b.example=http://127.0.0.1:3", "--upstream", "docker.io=http://127.0.0.1:4"})
	if err != nil {
		t.Fatal(err)
	}
	docker := s.Upstreams["docker.io"]
	if docker.URL != "http://127.0.0.1:4" || docker.TagTTL != 5*time.Minute || len(docker.Platforms) != 2 || docker.Username != "me" {
		t.Errorf("docker.io is %+v", docker)
	}
	if !filepath.IsAbs(docker.PasswordFile) || filepath.Base(docker.PasswordFile) != "secret" {
		t.Errorf("password_file is %q, want it beside the settings", docker.PasswordFile)
	}
	if a, b := s.Upstreams["a.example"].URL, s.Upstreams["b.example"].URL; a != "http://127.0.0.1:1" || b != "http://127.0.0.1:3" {
		t.Errorf("a.example is %q, b.example is %q", a, b)
	}
	if from := s.origins[upstreamKeyName("docker.io", "url")]; from != "--upstream" {
		t.Errorf("the url of docker.io comes from %q", from)
	}
}

func TestAWellKnownRegistryNeedsNoURL(t *testing.T) {
	s, _, err := load(t, "[upstreams.\"docker.io\"]\ntag_ttl = \"0s\"\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	u := s.Upstreams["docker.io"]
	if u.URL != "https://registry-1.docker.io" {
		t.Errorf("url is %q", u.URL)
	}
	if u.TagTTL <= 0 || u.TagTTL > time.Millisecond || showTagTTL(u) != "0s" {
		t.Errorf("a tag_ttl of 0s became %v, shown as %s", u.TagTTL, showTagTTL(u))
	}
}

func TestAccessIsOpenOnLoopbackOnly(t *testing.T) {
	for listen, open := range map[string]bool{
		"127.0.0.1:5050": true, "127.1.2.3:1": true, "[::1]:5050": true, "localhost:5050": true,
		":5050": false, "0.0.0.0:5050": false, "[::]:5050": false, "10.0.0.7:5050": false, "cache.example:5050": false,
	} {
		if got := (&Settings{Listen: listen}).openByDefault(); got != open {
			t.Errorf("%s: open is %v, want %v", listen, got, open)
		}
	}
}

func TestAnUnknownVariableIsAWarning(t *testing.T) {
	_, warnings, err := load(t, "", []string{"IMAGECACHE_LISTN=1.2.3.4:5", "IMAGECACHE_SERVICE_HOST=10.0.0.1", "HOME=/h"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 2 || !strings.Contains(string(warnings[0]), "did you mean IMAGECACHE_LISTEN?") {
		t.Errorf("warnings are %q", warnings)
	}
}

func TestDefaultsOfAnOrdinaryUserAreItsOwn(t *testing.T) {
	s, _, err := load(t, "", []string{"HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/1000"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Root != "/home/u/.local/share/imagecache" || s.Admin != "unix:///run/user/1000/imagecache/imagecache.sock" {
		t.Errorf("root is %q, admin is %q", s.Root, s.Admin)
	}
	system := (&cli{uid: 0}).defaultSettings()
	if system.Root != "/var/lib/imagecache" || system.Admin != "unix:///run/imagecache/imagecache.sock" {
		t.Errorf("as root: root is %q, admin is %q", system.Root, system.Admin)
	}
}

// The sample that packages install must load, say exactly the defaults, and name every key there is.
func TestTheSampleSaysTheDefaults(t *testing.T) {
	const sample = "../../packaging/config.toml"
	content, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	c := &cli{uid: 0}
	for name, text := range map[string]string{"as it stands": string(content), "with every comment taken for a setting": uncommented(string(content))} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s := c.defaultSettings()
			if err := s.readFile(path); err != nil {
				t.Fatal(err)
			}
			for _, key := range scalarKeys() {
				if got, want := key.show(s), key.show(c.defaultSettings()); got != want {
					t.Errorf("%s is %q, the default is %q", key.name, got, want)
				}
			}
		})
	}
	for _, key := range scalarKeys() {
		if name := key.name[strings.LastIndex(key.name, ".")+1:]; !strings.Contains(string(content), "\n"+name+" = ") {
			t.Errorf("the sample does not set %s", key.name)
		}
	}
	for _, key := range upstreamKeys() {
		if !strings.Contains(string(content), "\n#"+key.name+" = ") {
			t.Errorf("the sample does not show %s", key.name)
		}
	}
}

// uncommented makes settings of the lines that are commented out, which are those without a space after the sign.
func uncommented(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if setting, commented := strings.CutPrefix(line, "#"); commented && !strings.HasPrefix(setting, " ") && setting != "" {
			lines[i] = setting
		}
	}
	return strings.Join(lines, "\n")
}

// inFile writes a value as it stands in a file.
func inFile(key, value string) string {
	if slices.Contains(listKeys, key) {
		return `["` + value + `"]`
	}
	return `"` + value + `"`
}
