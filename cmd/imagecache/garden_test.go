package main

import (
	"strings"
	"testing"
)

func TestGardensImages(t *testing.T) {
	hash := "sha256:" + strings.Repeat("a", 64)
	for given, want := range map[string]string{
		"docker:///busybox":                          "docker.io/library/busybox:latest",
		"docker:///library/busybox#1.37":             "docker.io/library/busybox:1.37",
		"docker:///library/busybox:1.37":             "docker.io/library/busybox:1.37",
		"docker://registry.example/team/app#v1":      "registry.example/team/app:v1",
		"docker://registry.example:5000/team/app:v1": "registry.example:5000/team/app:v1",
		"docker://registry.example/team/app#" + hash: "registry.example/team/app@" + hash,
		"docker://registry.example/team/app:" + hash: "registry.example/team/app@" + hash, // as Garden makes of the one before
		"docker://registry.example/team/app@" + hash: "registry.example/team/app@" + hash,
		"oci:///var/images/app":                      "oci:///var/images/app",
		"oci:///var/images/app#v1":                   "oci:///var/images/app:v1",
		"/var/vcap/packages/cflinuxfs4/rootfs.tar":   "/var/vcap/packages/cflinuxfs4/rootfs.tar",
	} {
		if got, err := gardenImage(given); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", given, got, err, want)
		}
	}
	for _, given := range []string{"", "busybox", "relative/rootfs.tar", "oci://relative", "http://h/x", "docker://", "docker:///UPPER", "docker://u:secret@h.example/x", "http://u:secret@h/x"} {
		got, err := gardenImage(given)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %q, %v", given, got, err)
		}
	}
}

func TestGardensHandles(t *testing.T) {
	for handle, want := range map[string]string{"a-b": "/g/a-b", "a/b": "/g/a%2Fb", "../x": "/g/..%2Fx", ".hidden": "/g/.hidden"} {
		if got, err := gardenPlace("/g", handle); err != nil || got != want {
			t.Errorf("%q: %q, %v", handle, got, err)
		}
	}
	for _, handle := range []string{"", ".", "..", strings.Repeat("x", 256)} {
		if got, err := gardenPlace("/g", handle); err == nil {
			t.Errorf("%q: %q", handle, got)
		}
	}
}

func TestMappings(t *testing.T) {
	m, err := readMappings([]string{"0:4294967294:1", "1:1:4294967293"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint32]int{0: 4294967294, 1: 1, 4294967293: 4294967293} {
		if got, ok := onHost(m.groups, id); !ok || got != want {
			t.Errorf("%d is %d on the host, want %d", id, got, want)
		}
	}
	if _, ok := onHost(m.users, 4294967294); ok {
		t.Error("an id beyond the mappings is mapped")
	}
	for _, bad := range []string{"", "0", "0:1", "0:1:x", "-1:0:1", "0:0:99999999999"} {
		if _, err := readMappings([]string{bad}, nil); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := readMappings(nil, []string{"0:0:1"}); err == nil {
		t.Error("groups alone are mapped")
	}
}
