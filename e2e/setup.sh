#!/bin/sh
# Puts what the end-to-end tests need on a Debian 12 machine that has Go, git and make.
#
#   Debian packages          a C compiler for the race detector, docker-registry (registry:2), containerd 1.6, runc, skopeo and a few tools
#   $IMAGECACHE_E2E_BIN      containerd 2.4.2 (with ctr and its shim), crane, regctl and distribution's registry 3, built by go install
#   beside that folder       debian.tar.gz, the tree of a minimal Debian, from which a test image is made; for make clients docker, a folder
#
# IMAGECACHE_E2E_BIN is $XDG_CACHE_HOME/imagecache-e2e/bin unless set. Nothing is started, what is there already is kept, and the
# second run takes a second. Needs root, or sudo.
set -eu

containerd_version=v2.4.2
crane_version=v0.22.1
distribution_version=v3.0.0
regctl_version=v0.11.7
helm_version=v3.22.0
cosign_version=v2.6.5
buildkit_version=v0.33.0
moby_version=v2.0.0-beta.24 # how Docker 29 is called as a module
packages="gcc libc6-dev docker-registry containerd runc skopeo busybox-static debootstrap zstd strace e2fsprogs xfsprogs erofs-utils mount iproute2 ca-certificates sqlite3"
# What glewlwyd needs, which is unpacked and not installed.
packages="$packages libulfius2.7 libhoel1.4 libiddawc1.1 librhonabwy1.1 liborcania2.3 libyder2.0 liboath0 libconfig9 libcbor0.8 libldap-2.5-0"

more=${1:-} # "clients": podman and buildah, helm, cosign, buildkit and two Dockers too, for make clients; they take long to get
[ "$more" != clients ] || packages="$packages podman buildah libdevmapper1.02.1"

bin=${IMAGECACHE_E2E_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/imagecache-e2e/bin}
tree=$(dirname "$bin")/debian.tar.gz
provider=$(dirname "$bin")/glewlwyd

say() { echo "e2e/setup.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		fail "not root, and there is no sudo: run me as root"
	fi
}

installed() {
	[ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]
}

# Debian starts a service when it installs it. policy-rc.d forbids that for as long as we install, and then what stood there is back.
install_packages() {
	missing=
	for package in $packages; do
		installed "$package" || missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	say "installing$missing"
	policy=/usr/sbin/policy-rc.d
	trap 'restore_policy' EXIT
	trap 'exit 1' INT TERM
	if [ -e $policy ] || [ -L $policy ]; then
		as_root mv $policy $policy.imagecache-e2e
	fi
	printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
	as_root chmod 755 $policy
	as_root apt-get -o DPkg::Lock::Timeout=300 update
	# shellcheck disable=SC2086 # a list of words
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing
	restore_policy
	trap - EXIT INT TERM
}

restore_policy() {
	as_root rm -f /usr/sbin/policy-rc.d
	if [ -e /usr/sbin/policy-rc.d.imagecache-e2e ] || [ -L /usr/sbin/policy-rc.d.imagecache-e2e ]; then
		as_root mv /usr/sbin/policy-rc.d.imagecache-e2e /usr/sbin/policy-rc.d
	fi
}

# stands MODULE VERSION COMMAND: a command is there, of just that version.
stands() {
	go version -m "$bin/$(basename "$3")" 2>/dev/null |
		awk -v m="$1" -v v="$2" '($1 == "mod" || $1 == "dep") && $2 == m && $3 == v { found = 1 } END { exit !found }'
}

# build MODULE VERSION COMMAND…: go install, unless each of the commands stands there in just that version.
build() {
	module=$1 version=$2
	shift 2
	wanted=
	for command in "$@"; do
		stands "$module" "$version" "$command" || wanted="$wanted $module/$command@$version"
	done
	[ -n "$wanted" ] || return 0
	say "building$wanted"
	# shellcheck disable=SC2086 # a list of words
	(cd / && CGO_ENABLED=0 GOFLAGS= GOBIN=$bin go install $wanted)
}

