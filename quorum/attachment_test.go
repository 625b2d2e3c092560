package quorum

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// key returns the n-th key of a test.
func key(n int) string { return fmt.Sprintf("%032x", n) }

// attach binds an Attach to r0, proposed by its primary.
func (x *script) attach(n int, holder, device, boot string, shared bool) Command {
	x.Helper()
	return x.on(func(c *Command) {
		c.Attach = &Attach{Incumbent: x.r0().Primary, Key: key(n), Holder: holder, Device: device, Boot: boot, Shared: shared}
	})
}

func (x *script) detach(d Detach) Command {
	x.Helper()
	return x.on(func(c *Command) { c.Detach = &d })
}

// numbers returns the attachments of r0 by number.
func (x *script) numbers() (out []uint64) {
	x.Helper()
	for _, a := range x.r0().Attachments {
		out = append(out, a.Number)
	}
	return out
}

func TestAttach_WhoIsRefusedAndWhoReplaces(t *testing.T) {
	type ask struct {
		key                  int
		holder, device, boot string
		shared               bool
	}
	alone := ask{1, "h1", "/dev/nbd0", "b1", false}
	first := ask{1, "h1", "/dev/nbd0", "b1", true}
	for name, tc := range map[string]struct {
		have []ask
		then ask
		want error  // nil: applied
		says string // of the refusal
		left []uint64
	}{
		"nobody is there":                    {nil, alone, nil, "", []uint64{1}},
		"another host":                       {[]ask{alone}, ask{2, "h2", "/dev/nbd0", "b9", false}, ErrInUse, `"r0" is attached to /dev/nbd0 on h1`, []uint64{1}},
		"another host, shared":               {[]ask{alone}, ask{2, "h2", "/dev/nbd0", "b9", true}, ErrInUse, "on h1", []uint64{1}},
		"another device of the same host":    {[]ask{alone}, ask{2, "h1", "/dev/nbd1", "b1", false}, ErrInUse, "for that host alone", []uint64{1}},
		"another process, same device":       {[]ask{alone}, ask{2, "h1", "/dev/nbd0", "b1", false}, ErrInUse, "by another process", []uint64{1}},
		"the same key":                       {[]ask{alone}, alone, ErrExists, "as number 1", []uint64{1}},
		"another boot of the holder":         {[]ask{alone}, ask{2, "h1", "/dev/nbd0", "b2", false}, nil, "", []uint64{2}},
		"another boot with the same key":     {[]ask{alone}, ask{1, "h1", "/dev/nbd0", "b2", false}, nil, "", []uint64{2}},
		"another boot, another device":       {[]ask{alone}, ask{2, "h1", "/dev/nbd1", "b2", false}, ErrInUse, "on h1", []uint64{1}},
		"another boot, shared now":           {[]ask{alone}, ask{2, "h1", "/dev/nbd0", "b2", true}, nil, "", []uint64{2}},
		"shared beside shared":               {[]ask{first}, ask{2, "h2", "/dev/nbd0", "b9", true}, nil, "", []uint64{1, 2}},
		"shared twice on one host":           {[]ask{first}, ask{2, "h1", "/dev/nbd1", "b1", true}, nil, "", []uint64{1, 2}},
		"exclusive beside shared":            {[]ask{first}, ask{2, "h2", "/dev/nbd0", "b9", false}, ErrInUse, "and shared", []uint64{1}},
		"exclusive in the place of shared":   {[]ask{first}, ask{2, "h1", "/dev/nbd0", "b2", false}, nil, "", []uint64{2}},
		"shared after a boot, beside others": {[]ask{first, {2, "h2", "/dev/nbd0", "b9", true}}, ask{3, "h1", "/dev/nbd0", "b2", true}, nil, "", []uint64{2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			x := started(t, "A", "B")
			for _, a := range tc.have {
				x.must(x.attach(a.key, a.holder, a.device, a.boot, a.shared))
			}
			c := x.attach(tc.then.key, tc.then.holder, tc.then.device, tc.then.boot, tc.then.shared)
			if tc.want == nil {
				x.must(c)
			} else {
				x.refused(c, tc.want)
				if res := x.apply(c); !strings.Contains(res.Reason, tc.says) {
					t.Errorf("%q does not say %q", res.Reason, tc.says)
				}
			}
			if got := x.numbers(); !slices.Equal(got, tc.left) {
				t.Errorf("attachments %v, want %v", got, tc.left)
			}
		})
	}
}

