package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// containerdConfig is what containerd's own settings say about hosts.toml. Only pulls by CRI, that is by the kubelet and crictl, depend on it:
// ctr is told by --hosts-dir, and nerdctl looks into /etc/containerd/certs.d by itself.
type containerdConfig struct {
	path        string
	problem     string // why it could not be read
	version     int64  // of the form of the file: 1 and 2 are containerd 1.x's, 3 and 4 are containerd 2.x's
	configPaths []string
	mirrors     bool // the old way, which containerd refuses beside config_path
}

// criRegistryTables are where the settings of CRI's registries stand, by the generations of containerd.
var criRegistryTables = [][]string{
	{"plugins", "io.containerd.cri.v1.images", "registry"},
	{"plugins", "io.containerd.grpc.v1.cri", "registry"},
	{"plugins", "cri", "registry"},
}

// readContainerdConfig reads the file and what it imports, a file's own values first.
func readContainerdConfig(path string) containerdConfig {
	c := containerdConfig{path: path, version: 1}
	document, err := readTOML(path)
	if err != nil {
		c.problem = err.Error()
		return c
	}
	if version, known := document["version"].(int64); known {
		c.version = version
	}
	c.take(document)
	imports, _ := document["imports"].([]any)
	for _, pattern := range imports {
		text, isText := pattern.(string)
		if !isText {
			continue
		}
		if !filepath.IsAbs(text) {
			text = filepath.Join(filepath.Dir(path), text)
		}
		files, err := filepath.Glob(text)
		if err != nil {
			continue // containerd itself tells about a bad pattern
		}
		for _, file := range files {
			if imported, err := readTOML(file); err == nil {
				c.take(imported)
			}
		}
	}
	return c
}

func readTOML(path string) (map[string]any, error) {
	content, err := readLimited(path, limitConfigFile)
	if err != nil {
		return nil, err
	}
	document := map[string]any{}
	if err := toml.Unmarshal(content, &document); err != nil {
		return nil, tomlError(path, err)
	}
	return document, nil
}

// take notes what one document says; what comes later wins, as with containerd's imports.
func (c *containerdConfig) take(document map[string]any) {
	for _, table := range criRegistryTables {
		registry, isTable := valueAt(document, table).(map[string]any)
		if !isTable {
			continue
		}
		if path, isText := registry["config_path"].(string); isText && path != "" {
			c.configPaths = filepath.SplitList(path)
		}
		if mirrors, _ := registry["mirrors"].(map[string]any); len(mirrors) > 0 {
			c.mirrors = true
		}
	}
}

// covers tells whether CRI reads a folder of hosts.
func (c *containerdConfig) covers(configPath string) bool {
	return slices.ContainsFunc(c.configPaths, func(p string) bool { return filepath.Clean(p) == filepath.Clean(configPath) })
}

// notes says what is to be done so that pulls by CRI pass through: the lines to add, and the restart.
func (c containerdConfig) notes(configPath string) []string {
	var notes []string
	switch {
	case c.covers(configPath):
	case c.problem != "":
		notes = append(notes, fmt.Sprintf("could not read containerd's settings (%s): for Kubernetes they need, and then a restart of containerd,\n%s",
			c.problem, c.lines(configPath)))
	case len(c.configPaths) > 0:
		notes = append(notes, fmt.Sprintf("%s names %s, not %s: install with --config-path for that folder, or Kubernetes' pulls do not pass through",
			c.path, strings.Join(c.configPaths, ":"), configPath))
	default:
		notes = append(notes, fmt.Sprintf("%s does not name %s: for Kubernetes add this, and restart containerd\n%s", c.path, configPath, c.lines(configPath)))
	}
	if c.mirrors {
		notes = append(notes, fmt.Sprintf("%s has registry.mirrors, which containerd refuses beside config_path: move them into %s and remove them", c.path, configPath))
	}
	return notes
}

// lines are what to add, in the form of the file's version.
func (c containerdConfig) lines(configPath string) string {
	old := fmt.Sprintf("  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    config_path = %q", configPath)
	current := fmt.Sprintf("  [plugins.\"io.containerd.cri.v1.images\".registry]\n    config_path = %q", configPath)
	switch {
	case c.problem != "":
		return "  # containerd 1.x (version = 2)\n" + old + "\n  # containerd 2.x (version = 3)\n" + current
	case c.version >= 3:
		return current
	case c.version == 1:
		return fmt.Sprintf("  [plugins.cri.registry]\n    config_path = %q", configPath)
	}
	return old
}
