package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry"
)

// gardenImage makes a reference, or the place of an image on this machine, of what Garden calls an image. Garden writes the tag behind #,
// and hands it on behind a colon instead (DefaultCommandCreator of cloudfoundry/guardian), so that a digest may follow one too.
func gardenImage(text string) (string, error) {
	scheme, rest, hasScheme := strings.Cut(text, "://")
	switch {
	case !hasScheme && filepath.IsAbs(text):
		return text, nil
	case scheme == "oci" && strings.HasPrefix(rest, "/"):
		return ociScheme + strings.Replace(rest, "#", ":", 1), nil
	case scheme == "docker":
		return dockerImage(rest)
	}
	return "", fmt.Errorf("%q is no image: want docker:///NAME#TAG, docker://HOST/NAME#TAG, oci:///FOLDER, or the path of a tar", withoutLogin(text))
}

// withoutLogin takes away what an address may hold that is not to be shown.
func withoutLogin(text string) string {
	if at := strings.LastIndexByte(text, '@'); at >= 0 && strings.Contains(text[:at], "://") {
		return text[:strings.Index(text, "://")+3] + text[at+1:]
	}
	return text
}

func dockerImage(rest string) (string, error) {
	host, name, _ := strings.Cut(rest, "/")
	if strings.Contains(host, "@") {
		return "", errors.New("the image's address holds a login, which everybody can read: use --username and --password")
	}
	if host == "" {
		host = "docker.io"
	}
	name, version := cutVersion(name)
	separator := ":"
	if version == "" {
		separator = ""
	} else if _, err := digest.Parse(version); err == nil {
		separator = "@"
	}
	ref, err := registry.ParseReference(host + "/" + name + separator + version)
	if err != nil {
		return "", fmt.Errorf("docker://%s: %w", rest, err)
	}
	return ref.String(), nil
}

// cutVersion parts a name from the tag or the digest behind it.
func cutVersion(name string) (before, version string) {
	last := strings.LastIndexByte(name, '/') + 1
	if i := strings.IndexAny(name[last:], "#@:"); i >= 0 {
		return name[:last+i], name[last+i+1:]
	}
	return name, ""
}