# build_buildkit: go install refuses its module, which excludes versions of others, so that a module of our own requires it.
build_buildkit() {
	module=github.com/moby/buildkit
	if stands $module $buildkit_version buildkitd && stands $module $buildkit_version buildctl; then
		return 0
	fi
	say "building $module@$buildkit_version"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' INT TERM
	(
		cd "$work"
		export CGO_ENABLED=0 GOFLAGS=
		go mod init build
		go get $module/cmd/buildkitd@$buildkit_version $module/cmd/buildctl@$buildkit_version
		go build -o "$bin/" $module/cmd/buildkitd $module/cmd/buildctl
	)
	rm -rf "$work"
	trap - EXIT INT TERM
}

# Debian's Docker is unpacked and not installed: it would start a service, make a group and change the rules of the firewall.
unpack_docker() {
	to=$(dirname "$bin")/docker
	[ ! -x "$to/usr/sbin/dockerd" ] || return 0
	say "unpacking docker.io"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' INT TERM
	(cd "$work" && { apt-get download docker.io || { as_root apt-get update && apt-get download docker.io; }; })
	dpkg-deb --extract "$work"/docker.io_*.deb "$work/tree"
	rm -rf "$to"
	mv "$work/tree" "$to"
	rm -rf "$work"
	trap - EXIT INT TERM
}

# The tree is kept as the compressed layer that it becomes: making it takes half a minute, and each test run wants it.
make_tree() {
	[ ! -s "$tree" ] || return 0
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
	[ -n "$mirror" ] || fail "apt knows no mirror of Debian 12 (bookworm)"
	say "making a minimal Debian tree"
	work=$(mktemp -d)
	trap 'as_root rm -rf "$work"' EXIT
	trap 'exit 1' INT TERM
	as_root debootstrap --variant=minbase bookworm "$work/tree" "$mirror" >"$work/log" 2>&1 || {
		tail -n 20 "$work/log" >&2
		fail "debootstrap failed"
	}
	as_root tar -C "$work/tree" --numeric-owner --sort=name --one-file-system \
		--exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' -I 'gzip -6' -cf - . >"$tree.part"
	mv "$tree.part" "$tree"
	as_root rm -rf "$work"
	trap - EXIT INT TERM
}

# Debian's server takes its lists from install_packages; where nothing was to be installed they may be older than its pool.
unpack_provider() {
	[ ! -x "$provider/usr/bin/glewlwyd" ] || return 0
	say "unpacking glewlwyd"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' INT TERM
	(cd "$work" && apt-get -q download glewlwyd) || {
		as_root apt-get -o DPkg::Lock::Timeout=300 update
		(cd "$work" && apt-get -q download glewlwyd)
	}
	rm -rf "$provider" "$provider.part"
	dpkg-deb -x "$work"/glewlwyd_*.deb "$provider.part"
	mv "$provider.part" "$provider"
	rm -rf "$work"
	trap - EXIT INT TERM
}

command -v go >/dev/null || fail "Go is missing"
command -v apt-get >/dev/null || fail "no apt-get here: this is for Debian 12"
[ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "not root, and there is no sudo: run me as root"
mkdir -p "$bin"
# Debian keeps debootstrap and runc where an ordinary user's PATH does not look.
PATH=$PATH:/usr/sbin:/sbin
install_packages
build github.com/containerd/containerd/v2 $containerd_version cmd/containerd cmd/ctr cmd/containerd-shim-runc-v2
build github.com/google/go-containerregistry $crane_version cmd/crane
build github.com/distribution/distribution/v3 $distribution_version cmd/registry
build github.com/regclient/regclient $regctl_version cmd/regctl
if [ "$more" = clients ]; then
	build helm.sh/helm/v3 $helm_version cmd/helm
	build github.com/sigstore/cosign/v2 $cosign_version cmd/cosign
	build github.com/moby/moby/v2 $moby_version cmd/dockerd
	build_buildkit
	unpack_docker
fi
unpack_provider
make_tree
