package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// setAdminGroup takes the name of a group of this machine, or its number.
func setAdminGroup(s *Settings, value string) error {
	s.AdminGroup = value
	return nil
}

// checkAdminGroup refuses a group where there is no socket for it.
func (s *Settings) checkAdminGroup() error {
	if s.AdminGroup != "" && s.adminPort() != "" {
		return s.at(errors.New("admin_group is for a unix socket: whoever is on this machine reaches a loopback address"), "admin_group")
	}
	return nil
}

// openToGroup lets the members of a group connect to a socket of ours. Its folder is opened to them, too, so far that they can enter it, if
// it is for us alone: one that others may enter as well is not only ours.
func openToGroup(socket, group string) error {
	gid, err := groupID(group)
	if err != nil {
		return &hintedError{fmt.Errorf("admin_group: %w", err), "make that group, or name another"}
	}
	folder := filepath.Dir(socket)
	info, err := os.Stat(folder)
	if err != nil {
		return fmt.Errorf("admin_group: %w", err)
	}
	if info.Mode().Perm()&0o001 == 0 {
		err = give(folder, gid, 0o710)
	}
	if err == nil {
		err = give(socket, gid, 0o660)
	}
	if errors.Is(err, fs.ErrPermission) {
		return &hintedError{fmt.Errorf("admin_group: %w", err), "who runs imagecache must be a member of that group: SupplementaryGroups= in its systemd unit"}
	}
	return err
}

func give(path string, gid int, mode fs.FileMode) error {
	if err := os.Chown(path, -1, gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

func groupID(group string) (int, error) {
	found, err := user.LookupGroup(group)
	if err != nil {
		if found, err = user.LookupGroupId(group); err != nil {
			return 0, fmt.Errorf("there is no group %q on this machine", group)
		}
	}
	return strconv.Atoi(found.Gid)
}
