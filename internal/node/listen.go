package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"time"
)

// profilesEnv names a unix socket for runtime profiles (net/http/pprof); empty: none.
const profilesEnv = "LOCKSTEP_PPROF"

// listen opens every listener of the node. A unix socket that a dead process left is replaced;
// one that still answers is an error.
func (d *daemon) listen(ctx context.Context) error {
	tcp := func(what, addr string) (net.Listener, error) {
		ln, err := d.host.listenOn(ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen for %s: %w", what, err)
		}
		return ln, nil
	}
	unix := func(what, path string) (net.Listener, error) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("%s socket: %w", what, err)
		}
		ln, err := d.host.listenOn(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("%s socket: %w", what, err)
		}
		return ln, nil
	}
	var err error
	if d.lnControl, err = unix("control", d.cfg.ControlSocket); err != nil {
		return err
	}
	if d.lnNBDUnix, err = unix("nbd", d.cfg.NBDUnix); err != nil {
		return err
	}
	if d.cfg.NBDListen != "" {
		if d.lnNBDTCP, err = tcp("nbd clients", d.cfg.NBDListen); err != nil {
			return err
		}
	}
	if d.cfg.HealthListen != "" {
		if d.lnHealth, err = tcp("health checks", d.cfg.HealthListen); err != nil {
			return err
		}
	}
	if path := os.Getenv(profilesEnv); path != "" {
		if d.lnDebug, err = unix("profiles", path); err != nil {
			return err
		}
	}
	d.lnPeers, err = tcp("other nodes", d.cfg.Listen)
	return err
}

func (d *daemon) closeListeners() {
	for _, ln := range []net.Listener{d.lnPeers, d.lnControl, d.lnNBDUnix, d.lnNBDTCP, d.lnHealth, d.lnDebug} {
		if ln != nil {
			ln.Close()
		}
	}
}

// serveProfiles serves runtime profiles on ln, a socket of this user alone, until ctx ends.
func serveProfiles(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}
