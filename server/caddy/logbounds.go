package main

import (
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// What a verdict may be, which is the last word of each line of the access log.
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

// What one network (an IPv4 address or a /48) and all strangers together may have written into the log, in bytes: as
// much at once, and again in the window. Lines beyond it are left out. What bans are made of has room of its own: a
// hundred offences and more, of which a ban takes ten.
var (
	visitBytes      = rate{4 << 20, 4 * time.Minute}
	allVisitBytes   = rate{8 << 20, 2 * time.Minute}
	offenceBytes    = rate{128 << 10, 2 * time.Minute}
	allOffenceBytes = rate{8 << 20, 30 * time.Second}
)

// A refusal by a limit or a ban is worth a line a minute of a network, and so are lines outside the access log.
var (
	refusalLines    = rate{1, time.Minute}
	allRefusalLines = rate{600, time.Minute}
	journalLines    = rate{20, 10 * time.Minute}
	allJournalLines = rate{200, 10 * time.Minute}
)

// lineBounds decides which lines of a stranger are written. It outlives the reload of a configuration.
type lineBounds struct {
	visits, offences, refusals, journal buckets
}

var bounds lineBounds

// all is the key of everybody's common bucket.
const all = 1

// mayWrite tells whether an access line of so many bytes has room in the log, for an IPv4 address or a /48.
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

// maySay tells whether a line about a request has room in the journal.
func (l *lineBounds) maySay(remote string, now time.Time) bool {
	return l.journal.take(uint64(widestOf(remote)), 1, journalLines, now) == 0 &&
		l.journal.take(all, 1, allJournalLines, now) == 0
}

// cut returns as much of a client's text as has room in a line; what is missing shows as three dots.
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

// longestEscape is the length of \u001f.
const longestEscape = 6

// writtenSize is what zap's JSON makes of a letter.
func writtenSize(letter rune, width int) int {
	switch {
	case letter == '"', letter == '\\', letter == '\n', letter == '\r', letter == '\t':
		return 2
	case letter < ' ', letter == utf8.RuneError && width == 1:
		return longestEscape
	}
	return width
}

// shownFrame is a frame's secret, or most of one.
var shownFrame = regexp.MustCompile(`(?i)ixframe_[a-z2-7]+`)

// withoutFrames returns what a client says without the secret of a frame: somebody may have typed it where an address belongs.
func withoutFrames(text string) string {
	if strings.IndexByte(text, '_') < 0 {
		return text
	}
	return shownFrame.ReplaceAllString(text, redacted)
}