func TestAttach_OnlyThePrimaryRegisters(t *testing.T) {
	x := started(t, "A", "B")
	c := x.attach(1, "h1", "/dev/nbd0", "b1", false)
	c.Attach.Incumbent = inc("A", 2)
	x.refused(c, ErrNotPrimary)
	late := x.attach(1, "h1", "/dev/nbd0", "b1", false)
	x.must(x.promote(inc("B", 1)))
	x.refused(late, ErrStale)
	x.must(x.stepDown(StepDown{}))
	x.refused(x.on(func(c *Command) {
		c.Attach = &Attach{Incumbent: inc("B", 1), Key: key(1), Holder: "h", Device: "/dev/nbd0", Boot: "b"}
	}), ErrNotPrimary)
}

func TestAttach_NotValid(t *testing.T) {
	x := started(t, "A", "B")
	for name, f := range map[string]func(a *Attach){
		"short key":       func(a *Attach) { a.Key = "00" },
		"key in capitals": func(a *Attach) { a.Key = strings.Repeat("A", 32) },
		"no holder":       func(a *Attach) { a.Holder = "" },
		"long holder":     func(a *Attach) { a.Holder = strings.Repeat("h", MaxHolder+1) },
		"no device":       func(a *Attach) { a.Device = "" },
		"two lines":       func(a *Attach) { a.Device = "/dev/nbd0\n" },
		"no boot":         func(a *Attach) { a.Boot = "" },
	} {
		t.Run(name, func(t *testing.T) {
			x.TB = t
			c := x.attach(1, "h1", "/dev/nbd0", "b1", false)
			f(c.Attach)
			x.refused(c, ErrInvalid)
		})
	}
}

func TestAttach_AtMost64AndNumbersEnd(t *testing.T) {
	x := started(t, "A", "B")
	for i := range MaxAttachments {
		x.must(x.attach(i, fmt.Sprintf("h%d", i), "/dev/nbd0", "b", true))
	}
	x.refused(x.attach(99, "h99", "/dev/nbd0", "b", true), ErrInvalid)
	x.must(x.attach(99, "h7", "/dev/nbd0", "b2", true)) // takes the place of one
	x.r0().LastAttachment = MaxAttachment               // of a record that nobody else has yet
	x.must(x.detach(Detach{Number: 1, Force: true}))
	x.refused(x.attach(100, "h100", "/dev/nbd0", "b", true), ErrInvalid)
}

func TestDetach_ByKeyOrByForce_AndNumbersAreNotUsedAgain(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.attach(1, "h1", "/dev/nbd0", "b1", false))
	x.refused(x.detach(Detach{Number: 2, Key: key(1)}), ErrUnknown)
	x.refused(x.detach(Detach{Number: 1, Key: key(2)}), ErrInvalid)
	x.refused(x.detach(Detach{Number: 1}), ErrInvalid)
	x.refused(x.detach(Detach{Number: 1, Key: key(1), Force: true}), ErrInvalid)
	x.must(x.detach(Detach{Number: 1, Key: key(1)}))
	x.must(x.attach(1, "h1", "/dev/nbd0", "b1", false))
	if got := x.numbers(); !slices.Equal(got, []uint64{2}) {
		t.Fatalf("attachments %v", got)
	}
	x.must(x.detach(Detach{Number: 2, Force: true}))
	if r := x.r0(); r.Attachments != nil || r.LastAttachment != 2 {
		t.Fatalf("left: %+v, last %d", r.Attachments, r.LastAttachment)
	}
}

func TestAttachments_SurviveEveryChangeOfThePrimary(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.attach(1, "h1", "/dev/nbd0", "b1", false))
	x.must(x.promote(inc("B", 1)))
	x.must(x.stepDown(StepDown{}))
	x.must(x.force(inc("A", 1), x.r0().Lineage[0], word("B")))
	a := x.r0().Exclusive()
	if a == nil || a.Number != 1 || x.r0().Keyed(key(1)) == nil || x.r0().Attachment(1) == nil {
		t.Fatalf("attachments: %+v", x.r0().Attachments)
	}
	if x.r0().Keyed(key(2)) != nil || x.r0().Attachment(2) != nil {
		t.Error("found what is not there")
	}
}

