package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// enrolment is what a file in the folder of devices says (scripts/devices.sh): a name, and on a second line the word of a frame,
// `until EPOCH`, or nothing where somebody was let in by hand.
type enrolment struct {
	name    string
	isFrame bool
	until   time.Time // zero where the file says no end
}

const (
	// frameKind is what the second line of a frame's file says.
	frameKind = "frame"

	// enrolmentSize is more than any such file holds.
	enrolmentSize = 256
)

// readEnrolment returns nothing for what cannot be read, or is no such file.
func readEnrolment(path string) (enrolment, bool) {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() > enrolmentSize {
		return enrolment{}, false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return enrolment{}, false
	}
	name, rest, _ := strings.Cut(string(text), "\n")
	word, _, _ := strings.Cut(rest, "\n")
	found := enrolment{name: name, isFrame: word == frameKind}
	if epoch, has := strings.CutPrefix(word, "until "); has {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return enrolment{}, false
		}
		found.until = time.Unix(seconds, 0)
	}
	return found, name != ""
}
