package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/imagecache/imagecache/api"
)

// idMappings say which users of the host those of a container are. Empty: the same.
type idMappings struct{ users, groups []idRange }

// idRange maps size ids from container on to those from host on.
type idRange struct{ container, host, size uint64 }

// readMappings reads CONTAINER:HOST:SIZE. Without any of groups these are as the users.
func readMappings(users, groups []string) (m idMappings, err error) {
	if groups == nil {
		groups = users
	}
	if m.users, err = readRanges(users); err == nil {
		m.groups, err = readRanges(groups)
	}
	if err == nil && (len(m.users) == 0) != (len(m.groups) == 0) {
		err = fmt.Errorf("--gid-mapping is given without --uid-mapping")
	}
	return m, err
}

func readRanges(texts []string) (ranges []idRange, err error) {
	for _, text := range texts {
		fields := strings.Split(text, ":")
		if len(fields) != 3 {
			return nil, fmt.Errorf("%q: want CONTAINER:HOST:SIZE, as in 0:100000:65536", text)
		}
		var r idRange
		for i, into := range []*uint64{&r.container, &r.host, &r.size} {
			if *into, err = strconv.ParseUint(fields[i], 10, 32); err != nil {
				return nil, fmt.Errorf("%q: want CONTAINER:HOST:SIZE, as in 0:100000:65536", text)
			}
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// apply has the layers read with their owners mapped: the kernel maps them as it mounts, and no file is changed. The folder that is written
// to is new, so its owner is changed instead.
func (m idMappings) apply(r *api.Rootfs) error {
	if len(m.users) == 0 {
		return nil
	}
	upper := ""
	for i, mount := range r.Mounts {
		r.Mounts[i].Options = append(slices.Clone(mount.Options), "uidmap="+listRanges(m.users), "gidmap="+listRanges(m.groups))
		if mount.Type == "bind" { // of an image without layers
			r.Mounts[i].Options = mount.Options
			upper = mount.Source
		}
		for _, option := range mount.Options {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				upper = dir
			}
		}
	}
	return m.give(upper)
}

// give gives the folder that is written to to whom its owner in the container is on the host.
func (m idMappings) give(upper string) error {
	info, err := os.Stat(upper)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("the owner of %s cannot be told", upper)
	}
	uid, hasUser := onHost(m.users, stat.Uid)
	gid, hasGroup := onHost(m.groups, stat.Gid)
	if !hasUser || !hasGroup {
		return fmt.Errorf("the root of the image belongs to %d:%d, whom the mappings do not have", stat.Uid, stat.Gid)
	}
	return os.Lchown(upper, uid, gid)
}

func onHost(ranges []idRange, id uint32) (int, bool) {
	for _, r := range ranges {
		if uint64(id) >= r.container && uint64(id) < r.container+r.size {
			return int(uint64(id) - r.container + r.host), true
		}
	}
	return 0, false
}

func listRanges(ranges []idRange) string {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = fmt.Sprintf("%d:%d:%d", r.container, r.host, r.size)
	}
	return strings.Join(texts, ",")
}
