package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	cfs "github.com/containerd/continuity/fs"
	runtime "github.com/opencontainers/runtime-spec/specs-go"
)

// passwdLine is a user in /etc/passwd, or a group in /etc/group (passwd(5), group(5)).
type passwdLine struct {
	name    string
	id, gid uint32
	members []string // of a group
}

// resolveUser finds who a container runs as: "" is root, otherwise user, uid, user:group, uid:gid, uid:group or user:gid (OCI image spec,
// "config.User"). Without a group it has those that the image's own files give the user; a user that is a number needs no line.
func resolveUser(rootfs, text string) (runtime.User, error) {
	name, group, hasGroup := strings.Cut(text, ":")
	if name == "" {
		name = "0"
	}
	users, err := readPasswd(rootfs, "/etc/passwd")
	if err != nil {
		return runtime.User{}, err
	}
	groups, err := readPasswd(rootfs, "/etc/group")
	if err != nil {
		return runtime.User{}, err
	}
	user, known := findLine(users, name)
	if !known {
		if user.id, err = parseID(name); err != nil {
			return runtime.User{}, fmt.Errorf("the image wants to run as user %q, whom its /etc/passwd does not have", name)
		}
	}
	if hasGroup {
		chosen, known := findLine(groups, group)
		if !known {
			if chosen.id, err = parseID(group); err != nil {
				return runtime.User{}, fmt.Errorf("the image wants to run as group %q, which its /etc/group does not have", group)
			}
		}
		return runtime.User{UID: user.id, GID: chosen.id}, nil
	}
	found := runtime.User{UID: user.id, GID: user.gid}
	for _, g := range groups {
		if user.name != "" && slices.Contains(g.members, user.name) && !slices.Contains(found.AdditionalGids, g.id) {
			found.AdditionalGids = append(found.AdditionalGids, g.id)
		}
	}
	return found, nil
}

// findLine looks for a name, and for a number where no name is so.
func findLine(lines []passwdLine, text string) (passwdLine, bool) {
	if i := slices.IndexFunc(lines, func(l passwdLine) bool { return l.name == text }); i >= 0 {
		return lines[i], true
	}
	id, err := parseID(text)
	if err != nil {
		return passwdLine{}, false
	}
	i := slices.IndexFunc(lines, func(l passwdLine) bool { return l.id == id })
	if i < 0 {
		return passwdLine{}, false
	}
	return lines[i], true
}

func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err == nil && id == math.MaxUint32 { // which chown(2) takes for nobody
		err = strconv.ErrRange
	}
	return uint32(id), err
}

// limitPasswd bounds what is read of such a file, which the image wrote.
const limitPasswd = 4 << 20 // bytes

// readPasswd reads such a file of the image, whose links stay within it. A missing one is empty; lines that are none are passed over, as
// the C library does.
func readPasswd(rootfs, path string) ([]passwdLine, error) {
	real, err := cfs.RootPath(rootfs, path)
	if err != nil {
		return nil, fmt.Errorf("%s of the image: %w", path, err)
	}
	info, err := os.Stat(real)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	content, err := readLimited(real, limitPasswd)
	if err != nil {
		return nil, err
	}
	var lines []passwdLine
	for text := bufio.NewScanner(strings.NewReader(string(content))); text.Scan(); {
		if line, ok := parsePasswd(text.Text()); ok {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// parsePasswd reads name:password:id:… . The fourth field is the group of a user, or the members of a group.
func parsePasswd(text string) (passwdLine, bool) {
	fields := strings.Split(strings.TrimSpace(text), ":")
	if len(fields) < 3 || fields[0] == "" || strings.HasPrefix(fields[0], "#") {
		return passwdLine{}, false
	}
	id, err := parseID(fields[2])
	if err != nil {
		return passwdLine{}, false
	}
	line := passwdLine{name: fields[0], id: id}
	if len(fields) > 3 {
		if gid, err := parseID(fields[3]); err == nil {
			line.gid = gid
		}
		line.members = strings.Split(fields[3], ",")
	}
	return line, true
}
