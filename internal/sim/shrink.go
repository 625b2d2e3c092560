package sim

// Shrink returns a part of items, in their order, for which stillFails holds and from which no single
// item can be left out, or what it has come to after budget calls. items itself has to fail; it is
// neither changed nor tried.
//
// It is the ddmin of Zeller and Hildebrandt (Simplifying and Isolating Failure-Inducing Input, 2002)
// without its tests of lone pieces: a plan fails because of a few faults that stand far apart, so it
// is leaving pieces out that gets anywhere. Nothing at all is tried first: many a bug needs no fault.
func Shrink[T any](items []T, stillFails func([]T) bool, budget int) []T {
	kept := append([]T(nil), items...)
	try := func(part []T) bool {
		if budget <= 0 {
			return false
		}
		budget--
		return stillFails(part)
	}
	if len(kept) == 0 || try(nil) {
		return nil
	}
	for piece := (len(kept) + 1) / 2; len(kept) > 1 && budget > 0; {
		left := false // something was left out in this round
		for at := 0; at < len(kept) && budget > 0; {
			// A slice of its own each time: stillFails may keep it.
			end := min(at+piece, len(kept))
			rest := append(append(make([]T, 0, len(kept)), kept[:at]...), kept[end:]...)
			if len(rest) > 0 && try(rest) {
				kept, left = rest, true // and what moved up to at is next
			} else {
				at = end
			}
		}
		switch {
		case piece > 1:
			piece = min((piece+1)/2, max(1, len(kept)/2))
		case !left:
			return kept
		}
	}
	return kept
}
