package main

import (
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
)

func TestSizes(t *testing.T) {
	for value, want := range map[string]int64{
		"0": 0, "1B": 1, "1KiB": 1024, "200GiB": 200 << 30, "1.5TiB": 3 << 39, "1.5 TiB": 3 << 39, "20Gi": 20 << 30,
		"200GB": 200e9, "10kB": 10e3, "10MB": 10e6,
	} {
		got, err := parseSize(value)
		if err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", value, got, err, want)
		}
		if again, err := parseSize(showSize(got)); err != nil || again != want {
			t.Errorf("%q is shown as %q, which is %d, %v", value, showSize(got), again, err)
		}
	}
	for _, value := range []string{"", "200", "200G", "-1GiB", "GiB", "1e3GiB", "InfGiB", "NaNB", "0x1GiB", "1,5GiB", "1.2.3GiB", "9000000PiB", "5%"} {
		if got, err := parseSize(value); err == nil || !strings.Contains(err.Error(), "such as 200GiB") {
			t.Errorf("%q is %d, %v; want an error that shows a size", value, got, err)
		}
	}
}

func TestReserves(t *testing.T) {
	for value, want := range map[string]layerstore.Reserve{
		"0": {}, "0%": {}, "5%": {Fraction: 0.05}, "2.5%": {Fraction: 0.025}, "20GiB": {Bytes: 20 << 30},
	} {
		got, err := parseReserve(value)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", value, got, err, want)
		}
		if again, err := parseReserve(showReserve(got)); err != nil || again != want {
			t.Errorf("%q is shown as %q, which is %+v, %v", value, showReserve(got), again, err)
		}
	}
	for _, value := range []string{"", "%", "100%", "-5%", "5", "NaN%", "a lot"} {
		if got, err := parseReserve(value); err == nil {
			t.Errorf("%q is %+v; want an error", value, got)
		}
	}
}

func TestAges(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"0": 0, "30d": 720 * time.Hour, "0.5d": 12 * time.Hour, "36h": 36 * time.Hour, "90m": 90 * time.Minute,
	} {
		got, err := parseAge(value)
		if err != nil || got != want {
			t.Errorf("%q is %s, %v; want %s", value, got, err, want)
		}
		if again, err := parseAge(showAge(got)); err != nil || again != want {
			t.Errorf("%q is shown as %q, which is %s, %v", value, showAge(got), again, err)
		}
	}
	for _, value := range []string{"", "d", "30", "-1d", "999999999d", "NaNd"} {
		if got, err := parseAge(value); err == nil {
			t.Errorf("%q is %s; want an error", value, got)
		}
	}
}

func TestStoreSettingsOfAFile(t *testing.T) {
	s, _, err := load(t, "[store]\nmax_size = \"200GiB\"\nmin_free = 0\nmax_age = \"30d\"\n", nil, []string{"--store-max-age", "7d"})
	if err != nil {
		t.Fatal(err)
	}
	if s.MaxSize != 200<<30 || s.MinFree != (layerstore.Reserve{}) || s.MaxAge != 7*24*time.Hour {
		t.Errorf("%d, %+v, %s", s.MaxSize, s.MinFree, s.MaxAge)
	}
	if from := string(s.origins["store.max_size"]); !strings.HasSuffix(from, "config.toml:2") {
		t.Errorf("max_size comes from %q", from)
	}
	s, _, err = load(t, "", nil, nil)
	if err != nil || s.MaxSize != 0 || s.MinFree != (layerstore.Reserve{Fraction: 0.05}) || s.MaxAge != 0 {
		t.Errorf("by default %d, %+v, %s, %v", s.MaxSize, s.MinFree, s.MaxAge, err)
	}
}

func TestStalls(t *testing.T) {
	var s Settings
	if err := setStallAfter(&s, "500ms"); err != nil || s.StallAfter != 500*time.Millisecond {
		t.Errorf("%s, %v", s.StallAfter, err)
	}
	for _, value := range []string{"0s", "499ms", "-1s", "3"} {
		if err := setStallAfter(&s, value); err == nil || !strings.Contains(err.Error(), "want ") {
			t.Errorf("%q: %v; want an error that says what to write", value, err)
		}
	}
}
