package nbd

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/lockstep-ha/lockstep/internal/buf"
)

// MaxPayload is the largest payload of one read or write, in bytes.
const MaxPayload = buf.MaxLen

const (
	maxDiscard    = 2 * MaxPayload // a longer payload ends the connection
	maxOption     = 64 << 10       // bytes of option data; more ends the connection
	maxName       = 4096           // proto.md "Values": limit of a string, in bytes
	optionSize    = 16             // bytes of an option header
	requestSize   = 28             // bytes of a request header
	replySize     = 16             // bytes of a simple reply header
	exportPadding = 124            // zeros after EXPORT_NAME's answer, without NO_ZEROES
)

// proto.md "Handshake flags" and "Client flags". The client's bits equal the server's.
const (
	flagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	flagNoZeroes      = uint16(1 << 1) // NBD_FLAG_NO_ZEROES
)

// proto.md "Option types" and "Option reply types".
const (
	optExportName = uint32(1) // NBD_OPT_EXPORT_NAME
	optAbort      = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList       = protocol.NEGOTIATION_ID_OPTION_LIST
	optStartTLS   = uint32(5) // NBD_OPT_STARTTLS
	optInfo       = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo         = protocol.NEGOTIATION_ID_OPTION_GO

	repAck         = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer      = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo        = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repErrUnsup    = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrPolicy   = uint32(1<<31 | 2) // NBD_REP_ERR_POLICY
	repErrInvalid  = uint32(1<<31 | 3) // NBD_REP_ERR_INVALID
	repErrTLSReqd  = uint32(1<<31 | 5) // NBD_REP_ERR_TLS_REQD
	repErrUnknown  = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	repErrShutdown = uint32(1<<31 | 7) // NBD_REP_ERR_SHUTDOWN
)

// proto.md "Transmission flags".
const (
	txHasFlags    = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	txReadOnly    = uint16(1 << 1) // NBD_FLAG_READ_ONLY
	txFlush       = uint16(1 << 2) // NBD_FLAG_SEND_FLUSH
	txFUA         = uint16(1 << 3) // NBD_FLAG_SEND_FUA
	txTrim        = uint16(1 << 5) // NBD_FLAG_SEND_TRIM
	txWriteZeroes = uint16(1 << 6) // NBD_FLAG_SEND_WRITE_ZEROES
	txMultiConn   = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	txCache       = uint16(1 << 10) // NBD_FLAG_SEND_CACHE
	txFastZero    = uint16(1 << 11) // NBD_FLAG_SEND_FAST_ZERO
)

// proto.md "Command flags" and "Request types".
const (
	cmdFlagFUA      = uint16(1 << 0) // NBD_CMD_FLAG_FUA
	cmdFlagNoHole   = uint16(1 << 1) // NBD_CMD_FLAG_NO_HOLE
	cmdFlagFastZero = uint16(1 << 4) // NBD_CMD_FLAG_FAST_ZERO

	cmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	cmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	cmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	cmdFlush       = uint16(3) // NBD_CMD_FLUSH
	cmdTrim        = uint16(4) // NBD_CMD_TRIM
	cmdCache       = uint16(5) // NBD_CMD_CACHE
	cmdWriteZeroes = uint16(6) // NBD_CMD_WRITE_ZEROES
)

// proto.md "Error values". Others must not be sent.
const (
	errPerm     = protocol.TRANSMISSION_ERROR_EPERM
	errIO       = uint32(5)  // NBD_EIO
	errNoMem    = uint32(12) // NBD_ENOMEM
	errInval    = protocol.TRANSMISSION_ERROR_EINVAL
	errNoSpace  = uint32(28)  // NBD_ENOSPC
	errOverflow = uint32(75)  // NBD_EOVERFLOW
	errNotSup   = uint32(95)  // NBD_ENOTSUP
	errShutdown = uint32(108) // NBD_ESHUTDOWN
)

// Field by field, because binary.Read and binary.Write reflect and allocate; the layouts are
// those of the structs in go-nbd's protocol package.

func decodeOption(b []byte) (h protocol.NegotiationOptionHeader) {
	h.OptionMagic = binary.BigEndian.Uint64(b)
	h.ID = binary.BigEndian.Uint32(b[8:])
	h.Length = binary.BigEndian.Uint32(b[12:])
	return h
}

func appendGreeting(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, protocol.NEGOTIATION_MAGIC_OLDSTYLE)
	b = binary.BigEndian.AppendUint64(b, protocol.NEGOTIATION_MAGIC_OPTION)
	return binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
}

func appendOptionReply(b []byte, opt, typ uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, protocol.NEGOTIATION_MAGIC_REPLY)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func decodeRequest(b []byte) (h protocol.TransmissionRequestHeader) {
	h.RequestMagic = binary.BigEndian.Uint32(b)
	h.CommandFlags = binary.BigEndian.Uint16(b[4:])
	h.Type = binary.BigEndian.Uint16(b[6:])
	h.Handle = binary.BigEndian.Uint64(b[8:])
	h.Offset = binary.BigEndian.Uint64(b[16:])
	h.Length = binary.BigEndian.Uint32(b[24:])
	return h
}

func putReply(b *[replySize]byte, errno uint32, cookie uint64) {
	binary.BigEndian.PutUint32(b[:], protocol.TRANSMISSION_MAGIC_REPLY)
	binary.BigEndian.PutUint32(b[4:], errno)
	binary.BigEndian.PutUint64(b[8:], cookie)
}