func TestDelete_OfAnAttachedResourceIsRefused(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.attach(1, "h1", "/dev/nbd0", "b1", false))
	x.must(x.stepDown(StepDown{}))
	x.refused(x.on(func(c *Command) { c.DeleteResource = &DeleteResource{} }), ErrInUse)
	x.must(x.detach(Detach{Number: 1, Force: true}))
	x.must(x.on(func(c *Command) { c.DeleteResource = &DeleteResource{} }))
}

func TestStateCheck_NamesWhatIsWrongWithAttachments(t *testing.T) {
	good := Attachment{Number: 1, Key: key(1), Holder: "h1", Device: "/dev/nbd0", Boot: "b", Shared: true}
	for name, tc := range map[string]struct {
		f    func(r *Resource, other *Attachment)
		says string
	}{
		"beyond the last":   {func(r *Resource, _ *Attachment) { r.LastAttachment = 1 }, "beyond the last one"},
		"number twice":      {func(_ *Resource, o *Attachment) { o.Number = 1 }, "out of order"},
		"exclusive beside":  {func(_ *Resource, o *Attachment) { o.Shared = false }, "exclusive beside"},
		"key twice":         {func(_ *Resource, o *Attachment) { o.Key = key(1) }, "same key or device"},
		"device twice":      {func(_ *Resource, o *Attachment) { o.Holder = "h1" }, "same key or device"},
		"no holder":         {func(_ *Resource, o *Attachment) { o.Holder = "" }, "holder is empty"},
		"number too high":   {func(r *Resource, _ *Attachment) { r.LastAttachment = MaxAttachment + 1 }, "the last one numbered"},
		"of a deleted one":  {func(r *Resource, _ *Attachment) { r.Deleted, r.Primary, r.PrimaryKnown = true, Incumbent{}, false }, "deleted true"},
		"boot is not there": {func(_ *Resource, o *Attachment) { o.Boot = "" }, "boot id is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			x := started(t, "A", "B")
			r := x.r0()
			other := Attachment{Number: 2, Key: key(2), Holder: "h2", Device: "/dev/nbd0", Boot: "b", Shared: true}
			r.Attachments, r.LastAttachment = []Attachment{good, other}, 2
			if err := x.s.Check(); err != nil {
				t.Fatalf("before: %v", err)
			}
			tc.f(r, &r.Attachments[1])
			if err := x.s.Check(); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v does not say %q", err, tc.says)
			}
		})
	}
}

// What a voter wrote before there were attachments is read as a resource that has none; and the
// bytes of what is written now are what they are.
func TestCodec_Attachments_GoldenBytesAndOlderState(t *testing.T) {
	x := started(t, "A", "B")
	old, err := EncodeState(x.s)
	if err != nil || strings.Contains(string(old), "attach") {
		t.Fatalf("a state without attachments names them, or: %v", err)
	}
	if s, err := DecodeState(old); err != nil || s.Find("r0").Attachments != nil {
		t.Fatalf("%v", err)
	}
	for want, c := range map[string]Command{
		`{"v":1,"resource":"r0","resource_id":55,"epoch":1,"version":4,"attach":{"incumbent":{"node":"A","instance":65,"boot":"boot-A","process":1},` +
			`"key":"00000000000000000000000000000001","holder":"h1","device":"/dev/nbd0","boot":"b1","shared":true}}`: x.attach(1, "h1", "/dev/nbd0", "b1", true),
		`{"v":1,"resource":"r0","resource_id":55,"epoch":1,"version":4,"detach":{"number":3,"force":true}}`: x.detach(Detach{Number: 3, Force: true}),
	} {
		if b, err := EncodeCommand(c); err != nil || string(b) != want {
			t.Errorf("%v\n got %s\nwant %s", err, b, want)
		}
	}
	x.must(x.attach(1, "h1", "/dev/nbd0", "b1", false))
	b, err := EncodeState(x.s)
	want := `"attachments":[{"number":1,"key":"00000000000000000000000000000001","holder":"h1","device":"/dev/nbd0","boot":"b1"}],"last_attachment":1`
	if err != nil || !strings.Contains(string(b), want) {
		t.Errorf("%v: %s", err, b)
	}
	if s, err := DecodeState(b); err != nil || *s.Find("r0").Exclusive() != *x.r0().Exclusive() {
		t.Errorf("decoded: %v", err)
	}
}
