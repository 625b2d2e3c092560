package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// attachedFake has r0 with two attachments, and remembers each of its calls.
type attachedFake struct {
	fake
	calls []string
}

func (f *attachedFake) DropAttachment(_ context.Context, r string, n uint64) error {
	f.calls = append(f.calls, fmt.Sprintf("drop %s %d", r, n))
	return nil
}

func (f *attachedFake) DeleteResource(_ context.Context, r string) error {
	f.calls = append(f.calls, "delete "+r)
	return nil
}

func newAttachedFake() *attachedFake {
	f := &attachedFake{}
	f.status = control.Status{Node: "n1", Resources: []control.Resource{{
		Name: "r0", Primary: "n1", Attachments: []control.Attachment{
			{Number: 3, Holder: "h1", Device: "/dev/nbd0", Boot: "b1", Shared: true, Connected: true},
			{Number: 12, Holder: "host-two", Device: "/dev/nbd1", Boot: "b2", Shared: true},
		},
	}}}
	return f
}

func TestAttachments_AreListed(t *testing.T) {
	vars := serveAs(t, newAttachedFake())
	code, out, _ := cli(t.Context(), vars, "attachments", "r0")
	want := "RESOURCE  NUMBER  HOLDER    DEVICE     MODE    CONNECTED\n" +
		"r0        3       h1        /dev/nbd0  shared  yes\n" +
		"r0        12      host-two  /dev/nbd1  shared  no\n"
	if code != exitOK || out != want {
		t.Errorf("exit %d:\n%s\nwant\n%s", code, out, want)
	}
	code, out, _ = cli(t.Context(), vars, "attachments", "--json")
	if code != exitOK || !strings.Contains(out, `"number": 12`) || !strings.Contains(out, `"resource": "r0"`) {
		t.Errorf("exit %d: %s", code, out)
	}
	code, out, _ = cli(t.Context(), vars, "status")
	if code != exitOK || !strings.Contains(out, "  attached:h1:/dev/nbd0 shared connected:yes\n") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestDeleteWithForce_EndsTheAttachmentsFirst(t *testing.T) {
	f := newAttachedFake()
	vars := serveAs(t, f)
	if code, _, errs := cli(t.Context(), vars, "resource", "delete", "r0", "--force"); code != exitOK {
		t.Fatalf("exit %d: %s", code, errs)
	}
	if got := strings.Join(f.calls, ", "); got != "drop r0 3, drop r0 12, delete r0" {
		t.Errorf("asked for: %s", got)
	}
}

func TestDropAttachment_NumberThatIsNone(t *testing.T) {
	for _, n := range []string{"0", "x", "-1", "/dev/nbd0"} {
		if code, _, errs := cli(t.Context(), serveAs(t, newAttachedFake()), "attachment", "drop", "r0", "--", n); code != exitUsage || !strings.Contains(errs, "lockstep attachments r0") {
			t.Errorf("%s: exit %d: %s", n, code, errs)
		}
	}
}
