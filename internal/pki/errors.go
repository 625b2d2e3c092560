package pki

import "errors"

// Why a peer is not believed. The errors that wrap these name the peer as far as it is known.
var (
	ErrNoCertificate  = errors.New("no certificate was presented")
	ErrUntrusted      = errors.New("not signed by an authority of this cluster")
	ErrBadCertificate = errors.New("certificate is not as this system makes them")
	ErrExpired        = errors.New("certificate has expired")
	ErrNotYetValid    = errors.New("certificate is not valid yet: compare the clocks")
	ErrUsage          = errors.New("certificate is not for this side of a connection")
	ErrOtherCluster   = errors.New("certificate is of another cluster")
	ErrRole           = errors.New("role is not allowed here")
	ErrNode           = errors.New("certificate is of another node")
	ErrProtocol       = errors.New("connection is not for this purpose")
)

// Why a token or a request to join is not accepted.
var (
	ErrTokenFormat  = errors.New("not a join token")
	ErrTokenProof   = errors.New("join token is not known to this cluster") // or its secret is wrong
	ErrTokenExpired = errors.New("join token has expired")
	ErrTokenUsed    = errors.New("join token was used by another node")
	ErrNameTaken    = errors.New("the cluster has a member of that name")
	ErrJoin         = errors.New("malformed join message")
	ErrRefused      = errors.New("the cluster refused the join")
)
