# webknock. The targets: build cross dist test test-hosts lint demo pictures fuzz bench install uninstall clean

GO      ?= go
PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# What each target needs beside Go: packages as Debian calls them, and by which
# programs or files they are known to be there.
TEST_PACKAGES  = apache2-bin ca-certificates caddy curl gcc haproxy iproute2 iptables libapache2-mod-security2 libc6-dev nftables nginx-light nmap openssh-client openssh-server openssl procps python3 python3-nacl tcpdump tinyproxy-bin ufw uidmap util-linux
TEST_NEEDS     = /usr/lib/apache2/modules/mod_security2.so /usr/lib/python3/dist-packages/nacl/__init__.py apache2 caddy curl gcc haproxy ip iptables newuidmap nft nginx nmap nsenter openssl python3 ssh sshd ssh-keygen sysctl tcpdump tinyproxy ufw
HOSTS_PACKAGES = chromium conntrack dbus debootstrap docker.io firefox-esr firewalld lintian nodejs $(if $(shell command -v npm),,npm) prometheus rpm rpmlint systemd-container
HOSTS_NEEDS    = chromium conntrack dbus-daemon debootstrap dockerd firefox-esr firewalld lintian node npm prometheus promtool rpm rpmlint systemd-nspawn
DEMO_PACKAGES  = curl iproute2 openssh-client openssh-server util-linux
DEMO_NEEDS     = curl ip nsenter sshd ssh-keygen

# The tools have a module of their own, so that the program's stays small.
TOOL = $(GO) tool -modfile=integration/tools/go.mod

export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: build cross dist modules test test-hosts lint demo pictures fuzz bench install uninstall clean deps deps-test deps-hosts deps-demo

# The same commit gives the same program, wherever it is built.
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'
DATE  = $(shell git log -1 --format=%ct 2>/dev/null || date +%s)

build: bin/man
	$(BUILD) -o bin/webknock ./cmd/webknock

# A manual page for each command.
SOURCES = $(shell find cmd config firewall httpd internal sequence -type f -not -name '*_test.go') go.mod go.sum
bin/man: $(SOURCES)
	@rm -rf bin/man && mkdir -p bin/man
	SOURCE_DATE_EPOCH=$(DATE) $(GO) run -buildvcs=false -tags manpages -ldflags '-X main.version=$(VERSION)' ./cmd/webknock bin/man

bin/webknock: $(SOURCES)
	@command -v $(GO) >/dev/null || { echo "bin/webknock is not of this tree, and there is no Go to build it: run make build first, as whoever has Go"; exit 1; }
	$(MAKE) build

# The program for every system: the daemon and the client for Linux, the client
# alone for the others. Written to bin/SYSTEM-PROCESSOR.
SYSTEMS = linux-amd64 linux-arm64 linux-arm linux-riscv64 darwin-amd64 darwin-arm64 windows-amd64 freebsd-amd64
cross: $(SYSTEMS:%=cross-%)
cross-%:
	GOOS=$(word 1,$(subst -, ,$*)) GOARCH=$(word 2,$(subst -, ,$*)) $(BUILD) -o bin/$*/ ./cmd/webknock
	GOOS=$(word 1,$(subst -, ,$*)) GOARCH=$(word 2,$(subst -, ,$*)) $(GO) vet ./internal/client ./cmd/webknock

test: deps-test modules
	$(GO) test -race -count=1 -timeout 9m -parallel 8 ./...

# In namespaces of their own the tests reach no network.
modules:
	$(GO) mod download
	$(GO) -C integration/tools build -o /dev/null github.com/letsencrypt/pebble/v2/cmd/pebble github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv

# Tests against whole systems, as root: Docker, firewalld, browsers, Prometheus, a
# booted systemd.
test-hosts: deps-test deps-hosts modules integration/hosts/.debian
	cd integration/hosts && npm ci --silent --no-audit --no-fund --ignore-scripts
	$(GO) test -tags hosts -count=1 -timeout 20m -v ./integration/hosts

