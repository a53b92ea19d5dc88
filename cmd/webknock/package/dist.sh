#!/bin/sh
# dist.sh makes the packages in dist, from the root of the tree; make dist calls it.
# The same commit gives the same bytes: nothing in them says when or where they were
# made. SOURCE_DATE_EPOCH is the commit's date, VERSION what git calls it. ARCHES and
# PACKAGERS choose some of the packages.
set -eu
here=cmd/webknock/package
tools=integration/tools
# The version of a package: that of the tag, v1.2.3 or v1.2.3-4-gHASH for the fourth
# commit after it; without a tag one that is older than all.
case $VERSION in
v[0-9]*) PACKAGE_VERSION=$(echo "${VERSION#v}" | sed 's/-\([0-9]*\)-g/+\1.g/; s/-dirty/+dirty/') ;;
*) PACKAGE_VERSION=0.0.0+g$(echo "$VERSION" | tr -c 'a-z0-9\n' .) ;;
esac
MAINTAINER=${MAINTAINER:-$(git log -1 --format='%an <%ae>' 2>/dev/null || echo 'webknock <webknock@localhost>')}
export PACKAGE_VERSION MAINTAINER SOURCE_DATE_EPOCH
umask 022
rm -rf dist
mkdir -p dist
work=dist/.work
$GO -C $tools build -trimpath -buildvcs=false -o "$PWD/$work/" ./licences github.com/goreleaser/nfpm/v2/cmd/nfpm github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

for ARCH in ${ARCHES:-amd64 arm64}; do
	STAGE=$PWD/$work/$ARCH
	export ARCH
	GOOS=linux GOARCH=$ARCH CGO_ENABLED=0 $GO build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o "$STAGE/webknock" ./cmd/webknock
	make -s install DESTDIR="$STAGE" PREFIX=/usr PROGRAM="$STAGE/webknock"
	documents=$STAGE/usr/share/doc/webknock
	GOOS=linux GOARCH=$ARCH CGO_ENABLED=0 $work/licences ./cmd/webknock | gzip -9n >"$documents/LICENSES.gz"
	rm "$documents/LICENSE"
	{
		cat $here/copyright
		sed 's/^$/./; s/^/ /' LICENSE
	} >"$documents/copyright"
	gzip -9nf "$documents/CHANGELOG.md" "$STAGE"/usr/share/man/man*/*
	mv "$documents/CHANGELOG.md.gz" "$documents/changelog.gz"
	printf -- '- semver: "%s"\n  date: %s\n  packager: "%s"\n  deb: {urgency: medium, distributions: [stable]}\n  changes: [{note: "See changelog.gz."}]\n' "$PACKAGE_VERSION" \
		"$(date -u +%Y-%m-%dT%H:%M:%SZ -d "@$SOURCE_DATE_EPOCH")" "$MAINTAINER" >"$STAGE/changelog.yaml"
	cp $here/nfpm.yaml $here/webknock.yaml $here/lintian-overrides $here/*.sh "$STAGE"
	find "$STAGE" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	for packager in ${PACKAGERS:-deb rpm apk archlinux}; do
		(cd "$STAGE" && ../nfpm package -p $packager -t ../..) >$work/nfpm.log || { cat $work/nfpm.log >&2; exit 1; }
	done
	cp "$STAGE/webknock" "dist/webknock-linux-$ARCH"
	$work/cyclonedx-gomod bin -json -licenses -noserial -notimestamp -version "v$PACKAGE_VERSION" -output "dist/webknock-linux-$ARCH.cdx.json" "dist/webknock-linux-$ARCH" 2>"$work/sbom.log" ||
		{ cat "$work/sbom.log" >&2; exit 1; }
done
rm -rf $work
(cd dist && sha256sum -- * >SHA256SUMS)
ls -l dist
