#!/bin/sh
# gofmt, vet, the import rules, and staticcheck where it can be installed ($1 names its version).
set -eu
bad=0
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "not formatted (gofmt -w):" >&2
	echo "$unformatted" >&2
	bad=1
fi
go vet ./... || bad=1
go test -run '^TestImports' -count=1 ./tests/ || bad=1
tool=$(go env GOPATH)/bin/staticcheck
if [ "$("$tool" -version 2>/dev/null | grep -o 'v[0-9.]*[0-9]' || true)" != "${1##*@}" ]; then
	go install "$1" >/dev/null 2>&1 || true
fi
if [ -x "$tool" ]; then
	"$tool" ./... || bad=1
elif [ "${LOCKSTEP_REQUIRE:-}" = all ]; then
	echo "staticcheck cannot be installed: $1" >&2
	bad=1
else
	echo "SKIPPED: staticcheck cannot be installed: $1" >&2
fi
exit $bad
