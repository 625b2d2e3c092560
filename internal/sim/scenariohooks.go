package sim

// answer is what a client was told of a request, for a scenario that prints it.
type answer struct {
	answered bool
	vals     []uint64 // of a read, one a sector
	err      error
	excused  bool // the error is one that the policy asks for
}
