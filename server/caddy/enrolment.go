package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// enrolment is the content of a file in the folder of devices (scripts/devices.sh): a name and, on a second line, the word of a
// frame, `until EPOCH`, or nothing if it was enrolled by hand.
type enrolment struct {
	name    string
	isFrame bool
	until   time.Time // zero if the file names no end
}

const (
	// frameKind is the second line of a frame's file.
	frameKind = "frame"

	// enrolmentSize is larger than any such file.
	enrolmentSize = 256
)

// readEnrolment returns false for a file that cannot be read, or is not such a file.
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
