package main

import (
	"bytes"
	"testing"
)

// Whatever stands in a hosts.toml: merging never panics, is either refused or done, and done twice is done once.
func FuzzMergeHosts(f *testing.F) {
	f.Add([]byte(existingHosts))
	f.Add([]byte("# only a comment"))
	f.Add([]byte("[host.\"http://127.0.0.1:5050/\"]\ndial_timeout=\"1s\"#x\n[host.'http://127.0.0.1:5050/'.header]\na=\"b\"\n[[x]]\n"))
	f.Add([]byte("[host]\n[host.\"https://b\"]\r\ncapabilities=[\n#a\n\"pull\"]\r\n"))
	f.Fuzz(func(t *testing.T, original []byte) {
		once, err := mergeHosts(original, ours)
		if err != nil {
			return
		}
		twice, err := mergeHosts(once, ours)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("once\n%s\ntwice\n%s\n%v", once, twice, err)
		}
	})
}
