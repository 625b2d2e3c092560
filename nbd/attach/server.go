package attach

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// Server is where a node takes NBD clients.
type Server struct {
	Network string // unix or tcp
	Addr    string // path, or host:port
}

func (s Server) String() string {
	if s.Network == "unix" {
		return "unix:" + s.Addr
	}
	return s.Addr
}

// defaultPort is NBD's.
const defaultPort = "10809"

// ParseServer reads a server as an operator writes it, or as a refusal names it:
//
//	10.0.0.1:10809   db1   unix:/run/nbd.sock   /run/nbd.sock
//	nbd://10.0.0.1/r0   nbds://...   nbd+unix:///r0?socket=/run/nbd.sock
//
// A URI says where, not how: whether TLS is used is the relay's configuration alone, so nobody who answers
// in a server's place can talk a client out of it.
func ParseServer(s string) (Server, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok || strings.HasPrefix(s, "/") {
		if ok {
			s = path
		}
		if !filepath.IsAbs(s) {
			return Server{}, fmt.Errorf("server %q: the path of a socket has to begin with /", s)
		}
		return Server{"unix", filepath.Clean(s)}, nil
	}
	if strings.Contains(s, "://") {
		return parseURI(s)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), defaultPort
	}
	if host == "" || port == "" || strings.ContainsAny(host, " /?#") {
		return Server{}, fmt.Errorf("server %q: want HOST:PORT, or the path of a unix socket", s)
	}
	return Server{"tcp", net.JoinHostPort(host, port)}, nil
}

func parseURI(s string) (Server, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Server{}, fmt.Errorf("server %q: %w", s, err)
	}
	switch u.Scheme {
	case "nbd+unix", "nbds+unix":
		if path := u.Query().Get("socket"); filepath.IsAbs(path) {
			return Server{"unix", filepath.Clean(path)}, nil
		}
	case "nbd", "nbds":
		if u.Host != "" {
			return ParseServer(u.Host)
		}
	}
	return Server{}, fmt.Errorf("server %q: no NBD address", s)
}

// ParseServers reads several.
func ParseServers(list []string) (out []Server, err error) {
	for _, s := range list {
		srv, err := ParseServer(s)
		if err != nil {
			return nil, err
		}
		out = append(out, srv)
	}
	return out, nil
}

var uriInText = regexp.MustCompile(`\bnbds?(\+unix)?://\S+`)

// hintIn returns the server that a refusal names, if it names one.
func hintIn(text string) (Server, bool) {
	m := uriInText.FindString(text)
	if m == "" {
		return Server{}, false
	}
	s, err := ParseServer(strings.TrimRight(m, ".,;:)\"'"))
	return s, err == nil
}
