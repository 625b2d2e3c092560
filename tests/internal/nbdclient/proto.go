package nbdclient

import "fmt"

// Magic numbers, options and commands of the protocol, as far as this client uses them.
const (
	magicInit        = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption      = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionReply = 0x3e889045565a9
	magicRequest     = 0x25609513
	magicReply       = 0x67446698

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optGo         = 7
	repAck        = 1
	repInfo       = 3
	infoExport    = 0
	infoBlockSize = 3
	repErrBit     = 1 << 31

	cmdRead   = 0
	cmdWrite  = 1
	cmdDisc   = 2
	cmdFlush  = 3
	cmdTrim   = 4
	cmdCache  = 5
	cmdZeroes = 6

	cmdFlagFUA    = 1 << 0
	cmdFlagNoHole = 1 << 1
)

// TransmissionFlags is the set of abilities that the server announced for an export.
type TransmissionFlags uint16

// The bits of TransmissionFlags.
const (
	HasFlags     TransmissionFlags = 1 << 0
	ReadOnly     TransmissionFlags = 1 << 1
	SendFlush    TransmissionFlags = 1 << 2
	SendFUA      TransmissionFlags = 1 << 3
	SendTrim     TransmissionFlags = 1 << 5
	SendZeroes   TransmissionFlags = 1 << 6
	SendDF       TransmissionFlags = 1 << 7
	CanMultiConn TransmissionFlags = 1 << 8
	SendCache    TransmissionFlags = 1 << 10
	SendFastZero TransmissionFlags = 1 << 11
)

// Errno is an error number of the NBD protocol, which are those of Linux.
type Errno uint32

// The error numbers that the protocol knows.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Error names the number.
func (e Errno) Error() string {
	names := map[Errno]string{
		EPERM: "EPERM", EIO: "EIO", ENOMEM: "ENOMEM", EINVAL: "EINVAL", ENOSPC: "ENOSPC",
		EOVERFLOW: "EOVERFLOW", ENOTSUP: "ENOTSUP", ESHUTDOWN: "ESHUTDOWN",
	}
	if n, ok := names[e]; ok {
		return "nbd server answered " + n
	}
	return fmt.Sprintf("nbd server answered error %d", uint32(e))
}

// Refused is the server's answer to a negotiation option that it did not grant, for instance
// because this node is not the one that serves the export.
type Refused struct {
	Code    uint32 // NBD_REP_ERR_*
	Message string // the server's own words, possibly empty
}

func (r *Refused) Error() string {
	return fmt.Sprintf("nbd server refused the export (reply %#x): %s", r.Code, r.Message)
}
