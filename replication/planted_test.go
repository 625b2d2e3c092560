//go:build plantedbugs

package replication

import (
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// With the bug the record completes the write before it ends the role.
func TestPlanted_AnswersAfterRole(t *testing.T) {
	planted.Plant(planted.AnswersAfterRole)
	t.Cleanup(func() { planted.Plant(planted.None) })
	if answeredByTheRecord(t) == 0 {
		t.Error("not found: nothing was answered")
	}
}
