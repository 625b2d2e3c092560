package main

import (
	"strings"
	"testing"
)

func run(t *testing.T, events string) (string, *summary) {
	t.Helper()
	var b strings.Builder
	s := newSummary(&b)
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	s.print()
	return b.String(), s
}

func TestSummary_CountsTestsNotSubtests_AndPrintsOnlyFailures(t *testing.T) {
	out, _ := run(t, `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestA","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA/sub"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB/x","Output":"loud\n"}
{"Action":"fail","Package":"p","Test":"TestB/x"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    c.go:1: needs fio\n"}
{"Action":"output","Package":"p","Test":"TestC","Output":"--- SKIP: TestC (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`)
	for _, want := range []string{"loud\n", "FAIL\tp\t0.1s\n", "SKIPPED p TestC: c.go:1: needs fio\n", "1 passed, 1 failed, 1 skipped\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "quiet") {
		t.Errorf("output of a test that passed was printed:\n%s", out)
	}
}

func TestSummary_PackageThatDoesNotBuildOrDies_IsAFailure(t *testing.T) {
	out, s := run(t, `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: undefined: x\n"}
{"Action":"fail","Package":"p","FailedBuild":"p"}
{"Action":"output","Package":"q","Test":"TestHangs","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"q"}
go: cannot find main module
`)
	if s.failed != 2 || !strings.Contains(out, "undefined: x") || !strings.Contains(out, "timed out") || !strings.Contains(out, "main module") {
		t.Fatalf("%d failed:\n%s", s.failed, out)
	}
}
