package wire

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/fxamacker/cbor/v2"

	"webknock/internal/onetime"
	"webknock/internal/seam"
)

var (
	encoder = must(cbor.EncOptions{
		String: cbor.StringToByteString, // exact, whatever its bytes
		Time:   cbor.TimeRFC3339Nano,
	}.EncMode())
	// few decodes notices, which a front that was taken over may send without end. Many
	// decodes the rest.
	few, many = newDecoder(1 << 10), newDecoder(maxElements)
)

// newDecoder returns a strict decoder. Lists and maps have up to so many elements: a
// short payload may describe a long list of empty values.
func newDecoder(elements int) cbor.DecMode {
	return must(cbor.DecOptions{
		DupMapKey:          cbor.DupMapKeyEnforcedAPF,
		IndefLength:        cbor.IndefLengthForbidden,
		TagsMd:             cbor.TagsForbidden,
		ExtraReturnErrors:  cbor.ExtraDecErrorUnknownField,
		ByteStringToString: cbor.ByteStringToStringAllowed,
		ByteStringToTime:   cbor.ByteStringToTimeAllowed,
		FieldNameMatching:  cbor.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:    16,
		MaxArrayElements:   elements,
		MaxMapPairs:        elements,
	}.DecMode())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constant
	}
	return v
}

// encode returns a value as a payload. Nil has an empty one.
func encode(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	payload, err := encoder.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return payload, nil
}

// decode reads a payload that is one value, and nothing behind it. To is a pointer, or
// nil if the payload is to be empty.
func decode(by cbor.DecMode, payload []byte, to any) error {
	if to == nil {
		if len(payload) > 0 {
			return fmt.Errorf("%d bytes where there should be none", len(payload))
		}
		return nil
	}
	if err := by.Unmarshal(payload, to); err != nil {
		return fmt.Errorf("%s: %w", reflect.TypeOf(to).Elem(), err)
	}
	return nil
}

// A failure is an error on its way. Errors that somebody looks for keep their identity,
// the others their text alone.
type failure struct {
	Is   string
	Text string
}

var sentinels = map[string]error{
	"stopped":   seam.ErrStopped,
	"forgotten": onetime.ErrForgotten,
	"canceled":  context.Canceled,
	"deadline":  context.DeadlineExceeded,
}

const maxText = 4096 // bytes of an error

func failureOf(err error) failure {
	f := failure{Text: err.Error()}
	if len(f.Text) > maxText {
		f.Text = f.Text[:maxText]
	}
	for name, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			f.Is = name
		}
	}
	return f
}

// error returns the error that it was made of.
func (f failure) error() error {
	sentinel := sentinels[f.Is]
	if sentinel != nil && f.Text == sentinel.Error() {
		return sentinel
	}
	return &remoteError{f.Text, sentinel}
}

// A remoteError is an error of the other half.
type remoteError struct {
	text     string
	sentinel error // nil: none
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.sentinel }
