package control

// A resource that only carries an address (lockstep vip) is called VIPPrefix and the name of the address, and has
// VIPBytes of data that nobody uses. Its files go with it.
const (
	VIPPrefix = "vip-"
	VIPBytes  = 1 << 20
)
