//go:build marks

package mark

var counts = map[string]int{}

// Hit notes that the branch of that name was taken.
func Hit(name string) { counts[name]++ }

// Counts returns how often each name was hit since the process started.
func Counts() map[string]int { return counts }
