package pki

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"time"
)

// A token as text is "lockstep-" and the base32 (RFC 4648, lower case, no padding) of:
//
//	offset  size  field
//	0       1     version, 1
//	1       8     id
//	9       20    secret
//	29      32    SHA-256 of the authority's public key
//	61      4     CRC-32C of bytes 0 to 60, against typing errors
const (
	tokenPrefix  = "lockstep-"
	tokenVersion = 1
	tokenSize    = 65
	secretSize   = 20
)

var (
	tokenCoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// TokenID names a token; it is no secret.
type TokenID [8]byte

func (id TokenID) String() string { return hex.EncodeToString(id[:]) }

// Token is a one-time permission to join a cluster, as the new node has it.
type Token struct {
	id        TokenID
	secret    [secretSize]byte
	authority KeyHash
}

// NewToken makes a token that leads to the cluster of this authority.
func NewToken(authority KeyHash, rand io.Reader) (Token, error) {
	t := Token{authority: authority}
	if _, err := io.ReadFull(rand, t.id[:]); err != nil {
		return Token{}, fmt.Errorf("token: %w", err)
	}
	if _, err := io.ReadFull(rand, t.secret[:]); err != nil {
		return Token{}, fmt.Errorf("token: %w", err)
	}
	return t, nil
}

// ID returns which token it is.
func (t Token) ID() TokenID { return t.id }

// Authority returns the hash of the key that the cluster has to prove.
func (t Token) Authority() KeyHash { return t.authority }

// String does not show the secret, so that no log does. Text does.
func (t Token) String() string { return "token " + t.id.String() }

// GoString is String.
func (t Token) GoString() string { return t.String() }

// Text returns what the operator carries to the new node.
func (t Token) Text() string {
	b := append([]byte{tokenVersion}, t.id[:]...)
	b = append(b, t.secret[:]...)
	b = append(b, t.authority[:]...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return tokenPrefix + tokenCoding.EncodeToString(b)
}

// ParseToken is the reverse of Token.Text. Case and the space around do not matter. Errors wrap
// ErrTokenFormat and say what is wrong; they do not repeat the token.
func ParseToken(s string) (Token, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	body, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("%w: it does not begin with %q", ErrTokenFormat, tokenPrefix)
	}
	for i, r := range body {
		if !(r >= 'a' && r <= 'z' || r >= '2' && r <= '7') {
			return Token{}, fmt.Errorf("%w: character %d is %q; only letters and the digits 2 to 7 occur", ErrTokenFormat, len(tokenPrefix)+i+1, r)
		}
	}
	if want := tokenCoding.EncodedLen(tokenSize); len(body) != want {
		return Token{}, fmt.Errorf("%w: it has %d characters, want %d; was it cut off?", ErrTokenFormat, len(s), len(tokenPrefix)+want)
	}
	b, err := tokenCoding.DecodeString(body)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrTokenFormat, err)
	}
	if crc32.Checksum(b[:tokenSize-4], castagnoli) != binary.BigEndian.Uint32(b[tokenSize-4:]) {
		return Token{}, fmt.Errorf("%w: its checksum is wrong; it was mistyped or damaged", ErrTokenFormat)
	}
	if b[0] != tokenVersion {
		return Token{}, fmt.Errorf("%w: version %d, known is %d", ErrTokenFormat, b[0], tokenVersion)
	}
	var t Token
	copy(t.id[:], b[1:])
	copy(t.secret[:], b[9:])
	copy(t.authority[:], b[29:])
	return t, nil
}

// TokenHash is what the cluster keeps of a token's secret. With it a proof is checked; none can be
// made from it.
type TokenHash [sha256.Size]byte

// The names are those of RFC 5802 section 3. Its salt and iterations are for passwords that people
// choose, and of no use for 160 random bits.

// clientKey is what only the holder of the token can tell.
func (t Token) clientKey() [sha256.Size]byte {
	return mac(t.secret[:], "lockstep token/1 client key")
}

// Hash returns what the cluster keeps.
func (t Token) Hash() TokenHash { return storedKey(t.clientKey()) }

func storedKey(clientKey [sha256.Size]byte) TokenHash { return sha256.Sum256(clientKey[:]) }

// prove returns the proof of knowing the secret for a message: the client key, hidden by what only
// those can compute who have the hash.
func (t Token) prove(message []byte) [sha256.Size]byte {
	key, hash := t.clientKey(), t.Hash()
	mask := mac(hash[:], "lockstep token/1 proof", message)
	subtle.XORBytes(key[:], key[:], mask[:])
	return key
}

// proves reports whether proof was made for message by a holder of the token that h is of.
func (h TokenHash) proves(proof [sha256.Size]byte, message []byte) bool {
	mask := mac(h[:], "lockstep token/1 proof", message)
	subtle.XORBytes(proof[:], proof[:], mask[:])
	got := storedKey(proof)
	return subtle.ConstantTimeCompare(got[:], h[:]) == 1
}

func mac(key []byte, label string, parts ...[]byte) (sum [sha256.Size]byte) {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(label))
	m.Write([]byte{0})
	for _, p := range parts {
		m.Write(p)
	}
	m.Sum(sum[:0])
	return sum
}

// ClientConfig returns the configuration with which a new node connects to a member: the member
// has to prove that the token's authority vouches for it.
func (t Token) ClientConfig(clock Clock) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{kinds[KindJoin].alpn},
		SessionTicketsDisabled: true,
		Time:                   clock,
		InsecureSkipVerify:     true, // in favour of VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := t.Member(cs, clock())
			return err
		},
	}
}

// Member returns which member is at the other end of a connection made with ClientConfig.
func (t Token) Member(cs tls.ConnectionState, now time.Time) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, ErrNoCertificate
	}
	if cs.NegotiatedProtocol != kinds[KindJoin].alpn {
		return Peer{}, fmt.Errorf("%w: it is for %q", ErrProtocol, cs.NegotiatedProtocol)
	}
	for _, ca := range cs.PeerCertificates[1:] {
		if keyHash(ca) != t.authority {
			continue
		}
		b, err := Bundle{}.With(ca)
		if err != nil {
			return Peer{}, err
		}
		p, err := b.verify(cs.PeerCertificates[0], x509.ExtKeyUsageServerAuth, now)
		if err == nil && p.Role != RoleNode {
			err = fmt.Errorf("%v: %w", p, ErrRole)
		}
		return p, err
	}
	return Peer{}, fmt.Errorf("%w: the token is for the authority with key %v; is this its cluster, and is the token from before a change of authority?", ErrUntrusted, t.authority)
}