integration/hosts/.debian:
	integration/hosts/debian.sh $@

# As root: installs what is missing, and starts and enables nothing. Otherwise:
# says what would.
deps: deps-test
deps-test: export PACKAGES = $(TEST_PACKAGES)
deps-test: export NEEDED = $(TEST_NEEDS)
deps-hosts: export PACKAGES = $(HOSTS_PACKAGES)
deps-hosts: export NEEDED = $(HOSTS_NEEDS)
deps-demo: export PACKAGES = $(DEMO_PACKAGES)
deps-demo: export NEEDED = $(DEMO_NEEDS)
deps-test deps-hosts deps-demo:
	@[ -e /proc/self/ns/net ] || { echo "/proc is missing, which Go and the tests need (in a chroot: mount -t proc proc /proc)"; exit 1; }
	@missing=; for p in $$NEEDED; do command -v $$p >/dev/null || [ -e $$p ] || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "What is missing:$$missing. Install it with:"; \
		echo "    sudo apt-get install" $$PACKAGES; exit 1; \
	fi; \
	echo "Missing:$$missing. Installing the Debian packages" $$PACKAGES; \
	integration/packages.sh $$PACKAGES

lint:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags hosts ./integration/...
	$(TOOL) staticcheck ./...
	$(TOOL) staticcheck -tags hosts ./integration/...
	$(GO) -C integration/tools vet ./...
	git ls-files '*.md' '*.go' '*.yaml' '*.sh' 'docs/man/*' 'httpd/admin/page/*' | xargs $(TOOL) misspell -error

demo: deps-demo build
	$(GO) run ./integration/demo bin/webknock

# The pictures of the documents, as root. They need graphviz, asciinema, and what
# test-hosts needs.
SCREENS = docs/screens
SVGTERM = npx --yes svg-term-cli@2.1.1 --window --no-cursor --width 80 --height 26 --padding-x 4
pictures: docs/way-of-a-knock.svg build deps-hosts
	mkdir -p bin/screens $(SCREENS)
	$(GO) build -o bin/screens/ ./integration/demo ./integration/screens
	bin/screens/screens bin/webknock bin/screens/demo bin/screens
	cd integration/hosts && npm ci --silent --no-audit --no-fund --ignore-scripts
	for cast in demo top; do $(SVGTERM) --in bin/screens/$$cast.cast --out $(SCREENS)/$$cast.svg || exit 1; done
	$(SVGTERM) --in bin/screens/status.cast --out $(SCREENS)/status.svg --at 60000
	WEBKNOCK_SHOTS=$(CURDIR)/bin/screens $(GO) test -tags hosts -count=1 -run InPictures ./integration/hosts
	for theme in light dark; do cp bin/screens/ui-overview-$$theme-1600.png $(SCREENS)/page-$$theme.png || exit 1; done
docs/%.svg: docs/%.dot
	dot -Tsvg $< -o $@

# Every fuzz target for FUZZTIME.
FUZZTIME ?= 30s
fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

# As root. Those of integration measure the built program beside others, and
# take minutes.
bench: deps-test
	$(GO) test -p 1 -timeout 60m -run '^$$' -bench . -benchmem ./...

