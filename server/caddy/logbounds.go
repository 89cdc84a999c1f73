package main

import (
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// The possible verdicts. The verdict is the last word of each line of the access log.
const (
	verdictDevice   = "device"
	verdictAnon     = "anon"
	verdictQuiet    = "quiet"
	verdictScan     = "scan"
	verdictGuess    = "guess"
	verdictPassword = "password"
	verdictFrame    = "frame"
	verdictSecret   = "wrong-secret"
)

// mostWritten is how many bytes a client's text may take in the log, quotes and escapes included.
const mostWritten = 300

// How many bytes one network (an IPv4 address or a /48), and all strangers together, may add to the log: this much at once, and
// as much again in each window. Further lines are dropped. Offences have separate room for a hundred lines and more; a ban
// needs ten.
var (
	visitBytes      = rate{4 << 20, 4 * time.Minute}
	allVisitBytes   = rate{8 << 20, 2 * time.Minute}
	offenceBytes    = rate{128 << 10, 2 * time.Minute}
	allOffenceBytes = rate{8 << 20, 30 * time.Second}
)

// A network's refusals by a limit or a ban get one line per minute, and so do its lines outside the access log.
var (
	refusalLines    = rate{1, time.Minute}
	allRefusalLines = rate{600, time.Minute}
	journalLines    = rate{20, 10 * time.Minute}
	allJournalLines = rate{200, 10 * time.Minute}
)

// lineBounds decides which lines of a stranger are written. It survives a configuration reload.
type lineBounds struct {
	visits, offences, refusals, journal buckets
}

var bounds lineBounds

// all is the key of the bucket that all strangers share.
const all = 1

// mayWrite reports whether the log has room for an access line of this many bytes from an IPv4 address or a /48.
func (l *lineBounds) mayWrite(from network, verdict string, status, size int, now time.Time) bool {
	key := uint64(from)
	switch {
	case verdict == verdictDevice:
		return true
	case verdict == "" || status == http.StatusTooManyRequests:
		return l.refusals.take(key, 1, refusalLines, now) == 0 && l.refusals.take(all, 1, allRefusalLines, now) == 0
	case verdict == verdictAnon || verdict == verdictQuiet || verdict == verdictFrame:
		return l.visits.take(key, float64(size), visitBytes, now) == 0 &&
			l.visits.take(all, float64(size), allVisitBytes, now) == 0
	}
	return l.offences.take(key, float64(size), offenceBytes, now) == 0 &&
		l.offences.take(all, float64(size), allOffenceBytes, now) == 0
}

// maySay reports whether the journal has room for a line about a request.
func (l *lineBounds) maySay(remote string, now time.Time) bool {
	return l.journal.take(uint64(widestOf(remote)), 1, journalLines, now) == 0 &&
		l.journal.take(all, 1, allJournalLines, now) == 0
}

// cut returns as much of a client's text as a line has room for; three dots mark the missing rest.
func cut(text string) string {
	text = withoutFrames(text)
	if len(text) <= mostWritten/longestEscape {
		return text
	}
	size := 0
	for place := 0; place < len(text); {
		letter, width := utf8.DecodeRuneInString(text[place:])
		if size += writtenSize(letter, width); size > mostWritten {
			return text[:place] + "..."
		}
		place += width
	}
	return text
}

// longestEscape is the length of \u001f. Two of them take the place of a letter of four bytes.
const longestEscape = 6

// writtenSize is how many bytes a letter takes in a line of either log.
func writtenSize(letter rune, width int) int {
	switch {
	case letter == '"', letter == '\\', letter == '\n', letter == '\r', letter == '\t':
		return 2
	case letter < ' ', letter == utf8.RuneError && width == 1:
		return longestEscape
	case isUnseen(letter):
		return len(escaped(letter))
	}
	return width
}

// shownFrame matches a frame's secret, or most of one.
var shownFrame = regexp.MustCompile(`(?i)ixframe_[a-z2-7]+`)

// withoutFrames removes frames' secrets from a client's text: a person may have typed one in place of an address.
func withoutFrames(text string) string {
	if strings.IndexByte(text, '_') < 0 {
		return text
	}
	return shownFrame.ReplaceAllString(text, redacted)
}
