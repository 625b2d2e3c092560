#!/bin/sh
# Runs every fuzz target of the module, one after another, each for the time given (default 10s).
# Targets are found, not listed: a new one is run without a word here.
set -eu
time=${1:-10s}
ran=0 failed=
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for pkg in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
	for target in $(go test -run '^$' -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target ($time)"
		ran=$((ran + 1))
		if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$pkg" >"$out" 2>&1; then
			# At its end the fuzzing engine sometimes takes a worker that was slow to stop for a
			# failure. Then no input is named; a real failure always names one.
			if grep -q 'context deadline exceeded' "$out" && ! grep -q 'Failing input written' "$out"; then
				echo "(the engine overran its own time; no input failed)"
			else
				failed="$failed $target"
			fi
		fi
		cat "$out"
	done
done
echo "$ran fuzz targets ran"
if [ -n "$failed" ]; then
	echo "FAILED:$failed" >&2
	exit 1
fi
[ "$ran" -gt 0 ]
