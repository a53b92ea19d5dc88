package main

import (
	"bufio"
	"fmt"
	"image/color"
	"io"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/qr"
)

// quietZone is the width of the light frame around a QR code, in modules.
// ISO/IEC 18004 asks for 4; phones do with 2, and so the code fits 24 lines.
const quietZone = 2

// printQR draws a QR code for a terminal, two modules a character, black on white
// whatever the terminal's own colours.
func printQR(w io.Writer, text string) error {
	code, err := qr.Encode(text, qr.L, qr.Auto)
	if err != nil {
		return fmt.Errorf("draw the QR code: %w", err)
	}
	out := bufio.NewWriter(w)
	size := code.Bounds().Dx()
	for y := -quietZone; y < size+quietZone; y += 2 {
		out.WriteString("\x1b[38;5;16;48;5;231m") // of the 256 colours those that no theme changes
		for x := -quietZone; x < size+quietZone; x++ {
			switch upper, lower := isDark(code, x, y), isDark(code, x, y+1); {
			case upper && lower:
				out.WriteRune('█')
			case upper:
				out.WriteRune('▀')
			case lower:
				out.WriteRune('▄')
			default:
				out.WriteRune(' ')
			}
		}
		out.WriteString("\x1b[0m\n")
	}
	return out.Flush()
}

// isDark reports whether a module is; those around the code are light.
func isDark(code barcode.Barcode, x, y int) bool {
	size := code.Bounds().Dx()
	return x >= 0 && y >= 0 && x < size && y < size && code.At(x, y) == color.Black
}
