# imagecache: what can be done with a checkout. `make help` lists it.

SHELL := /bin/bash
GO ?= go
BIN := bin/imagecache
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 20s
E2E_TIMEOUT ?= 40m
PREFIX ?= /usr/local

.PHONY: help all build run setup test unit e2e clients load lint format vet bench fuzz install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

all: format vet lint unit build ## format, vet, lint, race tests, build

build: ## build bin/imagecache
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o $(BIN) ./cmd/imagecache

run: build ## build and run the daemon with its defaults (Ctrl-C ends it)
	$(BIN) serve

setup: ## install what the tests need (Debian packages, containerd 2.4.2, crane, regctl); as root or with sudo
	sh e2e/setup.sh

test: setup vet unit e2e ## set up, and pass all tests

unit: ## tests of the packages, with the race detector
	$(GO) test -race ./...

e2e: ## end to end: real registries, containerd 1.6 and 2.4.2, runc, skopeo, crane, regctl (needs setup, and root)
	$(GO) test -tags e2e -count=1 -timeout $(E2E_TIMEOUT) -v ./e2e/

clients: ## podman, buildah, helm, cosign, docker and buildkit against a home (gets them first, which takes long; needs root)
	sh e2e/setup.sh clients
	$(GO) test -tags 'e2e clients' -count=1 -timeout $(E2E_TIMEOUT) -v -run 'TestPodmanAndBuildah|TestHelm|TestCosign|TestDocker|TestBuildkit|TestSignaturesCross' ./e2e/

load: ## 1,000 clients for a minute, 10,000 idle connections, slow clients, SIGTERM in the middle (needs setup, and root)
	IMAGECACHE_LOAD=full $(GO) test -tags e2e -count=1 -timeout $(E2E_TIMEOUT) -v -run 'TestManyClients|TestIdleAndSlow|TestSIGTERMHalfway' ./e2e/

lint: ## static analysis
	$(GO) run $(STATICCHECK) -tags e2e,clients ./...

format: ## gofmt
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not formatted: $$unformatted"; exit 1; }

vet: ## go vet, of the end-to-end tests too
	$(GO) vet ./...
	$(GO) vet -tags e2e ./e2e/

bench: ## benchmarks of the packages
	$(GO) test -run '^$$' -bench . -benchmem ./...

fuzz: ## each fuzz target for FUZZTIME (20s)
	@set -e; for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "$$package $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; done; done

install: build ## install the program, its systemd unit and user below PREFIX (/usr/local)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/imagecache
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/bin/imagecache|$(PREFIX)/bin/imagecache|' packaging/imagecache.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/imagecache.service
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/imagecache.service
	install -D -m 644 packaging/imagecache-snapshotter.conf $(DESTDIR)$(PREFIX)/share/imagecache/imagecache-snapshotter.conf
	install -D -m 644 packaging/imagecache.sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/imagecache.conf
	@echo "then, as root: systemd-sysusers && systemctl daemon-reload && systemctl enable --now imagecache"
	@echo "for containerd's snapshotter and imagecache mount, before that: install -D -m 644 $(PREFIX)/share/imagecache/imagecache-snapshotter.conf /etc/systemd/system/imagecache.service.d/snapshotter.conf"

clean: ## remove what was built here
	rm -rf bin
