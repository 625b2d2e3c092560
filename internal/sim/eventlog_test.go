package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestEventLog_ShowsLegendFaultsAndLastLines(t *testing.T) {
	l := NewEventLog([]string{"n1", "n2", "w"}, true)
	l.Add(1*time.Millisecond, 0, kindStart, 3, 0, "powers on, boot %d")
	l.Addf(2*time.Millisecond, colClients, kindClient, "c%d asks for %s", 1, "100%")
	l.Add(3*time.Millisecond, 1, kindFault, 0, 0, "loses power")
	for i := range uint64(logShown - 3) {
		l.Add(4*time.Millisecond, colClients, kindClient, i, i*i, "op %d of value %d")
	}
	l.Add(1500*time.Millisecond, 2, kindLedger, 0, 0, "drop\nof n2")
	l.Add(1501*time.Millisecond, colWorld, kindFault, 0, 0, "everything is healed")
	l.Add(1502*time.Millisecond, colWorld, kindFailure, 17, 0, "sector %d is wrong")
	got := strings.Split(l.String(), "\n")
	want := map[int]string{
		0:  "X failure  + start  - stop  i notice  ~ network  ! fault  # ledger  . client",
		2:  "    seconds  n1  n2  w  clients  world  what",
		3:  "        ...  2 more",
		4:  "   0.003000      !                      loses power",
		5:  "   0.004000             .               op 0 of value 0",
		-6: "   0.004000             .               op 296 of value 87616",
		-5: "   1.500000          #                  drop",
		-4: "                                        of n2",
		-3: "   1.501000                      !      everything is healed",
		-2: "   1.502000                      X      sector 17 is wrong",
	}
	for i, w := range want {
		k := i
		if i < 0 {
			k += len(got)
		}
		if got[k] != w {
			t.Errorf("line %d is\n%q, not\n%q", i, got[k], w)
		}
	}
	if len(got) != 5+logShown+2 {
		t.Errorf("%d lines", len(got))
	}
}

func TestEventLog_KeepsTheLastLinesAndEveryFault(t *testing.T) {
	l := NewEventLog([]string{"n1"}, false)
	l.Add(0, 0, kindFault, 0, 0, "the first fault")
	for i := range uint64(2*logKept + 100) {
		l.Add(time.Duration(i), 0, kindNet, i, 0, "frame %d")
	}
	got := l.String()
	for _, want := range []string{"the first fault", fmt.Sprintf("frame %d\n", 2*logKept+99), fmt.Sprintf("frame %d\n", 2*logKept+100-logShown)} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not shown", want)
		}
	}
	if strings.Contains(got, fmt.Sprintf("frame %d\n", 2*logKept+99-logShown)) {
		t.Error("more is shown than the last lines")
	}
	if !strings.HasSuffix(strings.TrimSpace(got), fmt.Sprintf("frame %d", 2*logKept+99)) {
		t.Error("the last line is not the last")
	}
}

func TestEventLog_Addf_IsForVerboseLogs(t *testing.T) {
	for _, verbose := range []bool{false, true} {
		l := NewEventLog([]string{"n1"}, verbose)
		l.Addf(0, 0, kindNotice, "hello %s", "there")
		if strings.Contains(l.String(), "hello there") != verbose || l.Verbose() != verbose {
			t.Errorf("verbose %v: %s", verbose, l)
		}
	}
}

func TestEventLog_Add_DoesNotAllocateWhenFull(t *testing.T) {
	l := NewEventLog([]string{"n1"}, false)
	add := func() { l.Add(time.Second, 0, kindNet, 1, 2, "frame %d of session %d") }
	for range logKept {
		add()
	}
	if n := testing.AllocsPerRun(100, add); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
