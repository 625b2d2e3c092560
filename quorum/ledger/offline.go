package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/voter"
)

// Found makes the ledger of a new cluster in dir, while no daemon runs there: n is its only voter,
// which others join later. The voter id of n is chosen here.
//
// Errors: ErrLocked, ErrCorrupt if there is a ledger already, quorum.ErrInvalid, or that of the file
// system.
func Found(dir, cluster string, n quorum.Node) (err error) {
	st, err := openStore(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	return voter.FoundOn(cluster, []voter.Seat{{Node: n, Storage: st}}, randomWord)
}

// Prepare makes an empty ledger for a node that is about to join a cluster, and returns the voter id
// by which it is to be added. Done again, it returns the same one.
//
// Errors: ErrLocked, ErrForeign, ErrCorrupt, or that of the file system.
func Prepare(dir, cluster, node string) (id uint64, err error) {
	st, err := openStore(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	return voter.Identify(st, cluster, node, randomWord)
}

// Exists reports whether there is a ledger file in dir.
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, "ledger.db"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a ledger: %w", err)
	}
	return true, nil
}
