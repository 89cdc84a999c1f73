package main

import (
	"fmt"
	"slices"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// isUnseen reports whether a letter is for programs instead of eyes: a terminal obeys it (DEL and C1, which has a control
// sequence introducer of its own), or it hides text or changes its direction. A log has to show its reader what a client sent.
func isUnseen(letter rune) bool {
	return letter >= 0x7f && (letter <= 0x9f || unicode.In(letter, unicode.Cf, unicode.Zl, unicode.Zp))
}

// escaped returns a letter as JSON escapes it, by one or two \uXXXX.
func escaped(letter rune) string {
	if high, low := utf16.EncodeRune(letter); high != utf8.RuneError {
		return fmt.Sprintf(`\u%04x\u%04x`, high, low)
	}
	return fmt.Sprintf(`\u%04x`, letter)
}

// withoutUnseen escapes unseen letters in a line of JSON. They can only be inside its strings.
func withoutUnseen(line []byte) []byte {
	if !slices.ContainsFunc(line, func(each byte) bool { return each >= 0x7f }) {
		return line
	}
	shown := make([]byte, 0, len(line)+longestEscape)
	for len(line) > 0 {
		letter, width := utf8.DecodeRune(line)
		if isUnseen(letter) {
			shown = append(shown, escaped(letter)...)
		} else {
			shown = append(shown, line[:width]...)
		}
		line = line[width:]
	}
	return shown
}
