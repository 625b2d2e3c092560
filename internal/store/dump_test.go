package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/bitmap"
)

func TestDump_ShowsEverythingAndChangesNothing(t *testing.T) {
	r := made(t, t.TempDir())
	s := r.open(t)
	must(t, s.UpdateMeta(func(m *Meta) { m.Epoch, m.Peers = 3, []PeerSlot{{Node: "b", Instance: 11, LastSession: 12}} }))
	m := bitmap.New(testSize)
	m.Mark(bitmap.Extent{Len: 8192})
	must(t, s.SaveBitmap(0, m))
	must(t, s.SaveLog(regions{1, 2}))
	must(t, s.Close(false))
	patch(t, r.MetaPath, s.meta.lay.pageOff(0, 5), []byte("rubbish"))
	before, err := os.ReadFile(r.MetaPath)
	must(t, err)
	must(t, os.Chmod(r.MetaPath, 0o400))

	var text, asJSON bytes.Buffer
	must(t, Dump(r.MetaPath, &text, false))
	for _, want := range []string{
		"r0 (id 000000000000004d) in cluster c1", "UpToDate, unclean false, clean stop false", "epoch            3,",
		"[0000000000000001 ffffffffffffffff]", "slot 0: b, instance 000000000000000b", "2 of 50 regions active",
		"slot 0 (b): 8192 bytes dirty in 1 pages", "fault            bitmap slot 5, page 0",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	must(t, Dump(r.MetaPath, &asJSON, true))
	var d struct {
		Meta struct {
			Epoch   int
			State   string
			Lineage string
		}
		Faults []string
	}
	must(t, json.Unmarshal(asJSON.Bytes(), &d))
	if d.Meta.Epoch != 3 || d.Meta.State != "UpToDate" || len(d.Meta.Lineage) != 32 || len(d.Faults) != 1 {
		t.Errorf("%+v of %s", d, asJSON.String())
	}
	after, err := os.ReadFile(r.MetaPath)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the metadata changed")
	}
}

func TestDump_OfSomethingElseIsAnError(t *testing.T) {
	path := t.TempDir() + "/x"
	must(t, os.WriteFile(path, []byte("no metadata"), 0o600))
	if err := Dump(path, &bytes.Buffer{}, true); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v", err)
	}
}

// TestFormat_IsTheOneThatIsDocumented fails when a constant that docs/format.md states changes: the
// version, the document and its "Changes" go along.
func TestFormat_IsTheOneThatIsDocumented(t *testing.T) {
	l := layout{regions: bitmap.DefaultRegions}
	if formatVersion != 1 || headerSize != 64 || superSize != 131072 || l.tableSize() != 12288 ||
		l.tableOff(0) != 262144 || l.tableOff(1) != 274432 || l.bitmapOff() != 327680 || pageStride != 8192 ||
		l.pageOff(2, 3) != 327680+2*65536+3*8192 || l.fileSize(1) != 393216 {
		t.Errorf("table %d at %d, bitmap at %d", l.tableSize(), l.tableOff(0), l.bitmapOff())
	}
	b := encodeTable(table{seq: 7, active: regions{1, 258}, linger: regions{3}}, 0x1122334455667788)
	want := "LSTP-LOG" + "\x00\x00\x00\x01" + "\x00\x00\x00\x0c" + "\xeb\x13\x72\x43\xa4\xf4\x37\x5d" +
		"\x00\x00\x00\x00\x00\x00\x00\x07" + "\x11\x22\x33\x44\x55\x66\x77\x88" + "\x00\x00\x00\x02" + "\x00\x00\x00\x01" +
		strings.Repeat("\x00", 16) + "\x00\x00\x00\x01" + "\x00\x00\x01\x02" + "\x00\x00\x00\x03"
	if got := string(b[:len(want)]); got != want {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}
