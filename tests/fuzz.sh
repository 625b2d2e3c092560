#!/bin/sh
# Runs every fuzz target of the module, one after another, each for the time given (default 10s).
# Targets are found, not listed: a new one is run without a word here.
set -eu
time=${1:-10s}
ran=0 failed=
for pkg in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
	for target in $(go test -run '^$' -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target ($time)"
		ran=$((ran + 1))
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$pkg" || failed="$failed $target"
	done
done
echo "$ran fuzz targets ran"
if [ -n "$failed" ]; then
	echo "FAILED:$failed" >&2
	exit 1
fi
[ "$ran" -gt 0 ]
