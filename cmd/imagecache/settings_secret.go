package main

import (
	"fmt"
	"os"
)

// openSecrets tells of files with secrets that every user of this machine may read. It is no error: in a container there is but one. A
// file that cannot be looked at is told of by who wants to read it.
func (s *Settings) openSecrets() (warnings []Warning) {
	for _, file := range s.secretFiles() {
		if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o004 != 0 {
			warnings = append(warnings, Warning(fmt.Sprintf("%s holds secrets and may be read by every user of this machine: chmod o= %[1]s", file)))
		}
	}
	return warnings
}

func (s *Settings) secretFiles() []string {
	files := []string{s.TLS.KeyFile, s.Access.HtpasswdFile}
	for _, u := range s.configured() {
		files = append(files, u.PasswordFile, u.ClientSecretFile)
		for _, account := range u.Accounts {
			files = append(files, account.PasswordFile, account.ClientSecretFile)
		}
	}
	return files
}
