package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// defaultFolder is where containerd looks for a registry that has no folder of its own.
const defaultFolder = "_default"

// hostsMirror is what our part of a hosts.toml says.
type hostsMirror struct {
	url         string        // http://127.0.0.1:5050
	dialTimeout time.Duration // containerd's own is 30 s, which a dead mirror would cost each pull (containerd#4861)
}

// table is our part as TOML.
func (m hostsMirror) table() string {
	return fmt.Sprintf("[host.%q]\n%s", m.url, m.keys())
}

func (m hostsMirror) keys() string {
	return fmt.Sprintf("  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = %q\n", m.dialTimeout.String())
}

// hostsFolder is the folder that containerd reads for a registry; "" is every registry without one. For a name with a port containerd
// looks for "host_port_" first and for "host:port" then (hostPaths and hostDirectory in its core/remotes/docker/config), so the one
// that is there is taken, and the first one where none is.
func hostsFolder(configPath, registry string) string {
	if registry == "" {
		return filepath.Join(configPath, defaultFolder)
	}
	candidates := hostsFolders(configPath, registry)
	for _, folder := range candidates {
		if _, err := os.Stat(folder); err == nil {
			return folder
		}
	}
	return candidates[0]
}

// hostsFolders lists the folders that containerd tries for a registry, in its order, without the default one.
func hostsFolders(configPath, registry string) []string {
	var folders []string
	if colon := strings.LastIndex(registry, ":"); colon > 0 {
		folders = append(folders, filepath.Join(configPath, registry[:colon]+"_"+registry[colon+1:]+"_"))
	}
	return append(folders, filepath.Join(configPath, registry))
}

// freshHosts is the hosts.toml where none stood before. certificates are what containerd has read from that folder so far, and stops
// reading once there is a hosts.toml.
func freshHosts(registry string, m hostsMirror, certificates []string) []byte {
	var b bytes.Buffer
	b.WriteString("# Written by \"imagecache containerd install\"; \"imagecache containerd uninstall\" takes it away again.\n")
	if server := serverOf(registry); server != "" {
		fmt.Fprintf(&b, "server = %q\n", server)
	}
	for _, line := range certificates {
		b.WriteString(line + "\n")
	}
	b.WriteString("\n" + m.table())
	return b.Bytes()
}

// serverOf is where containerd goes when the mirror fails. The default folder names none: each registry is its own. Nor does a
// registry on this machine: for those containerd itself finds out whether they speak http or https.
func serverOf(registry string) string {
	switch {
	case registry == "" || docker.IsLocalhost(registry):
		return ""
	case registry == "docker.io":
		return "https://registry-1.docker.io"
	}
	return "https://" + registry
}

// folderCertificates gives the keys that say what a folder without a hosts.toml says by its files (docker's layout: *.crt to trust,
// *.cert with *.key to show).
func folderCertificates(folder string) ([]string, error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, err
	}
	var authorities, pairs []string
	for _, file := range files {
		name := file.Name()
		if file.IsDir() {
			continue
		}
		if strings.HasSuffix(name, ".crt") {
			authorities = append(authorities, fmt.Sprintf("%q", name))
		}
		if base, isCert := strings.CutSuffix(name, ".cert"); isCert {
			key := ""
			if slices.ContainsFunc(files, func(f fs.DirEntry) bool { return f.Name() == base+".key" }) {
				key = base + ".key"
			}
			pairs = append(pairs, clientPair(name, key))
		}
	}
	var lines []string
	if len(authorities) > 0 {
		lines = append(lines, "ca = ["+strings.Join(authorities, ", ")+"]")
	}
	if len(pairs) > 0 {
		lines = append(lines, "client = ["+strings.Join(pairs, ", ")+"]")
	}
	return lines, nil
}

func clientPair(cert, key string) string {
	if key == "" {
		return fmt.Sprintf("%q", cert)
	}
	return fmt.Sprintf("[%q, %q]", cert, key)
}
