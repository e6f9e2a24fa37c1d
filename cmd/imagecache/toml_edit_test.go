package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

const existingSettings = `# ours, ask Kim
version = 3

[plugins]
  [plugins."io.containerd.cri.v1.images"] # images
    # the default
    snapshotter = "over#lay" # keep
    [plugins."io.containerd.cri.v1.images".registry]
      config_path = "/etc/containerd/certs.d"

  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = "native"
[proxy_plugins]
  [proxy_plugins.stargz]
    address = "/run/s"`

// installed is what install would make of containerd's settings.
func installedSettings(t *testing.T, original string) string {
	t.Helper()
	desired, _, err := desiredSnapshotter("config.toml", "/run/s.sock", []byte(original))
	if err != nil {
		t.Fatal(err)
	}
	return string(desired)
}

func TestSnapshotterSettingsKeepEveryLine(t *testing.T) {
	got := installedSettings(t, existingSettings)
	want := strings.Replace(existingSettings, `"over#lay" # keep`, `"imagecache" # keep`, 1) + `

[proxy_plugins.imagecache]
  type = "snapshot"
  address = "/run/s.sock"

[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "imagecache"
`
	want = strings.Replace(want, "linux/amd64\"\n  snapshotter = \"imagecache\"", thisPlatform()+"\"\n  snapshotter = \"imagecache\"", 1)
	if got != want {
		t.Errorf("made is\n%s\nwant\n%s", got, want)
	}
	if again := installedSettings(t, got); again != got {
		t.Errorf("a second time it is\n%s", again)
	}
}

// Every form of the settings names the snapshotter where that containerd looks for it.
func TestSnapshotterSettingsOfEachVersion(t *testing.T) {
	old, current := `plugins."io.containerd.grpc.v1.cri".containerd`, `plugins."io.containerd.cri.v1.images"`
	for original, tables := range map[string][]string{
		"":                               {old, current},
		"version = 2\n":                  {old, current},
		"version = 3":                    {current},
		"version = 4\n":                  {current},
		"disabled_plugins = [\"cri\"]\n": {"plugins.cri.containerd"},
	} {
		got := installedSettings(t, original)
		if err := toml.Unmarshal([]byte(got), &map[string]any{}); err != nil || !strings.HasPrefix(strings.TrimSpace(got), strings.TrimSpace(original)) {
			t.Errorf("of %q became %q (%v)", original, got, err)
		}
		for _, table := range tables {
			if !strings.Contains(got, "["+table+"]\n  snapshotter = \"imagecache\"\n") {
				t.Errorf("of %q became %q, without [%s]", original, got, table)
			}
		}
		overlay := strings.Count(got, `snapshotter = "overlayfs"`)
		if transfer := !strings.HasPrefix(original, "disabled"); transfer != (overlay == 1) {
			t.Errorf("of %q became %q: what was unpacked for overlayfs still is", original, got)
		}
	}
}

func TestSnapshotterSettingsRefuseWhatTheyCannotDoRight(t *testing.T) {
	for name, original := range map[string]string{
		"broken":       "version = \n",
		"within lines": "version = 2\nplugins = {\"io.containerd.grpc.v1.cri\" = {containerd = {}}}\n",
		"a list":       "version = 2\n[plugins.\"io.containerd.transfer.v1.local\"]\nunpack_config = [{platform = \"linux/amd64\", snapshotter = \"x\"}]\n",
		"no table":     "version = 2\nproxy_plugins = 3\n",
		"rebase":       "version = 2\n[proxy_plugins.imagecache]\ncapabilities = [\"rebase\"]\n",
	} {
		made, _, err := desiredSnapshotter("config.toml", "/run/s.sock", []byte(original))
		if err == nil {
			t.Errorf("%s: made\n%s", name, made)
			continue
		}
		var hinted *hintedError
		if name != "broken" && !errors.As(err, &hinted) {
			t.Errorf("%s: %v comes without what to do", name, err)
		}
	}
}

func thisPlatform() string {
	var p snapshotterPlan
	p.version = 2
	return p.unpacking()[0].keys[0][1]
}

// Whatever is there: the result says what it said, and what was to be said, or it is refused.
func FuzzEditTOML(f *testing.F) {
	for _, seed := range []string{existingSettings, "", "version = 2", "a.b.c = 1\n[a.b]\n", "[proxy_plugins.imagecache]\naddress = '''\nx\n''' # y\n", "[a]\r\nb = 1\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, original string) {
		edited, _, err := desiredSnapshotter("config.toml", "/run/s.sock", []byte(original))
		if err != nil {
			return
		}
		before, after := map[string]any{}, map[string]any{}
		if err := toml.Unmarshal(edited, &after); err != nil {
			t.Fatalf("made %q: %v", edited, err)
		}
		if valueAt(after, append(proxyTable, "address")) != "/run/s.sock" {
			t.Fatalf("made %q", edited)
		}
		if err := toml.Unmarshal([]byte(original), &before); err != nil {
			t.Fatal(err)
		}
		for key, value := range before {
			if key != "plugins" && key != "proxy_plugins" && !reflect.DeepEqual(after[key], value) {
				t.Errorf("%s was %v and is %v", key, value, after[key])
			}
		}
		for line := range strings.Lines(original) {
			if strings.HasPrefix(strings.TrimSpace(line), "#") && !strings.Contains(string(edited), strings.TrimSpace(line)) {
				t.Errorf("lost the line %q", line)
			}
		}
	})
}
