package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestGcTellsOfPushedBlobsThatNothingNames(t *testing.T) {
	for told, want := range map[string]string{
		`{"unnamed":{}}`: "freed 0B in 0 blobs\n",
		`{"unnamed":{"gone":1,"gone_bytes":1024},"blobs":1,"bytes":1024}`: "freed 1KiB in 1 blob\nlet go of 1 blob, 1KiB, pushed and named by no manifest\n",
		`{"dry_run":true,"unnamed":{"gone":2,"gone_bytes":2048,"kept":3,"kept_bytes":3072}}`: "would free 0B in 0 blobs\n" +
			"would let go of 2 blobs, 2KiB, pushed and named by no manifest\n" +
			"3 blobs, 3KiB, pushed and named by no manifest, kept for an hour or two: a client that was told of them may name them yet\n",
	} {
		var out bytes.Buffer
		if err := (&cli{out: &out}).printCollection(json.RawMessage(told)); err != nil || out.String() != want {
			t.Errorf("%s: %v\n%s, want\n%s", told, err, out.String(), strings.TrimSpace(want))
		}
	}
}
