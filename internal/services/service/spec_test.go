package service

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		kind Kind
		text string
		want Spec
	}{
		{KindMount, "/srv/data,device=/dev/nbd0,opt=noatime,opt=discard", Spec{Options: []string{"device=/dev/nbd0", "opt=noatime", "opt=discard"}, Target: "/srv/data"}},
		{KindVIP, "10.0.0.10/24,dev=eth0,monitor-interval=2s", Spec{Target: "10.0.0.10/24", Options: []string{"dev=eth0"}, Interval: 2 * time.Second}},
		{KindVIP, "fd00::10/64", Spec{Target: "fd00::10/64"}},
		{KindUnit, "postgresql.service,stop-timeout=2m,start-order=5", Spec{Target: "postgresql.service", StopTimeout: 2 * time.Minute, Order: 5}},
		{KindOCF, `heartbeat:Dummy,state=/a\,b\\c,fake=x=y`, Spec{Target: "heartbeat:Dummy", Options: []string{`state=/a,b\c`, "fake=x=y"}}},
		{KindExec, "/usr/bin/hook,arg=a,arg=b,start-timeout=1s,monitor-timeout=1s", Spec{Target: "/usr/bin/hook", Options: []string{"arg=a", "arg=b"}, StartTimeout: time.Second, MonitorTimeout: time.Second}},
	} {
		tc.want.Kind = tc.kind
		got, err := Parse(tc.kind, tc.text)
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s %q: %+v, %v; want %+v", tc.kind, tc.text, got, err, tc.want)
		}
		if parts := splitEscaped(strings.TrimPrefix(got.ID(), string(tc.kind)+" ")); parts[0] != got.Target || !reflect.DeepEqual(parts[1:], append([]string{}, got.Options...)) {
			t.Errorf("%q does not read back as itself: %q", got.ID(), parts)
		}
	}
}

func TestParse_SaysWhatIsWrong(t *testing.T) {
	for _, tc := range []struct {
		kind       Kind
		text, want string
	}{
		{KindMount, "/srv/data", "needs device="},
		{KindMount, "srv,device=/dev/nbd0", "no absolute path"},
		{KindMount, "/,device=/dev/nbd0", "no absolute path"},
		{KindMount, "/srv/,device=/dev/nbd0", "no absolute path"},
		{KindMount, "/srv,device=/dev/nbd0,fsck=yes", "fsck=yes is none of"},
		{KindMount, "/srv,device=/dev/nbd0,device=/dev/nbd1", "given twice"},
		{KindAttach, "/dev/sda", "no NBD device"},
		{KindAttach, "/dev/nbd01", "no NBD device"},
		{KindAttach, "/dev/nbd0,connections=17", "no number from 1 to 16"},
		{KindAttach, "/dev/nbd0,deadline=ten", "no duration"},
		{KindAttach, "/dev/nbd0,block-size=8192", "is none of"},
		{KindVIP, "10.0.0.10", "length of its network"},
		{KindVIP, "127.0.0.1/8", "length of its network"},
		{KindVIP, "10.0.0.10/24,interface=eth0", "there is no option interface; there are: dev"},
		{KindUnit, "postgresql", "no name of a unit"},
		{KindUnit, "a.service,stop-timeout=5", "not a duration"},
		{KindUnit, "a.service,start-order=0", "not a number from 1 to 1000"},
		{KindUnit, "a.service,start-order", "not NAME=VALUE"},
		{KindOCF, "IPaddr2", "no PROVIDER:TYPE"},
		{KindOCF, "../x:y", "no PROVIDER:TYPE"},
		{KindExec, "hook", "no absolute path"},
		{KindExec, "/bin/x,arg=a\nb", "line break"},
		{"disk", "x", "no kind of service"},
		{KindExec, "", "names nothing"},
	} {
		s, err := Parse(tc.kind, tc.text)
		if err == nil {
			err = s.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %q: %v, want %q", tc.kind, tc.text, err, tc.want)
		}
	}
}

func TestSorted_ByClass_ThenAsGiven_UnlessAnOrderSaysOtherwise(t *testing.T) {
	var all []Spec
	for _, s := range []struct {
		kind Kind
		text string
	}{
		{KindExec, "/bin/x"}, {KindUnit, "b.service"}, {KindVIP, "10.0.0.10/24"}, {KindUnit, "a.service"},
		{KindMount, "/srv,device=/dev/nbd0"}, {KindOCF, "heartbeat:Dummy,start-order=1"},
	} {
		spec, err := Parse(s.kind, s.text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, spec)
	}
	var got []string
	for _, s := range Sorted(all) {
		got = append(got, s.Target)
	}
	if want := "heartbeat:Dummy /srv 10.0.0.10/24 b.service a.service /bin/x"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestValidateAll_TheSameTwice_IsRefused(t *testing.T) {
	a := Spec{Kind: KindVIP, Target: "10.0.0.10/24"}
	b := Spec{Kind: KindVIP, Target: "10.0.0.10/24", Options: []string{"dev=eth0"}}
	if err := ValidateAll([]Spec{a, b}); err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("two of the same address: %v", err)
	}
	c := Spec{Kind: KindOCF, Target: "heartbeat:IPaddr2", Options: []string{"ip=10.0.0.1"}}
	d := Spec{Kind: KindOCF, Target: "heartbeat:IPaddr2", Options: []string{"ip=10.0.0.2"}}
	if err := ValidateAll([]Spec{c, d}); err != nil {
		t.Errorf("two addresses by one agent: %v", err)
	}
}

func TestWithDevices_MountTakesTheOneThatIsAttached(t *testing.T) {
	parse := func(kind Kind, text string) Spec {
		s, err := Parse(kind, text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	device := func(all []Spec) string { return all[len(all)-1].Option("device") }
	nbd0, nbd1, data := parse(KindAttach, "/dev/nbd0"), parse(KindAttach, "/dev/nbd1"), parse(KindMount, "/srv/data,opt=noatime")
	if got := device(WithDevices([]Spec{nbd0, data})); got != "/dev/nbd0" {
		t.Errorf("one: %q", got)
	}
	if data.Option("device") != "" {
		t.Error("the caller's was changed")
	}
	if got := device(WithDevices([]Spec{nbd0, nbd1, data})); got != "" {
		t.Errorf("which of two is for the operator to say, not %q", got)
	}
	if got := device(WithDevices([]Spec{nbd0, parse(KindMount, "/srv/data,device=/dev/vdb")})); got != "/dev/vdb" {
		t.Errorf("named: %q", got)
	}
	if sorted := Sorted([]Spec{data, nbd0}); sorted[0].Kind != KindAttach {
		t.Error("what is mounted on a device starts before it")
	}
}
