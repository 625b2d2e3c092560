package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// dump is what Dump shows; the names are part of the command's JSON output.
type dump struct {
	Format  int          `json:"format"`
	Meta    Meta         `json:"meta"`
	Seq     uint64       `json:"sequence"`
	Log     dumpLog      `json:"activity_log"`
	Bitmaps []dumpBitmap `json:"bitmaps"`
	Faults  []string     `json:"faults"`
}

type dumpLog struct {
	Seq       uint64               `json:"sequence"`
	Active    []bitmap.RegionIndex `json:"active"`
	Lingering []bitmap.RegionIndex `json:"lingering"`
}

type dumpBitmap struct {
	Slot       int    `json:"slot"`
	Node       string `json:"node"`
	Pages      int    `json:"pages_dirty"`
	BadHalves  int    `json:"half_pages_bad"`
	DirtyBytes int64  `json:"dirty_bytes"`
}

// Dump writes to w what the metadata file says, as text or as one JSON object. It takes no lock and
// changes nothing, so on a replica in use it may meet a slot that is being written, and shows the
// other one. Errors: ErrDamaged, ErrNewerVersion, those of the file and of w.
func Dump(metaPath string, w io.Writer, asJSON bool) error {
	f, err := openFile(metaPath, unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("metadata %s: %w", metaPath, err)
	}
	defer f.close()
	d, err := readDump(fileDevice{f})
	if err != nil {
		return fmt.Errorf("metadata %s: %w", metaPath, err)
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(d)
	}
	return d.print(w)
}

func readDump(dev MetaDevice) (dump, error) {
	d := dump{Format: formatVersion, Bitmaps: []dumpBitmap{}, Faults: []string{}}
	fault := func(err error) {
		if err != nil {
			d.Faults = append(d.Faults, err.Error())
		}
	}
	m, seq, warn, err := loadSuper(dev)
	if err != nil {
		return d, err
	}
	d.Meta, d.Seq = m, seq
	fault(warn)
	t, warn, err := loadTable(dev, layout{regions: m.Regions}, m.Instance)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return d, err
	}
	fault(errors.Join(warn, err))
	d.Log = dumpLog{Seq: t.seq, Active: append([]bitmap.RegionIndex{}, t.active...), Lingering: append([]bitmap.RegionIndex{}, t.linger...)}
	for slot := range MaxPeers {
		b, bad, why, err := loadBitmap(dev, layout{regions: m.Regions}, m.Size, slot, m.Instance)
		if err != nil {
			fault(fmt.Errorf("bitmap slot %d: %w", slot, err))
			continue
		}
		fault(why)
		node := ""
		if slot < len(m.Peers) {
			node = m.Peers[slot].Node
		}
		if node == "" && b.Empty() {
			continue
		}
		pages := 0
		for range b.DirtyPages() {
			pages++
		}
		d.Bitmaps = append(d.Bitmaps, dumpBitmap{Slot: slot, Node: node, Pages: pages, BadHalves: bad, DirtyBytes: b.Bytes()})
	}
	return d, nil
}

func (d dump) print(w io.Writer) error {
	m := d.Meta
	var err error
	line := func(key, format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, "%-16s "+format+"\n", append([]any{key}, args...)...)
		}
	}
	line("format", "%d, superblock sequence %d", d.Format, d.Seq)
	line("resource", "%s (id %016x) in cluster %s", m.Resource, m.ResourceID, m.Cluster)
	line("node", "%s, replica instance %016x", m.Node, m.Instance)
	line("size", "%d bytes", m.Size)
	line("state", "%s, unclean %t, clean stop %t", m.State, m.Unclean, m.Clean)
	if m.Failure != "" {
		line("failure", "%s", m.Failure)
	}
	line("epoch", "%d, ledger version %d", m.Epoch, m.LedgerVersion)
	line("lineage", "%016x", m.Lineage)
	line("boot", "%s", m.Boot)
	line("backing", "%s (block %t, dev %d, inode %d, serial %q)", m.Backing.Path, m.Backing.Block,
		m.Backing.Dev, m.Backing.Inode, m.Backing.Serial)
	for i, p := range m.Peers {
		if p.Node == "" {
			continue
		}
		line("peer", "slot %d: %s, instance %016x, last session %016x, pending %016x", i, p.Node, p.Instance, p.LastSession, p.PendingSession)
	}
	line("activity log", "sequence %d: %d of %d regions active, %d lingering", d.Log.Seq, len(d.Log.Active), m.Regions, len(d.Log.Lingering))
	for _, b := range d.Bitmaps {
		line("bitmap", "slot %d (%s): %d bytes dirty in %d pages, %d half pages bad", b.Slot, b.Node, b.DirtyBytes, b.Pages, b.BadHalves)
	}
	for _, f := range d.Faults {
		line("fault", "%s", f)
	}
	return err
}
