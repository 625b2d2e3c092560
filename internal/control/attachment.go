package control

import (
	"context"
	"net/http"
)

// Attacher is the part of a Backend that is about attachments. Their holders make and end them
// over NBD; what is here is for an operator.
type Attacher interface {
	// DropAttachment ends an attachment, whatever its holder says. The holder is served no more, and
	// nothing that it sends later is applied. ErrNotFound: there is none of that number.
	DropAttachment(ctx context.Context, resource string, number uint64) error
}

// Attachment is a kernel device on some host that shows a resource, as the ledger records it.
type Attachment struct {
	Number    uint64 `json:"number"`    // counts up within the resource, never used again
	Holder    string `json:"holder"`    // host name
	Device    string `json:"device"`    // on that host
	Boot      string `json:"boot"`      // boot id of that host's kernel
	Shared    bool   `json:"shared"`    // others may be attached, too
	Connected bool   `json:"connected"` // to the primary now, as far as the answering node knows
}

type attachmentBody struct {
	Number uint64 `json:"number"`
}

func (s *Server) attacherRoutes() {
	s.mux.HandleFunc("POST /v1/resources/{resource}/attachments/drop", func(w http.ResponseWriter, r *http.Request) {
		var body attachmentBody
		s.change(w, r, "resource", &body, func(ctx context.Context, name string) error {
			if body.Number == 0 {
				return Usagef("attachments are numbered from 1")
			}
			return s.opts.Backend.DropAttachment(ctx, name, body.Number)
		})
	})
}

// DropAttachment ends an attachment; see Attacher.
func (c *Client) DropAttachment(ctx context.Context, resource string, number uint64) error {
	return c.change(ctx, resource, "attachments/drop", attachmentBody{number})
}
