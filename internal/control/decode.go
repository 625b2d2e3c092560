package control

import (
	"bytes"
	"encoding/json"
	"io"
)

// decodeStrict reads exactly one JSON object with no field that v lacks. Its errors are ErrUsage.
func decodeStrict(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if b := bytes.TrimLeft(body, " \t\r\n"); len(b) == 0 || b[0] != '{' {
		return Usagef("the body is no JSON object")
	}
	if err := dec.Decode(v); err != nil {
		return Usagef("the body does not parse: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Usagef("the body goes on after its JSON object")
	}
	return nil
}
