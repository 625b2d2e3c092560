package quorum

import (
	"cmp"
	"slices"
)

// MaxTokens bounds the permissions to join that are kept, used and expired ones included.
const MaxTokens = 64

// Token is what the ledger keeps of a permission to join: enough to check it, and no secret. Who
// holds the ledger cannot join with it.
type Token struct {
	ID      string `json:"id"`      // 8 bytes in hex
	Hash    string `json:"hash"`    // 32 bytes in hex
	Expires int64  `json:"expires"` // seconds since 1970; judged by the clock of who admits
	// Name is the only name under which its user may join; "" lets the user choose.
	Name string `json:"name,omitempty"`
	// Replaces is the voter id of the member that its user takes the place of; 0: it is a new one.
	Replaces uint64 `json:"replaces,omitempty"`
	// UsedBy is the hash of the public key that has joined with it, in hex, and UsedName the name.
	UsedBy   string `json:"used_by,omitempty"`
	UsedName string `json:"used_name,omitempty"`
}

// AddToken records a permission to join. Tokens that had expired at Now, by the proposer's clock,
// are forgotten: Apply has none.
type AddToken struct {
	Token Token `json:"token"`
	Now   int64 `json:"now"` // seconds since 1970
}

// UseToken records who joins with a token. It is refused when another one has: that is what makes a
// token good for one node.
type UseToken struct {
	ID   string `json:"id"`
	Key  string `json:"key"` // hash of the public key, in hex
	Name string `json:"name"`
}

// Token returns the token of that id, nil if there is none. The caller must not change it.
func (s *State) Token(id string) *Token {
	if i, ok := s.findToken(id); ok {
		return &s.Tokens[i]
	}
	return nil
}

func (s *State) findToken(id string) (int, bool) {
	return slices.BinarySearchFunc(s.Tokens, id, func(t Token, id string) int { return cmp.Compare(t.ID, id) })
}

func addToken(s *State, a *AddToken) (*State, error) {
	n := *s
	n.Tokens = slices.DeleteFunc(slices.Clone(s.Tokens), func(t Token) bool { return t.Expires < a.Now })
	i, exists := n.findToken(a.Token.ID)
	switch old := s.Node(a.Token.Name); {
	case exists:
		return nil, refusef(ErrExists, "token %s exists", a.Token.ID)
	case len(n.Tokens) >= MaxTokens:
		return nil, refusef(ErrInvalid, "a cluster keeps at most %d tokens; wait until one expires", MaxTokens)
	case a.Token.Replaces != 0 && (old == nil || old.VoterID != a.Token.Replaces):
		return nil, refusef(ErrUnknown, "there is no node %q with voter id %x to replace", a.Token.Name, a.Token.Replaces)
	}
	n.Tokens = insert(n.Tokens, i, a.Token)
	return &n, nil
}

func useToken(s *State, u *UseToken) (*State, error) {
	i, ok := s.findToken(u.ID)
	if !ok {
		return nil, refusef(ErrUnknown, "there is no token %s", u.ID)
	}
	t := s.Tokens[i]
	switch {
	case t.UsedBy != "" && (t.UsedBy != u.Key || t.UsedName != u.Name):
		return nil, refusef(ErrExists, "token %s was used by %q", u.ID, t.UsedName)
	case t.Name != "" && t.Name != u.Name:
		return nil, refusef(ErrInvalid, "token %s is for %q, not for %q", u.ID, t.Name, u.Name)
	}
	t.UsedBy, t.UsedName = u.Key, u.Name
	n := *s
	n.Tokens = slices.Clone(s.Tokens)
	n.Tokens[i] = t
	return &n, nil
}

func (s *State) checkTokens(f *faults) {
	if len(s.Tokens) > MaxTokens {
		f.addf("%d tokens, more than %d", len(s.Tokens), MaxTokens)
	}
	for i, t := range s.Tokens {
		f.token(t)
		if i > 0 && s.Tokens[i-1].ID >= t.ID {
			f.addf("token %q is out of order or there twice", clip(t.ID))
		}
	}
}

func (f *faults) token(t Token) {
	f.hex("token id", t.ID, 8)
	f.hex("token hash", t.Hash, 32)
	if t.Expires <= 0 {
		f.addf("token %q never expires", clip(t.ID))
	}
	if t.Name != "" {
		f.name("node", t.Name)
	}
	if t.Replaces != 0 && t.Name == "" {
		f.addf("token %q replaces a node that it does not name", clip(t.ID))
	}
	if (t.UsedBy == "") != (t.UsedName == "") {
		f.addf("token %q is used by %q as %q", clip(t.ID), clip(t.UsedBy), clip(t.UsedName))
	}
	if t.UsedBy != "" {
		f.hex("key", t.UsedBy, 32)
		f.name("node", t.UsedName)
	}
}

// hex refuses what is not size bytes in lower-case hex: one value has one spelling.
func (f *faults) hex(what, s string, size int) {
	ok := len(s) == 2*size
	for i := range len(s) {
		ok = ok && (s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f')
	}
	if !ok {
		f.addf("%s %q is not %d bytes in hex", what, clip(s), size)
	}
}
