package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/imagecache/imagecache/layerstore"
)

// defaultMinFree is what is left of a disk to others: they, and the file system itself, slow down when it is nearly full.
const defaultMinFree = 0.05

const (
	defaultVerifyAfter = 7 * 24 * time.Hour
	defaultScrubRate   = 8 << 20 // bytes a second; what a disk spares while it serves
)

// storeTable is the table of what is kept.
const storeTable = "store"

// storeKeys lists the settings of the table [store].
func storeKeys() []scalarKey {
	return []scalarKey{
		{"store.max_size", "`SIZE` that the cached blobs may take, as in 200GiB; 0: what min-free leaves", setMaxSize,
			func(s *Settings) string { return showSize(s.MaxSize) }},
		{"store.min_free", "how much of the disk to keep free: a `SIZE`, or a part of it as in 5%; 0: nothing", setMinFree,
			func(s *Settings) string { return showReserve(s.MinFree) }},
		{"store.max_age", "how long an image stays that nobody uses, as in 30d; 0: for ever", setMaxAge,
			func(s *Settings) string { return showAge(s.MaxAge) }},
		{"store.verify_after", "how long after it was last proven a blob is hashed again when it is used, as in 7d; 0: never", setVerifyAfter,
			func(s *Settings) string { return showAge(s.VerifyAfter) }},
		{"store.scrub_rate", "how many bytes a second the background scrub reads, as in 8MiB; 0: there is none", setScrubRate,
			func(s *Settings) string { return showSize(s.ScrubRate) }},
	}
}

func setMaxSize(s *Settings, value string) (err error) {
	s.MaxSize, err = parseSize(value)
	return err
}

func setMinFree(s *Settings, value string) (err error) {
	s.MinFree, err = parseReserve(value)
	return err
}

func setMaxAge(s *Settings, value string) (err error) {
	s.MaxAge, err = parseAge(value)
	return err
}

func setVerifyAfter(s *Settings, value string) (err error) {
	s.VerifyAfter, err = parseAge(value)
	return err
}

func setScrubRate(s *Settings, value string) (err error) {
	s.ScrubRate, err = parseSize(value)
	return err
}

// orNever is for options whose zero value is not the settings' "never".
func orNever[T ~int64](value T) T {
	if value == 0 {
		return -1
	}
	return value
}

// sizeUnits are the units of sizes, the longer before those that they end in: binary as the commands print them, and as Kubernetes
// writes them, and decimal as disks are sold.
var sizeUnits = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50},
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"Pi", 1 << 50},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"PB", 1e15}, {"B", 1},
}

// parseSize takes "200GiB", "1.5 TB" or "0". A number alone is refused, for nobody knows whether it means bytes; so is "200G", which
// some programs take for the one and some for the other.
func parseSize(value string) (int64, error) {
	if value == "0" {
		return 0, nil
	}
	for _, unit := range sizeUnits {
		number, found := strings.CutSuffix(value, unit.name)
		if !found {
			continue
		}
		n, err := parseNumber(number)
		if err != nil || n*unit.bytes >= 1<<63 {
			break
		}
		return int64(n * unit.bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size: want one such as 200GiB or 1.5TiB, or 0", value)
}

// parseNumber takes "1.5": digits, and perhaps one point.
func parseNumber(value string) (float64, error) {
	value = strings.TrimSpace(value)
	if strings.Trim(value, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(value, 64)
}

// parseReserve takes a size, or "5%".
func parseReserve(value string) (layerstore.Reserve, error) {
	if number, found := strings.CutSuffix(value, "%"); found {
		n, err := parseNumber(number)
		if err != nil || n >= 100 {
			return layerstore.Reserve{}, fmt.Errorf("%q is not a part of a disk: want one such as 5%%", value)
		}
		return layerstore.Reserve{Fraction: n / 100}, nil
	}
	n, err := parseSize(value)
	if err != nil {
		return layerstore.Reserve{}, fmt.Errorf("%q is neither a size nor a part of a disk: want one such as 20GiB or 5%%", value)
	}
	return layerstore.Reserve{Bytes: n}, nil
}

// parseAge takes a duration, in days too: "30d".
func parseAge(value string) (time.Duration, error) {
	const day = 24 * time.Hour
	if number, found := strings.CutSuffix(value, "d"); found {
		n, err := parseNumber(number)
		if err != nil || n > float64(1<<63-1)/float64(day) {
			return 0, fmt.Errorf("%q is not an age: want one such as 30d or 12h", value)
		}
		return time.Duration(n * float64(day)), nil
	}
	d, err := parseDuration(value)
	if err != nil {
		return 0, fmt.Errorf("%q is not an age: want one such as 30d or 12h", value)
	}
	return d, nil
}

// showSize shows a size in the largest unit that leaves nothing over, so that it reads as it was written.
func showSize(bytes int64) string {
	if bytes == 0 {
		return "0"
	}
	for _, unit := range []string{"PiB", "TiB", "GiB", "MiB", "KiB", "PB", "TB", "GB", "MB", "kB"} {
		if n := sizeOf(unit); bytes%n == 0 {
			return strconv.FormatInt(bytes/n, 10) + unit
		}
	}
	return strconv.FormatInt(bytes, 10) + "B"
}

func sizeOf(unit string) int64 {
	for _, u := range sizeUnits {
		if u.name == unit {
			return int64(u.bytes)
		}
	}
	return 1
}

func showReserve(r layerstore.Reserve) string {
	if r.Fraction > 0 {
		return strconv.FormatFloat(r.Fraction*100, 'g', 6, 64) + "%"
	}
	return showSize(r.Bytes)
}

// showAge shows whole days as such.
func showAge(d time.Duration) string {
	if days := d / (24 * time.Hour); days > 0 && d%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(days), 10) + "d"
	}
	if d == 0 {
		return "0"
	}
	return d.String()
}
