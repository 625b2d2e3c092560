package wire

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
)

func fullMessage() *Message {
	return &Message{
		Version: math.MaxUint64, Lineage: []uint64{1, math.MaxUint64}, HashKey: make([]byte, 32),
		SessionID: 1<<63 + 1, State: "UpToDate", Kept: true, Coarse: true, Runs: []byte{0, 1, 255},
		Outside: []string{"c"}, Node: "d", More: true, Reason: "because",
	}
}

func TestMessage_RoundTrip(t *testing.T) {
	for _, m := range []*Message{{}, fullMessage(), {Runs: make([]byte, MaxRuns)}} {
		b, err := EncodeMessage(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeMessage(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("decoded %+v, %v\nencoded %+v", got, err, m)
		}
	}
}

func TestMessage_FullMessageSetsEveryField(t *testing.T) {
	v := reflect.ValueOf(*fullMessage())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is not covered by the round trip", v.Type().Field(i).Name)
		}
	}
}

func TestEncodeMessage_RefusesWhatIsTooLong(t *testing.T) {
	if _, err := EncodeMessage(&Message{Runs: make([]byte, MaxMsg)}); !errors.Is(err, ErrTooLong) {
		t.Errorf("%v, want %v", err, ErrTooLong)
	}
}

func TestDecodeMessage_TruncatedAtEveryByteIsAnError(t *testing.T) {
	b, err := EncodeMessage(fullMessage())
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if _, err := DecodeMessage(b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestDecodeMessage_RefusesWhatItDoesNotUnderstand(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"unknown field":  {`{"version":1,"quantum":true}`, ErrMalformed},
		"second object":  {`{"version":1}{}`, ErrMalformed},
		"trailing bytes": {`{"version":1} x`, ErrMalformed},
		"null":           {`null`, ErrMalformed},
		"array":          {`[]`, ErrMalformed},
		"only spaces":    {`   `, ErrMalformed},
		"negative":       {`{"version":-1}`, ErrMalformed},
		"beyond 64 bits": {`{"version":18446744073709551616}`, ErrMalformed},
		"bad base64":     {`{"runs":"***"}`, ErrMalformed},
		"short hash key": {`{"hash_key":"AAAA"}`, ErrMalformed},
		"too long":       {`{"reason":"` + strings.Repeat("x", MaxMsg) + `"}`, ErrTooLong},
	} {
		if m, err := DecodeMessage([]byte(c.body)); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func FuzzDecodeMessage(f *testing.F) {
	b, err := EncodeMessage(fullMessage())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"runs":"AA=="} `))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			if Reason(err) == "" {
				t.Fatalf("an error without a reason: %v", err)
			}
			return
		}
		again, err := EncodeMessage(m)
		if errors.Is(err, ErrTooLong) {
			return // invalid UTF-8 and <>& grow when they are encoded
		}
		m2, err := DecodeMessage(again)
		if err != nil {
			t.Fatal(err)
		}
		if third, _ := EncodeMessage(m2); !bytes.Equal(again, third) {
			t.Fatalf("does not keep its form:\n%s\n%s", again, third)
		}
	})
}