# As root, from the tree as it is now. What make build has built is not built
# again, so that root needs no Go. With DESTDIR nothing but files is made.
PROGRAM    ?= bin/webknock
UNITS       = webknock.service webknock-guard.service
DROPINS     = nftables.service.d/webknock.conf
COMPLETIONS = share/bash-completion/completions/webknock share/zsh/site-functions/_webknock share/fish/vendor_completions.d/webknock.fish
DEST        = $(DESTDIR)$(PREFIX)
install: bin/webknock
	install -D -m 0755 $(PROGRAM) $(DEST)/bin/webknock
	install -d $(DEST)/share/man/man5 $(DEST)/share/man/man8 $(dir $(COMPLETIONS:%=$(DEST)/%))
	install -m 0644 docs/man/webknock.yaml.5 $(DEST)/share/man/man5
	install -m 0644 docs/man/webknock.8 bin/man/*.8 $(DEST)/share/man/man8
	bin/webknock completion bash > $(DEST)/share/bash-completion/completions/webknock
	bin/webknock completion zsh > $(DEST)/share/zsh/site-functions/_webknock
	bin/webknock completion fish > $(DEST)/share/fish/vendor_completions.d/webknock.fish
	install -D -m 0644 -t $(DEST)/share/doc/webknock docs/webknock.yaml README.md SECURITY.md CHANGELOG.md LICENSE cmd/webknock/package/webknock.socket docs/systemd/webknock.service.d/commands.conf \
		docs/grafana/webknock.json docs/prometheus/webknock.rules.yml
	@# As README.md links to them.
	install -D -m 0644 -t $(DEST)/share/doc/webknock/docs docs/*.md docs/*.svg docs/openapi.yaml docs/webknock.schema.json docs/webknock.yaml
	install -D -m 0644 -t $(DEST)/share/doc/webknock/docs/recipes docs/recipes/*
	install -D -m 0644 cmd/webknock/package/webknock.sysusers $(DEST)/lib/sysusers.d/webknock.conf
	install -D -m 0644 cmd/webknock/package/webknock.tmpfiles $(DEST)/lib/tmpfiles.d/webknock.conf
	for unit in $(UNITS) $(DROPINS); do \
		install -d $(DEST)/lib/systemd/system/$$(dirname $$unit) && \
		sed 's,/usr/local/bin,$(PREFIX)/bin,' docs/systemd/$$unit > $(DEST)/lib/systemd/system/$$unit && \
		chmod 0644 $(DEST)/lib/systemd/system/$$unit || exit 1; \
	done
ifeq ($(DESTDIR),)
	@if [ -d /run/systemd/system ]; then \
		systemd-sysusers $(PREFIX)/lib/sysusers.d/webknock.conf && systemctl daemon-reload; \
	fi
	@# The unit's user reads the configuration by its group.
	@if [ -d /etc/webknock ] && getent group webknock >/dev/null; then chgrp -R webknock /etc/webknock && chmod -R g+rX /etc/webknock; fi
	@echo "Installed; nothing is started or guarded yet. As root, webknock init shows what it would set up here."
endif

# The guard goes first: without the program nobody can be let in, and only the
# program takes the guard away. Configuration and state stay. With DESTDIR nothing
# runs here, so that only files are removed.
uninstall:
ifeq ($(DESTDIR),)
	$(PREFIX)/bin/webknock unguard
	@if [ -d /run/systemd/system ]; then systemctl disable --now webknock.service webknock-guard.service; fi
endif
	rm -f $(DEST)/bin/webknock $(COMPLETIONS:%=$(DEST)/%)
	rm -f $(DEST)/share/man/man8/webknock.8 $(DEST)/share/man/man8/webknock-*.8 $(DEST)/share/man/man5/webknock.yaml.5
	rm -f $(DEST)/lib/sysusers.d/webknock.conf $(DEST)/lib/tmpfiles.d/webknock.conf
	rm -f $(addprefix $(DEST)/lib/systemd/system/,$(UNITS) $(DROPINS))
	-rmdir $(addprefix $(DEST)/lib/systemd/system/,$(dir $(DROPINS))) 2>/dev/null
	rm -rf $(DEST)/share/doc/webknock
ifeq ($(DESTDIR),)
	@if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
endif

# Packages for Debian, Fedora, Alpine and Arch, with their checksums, and what is
# linked into the program, in dist.
dist:
	rm -rf bin/man    # the version stands in it
	$(MAKE) build
	GO='$(GO)' VERSION='$(VERSION)' SOURCE_DATE_EPOCH=$(DATE) cmd/webknock/package/dist.sh

clean:
	rm -rf bin dist integration/hosts/node_modules integration/hosts/.debian
