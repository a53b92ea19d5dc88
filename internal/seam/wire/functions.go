package wire

import (
	"context"
	"os"
)

// none is the argument or the result of a method that has none.
type none struct{}

// asked returns the function of a method with an argument and a result.
func asked[A, R any](do func(context.Context, A) (R, error)) function {
	return func(payload []byte, _ []*os.File) (func(context.Context) (any, error), error) {
		argument, err := decodeTo[A](payload, false)
		return func(ctx context.Context) (any, error) { return resultOf(do(ctx, argument)) }, err
	}
}

// told returns the function of a notice.
func told[A any](do func(A)) function {
	return func(payload []byte, _ []*os.File) (func(context.Context) (any, error), error) {
		argument, err := decodeTo[A](payload, true)
		return func(context.Context) (any, error) {
			do(argument)
			return nil, nil
		}, err
	}
}

func decodeTo[A any](payload []byte, isNotice bool) (argument A, err error) {
	by := many
	if isNotice {
		by = few
	}
	if _, empty := any(argument).(none); empty {
		return argument, decode(by, payload, nil)
	}
	return argument, decode(by, payload, &argument)
}

// resultOf returns a result as conn.reply takes it.
func resultOf[R any](result R, err error) (any, error) {
	if _, empty := any(result).(none); empty {
		return nil, err
	}
	return result, err
}
