package main

import (
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	redacted = "REDACTED"

	// mostRead is how much of a target is examined for a line that has room for less.
	mostRead = 4 * mostWritten

	// mostDecoded is how often a target may be escaped and is still read.
	mostDecoded = 4

	// longestName is longer than the name of a parameter, and shorter than the key of a link.
	longestName = 32

	// longestWord is longer than an ordinary word of a path, an id for example, and shorter than the key of a link.
	longestWord = 60

	// linkPhotos is the path between a link and one of its photos.
	linkPhotos = "photos"
)

// linkWords are the words before the key or slug of a link, and how people mistype them.
var linkWords = []string{"s", "share", "shared", "shares"}

// withoutSecrets returns a request's target without what opens a link. People, mail programs and chat programs spell links in
// many ways that the edge refuses, and anybody who reads the log could repair them. So it is more lenient than any parser: the
// word before a link in any case and behind any punctuation, escaped several times, a query that has lost its question mark. If
// in doubt, it leaves out too much.
func withoutSecrets(target string) string {
	target = target[:min(len(target), mostRead)]
	path, query, asks := strings.Cut(target, "?")
	shown, named := withoutLink(path)
	if !named {
		shown = withoutAssignments(shown)
	}
	if asks {
		shown += "?" + withoutValues(query, named)
	}
	return withoutLongWords(shown)
}

// withoutLink returns a path without the name of a link. `named` says that it may have had one.
func withoutLink(path string) (shown string, named bool) {
	if end := endOfLinkWord(path); end >= 0 {
		return path[:end] + withoutNames(path[end:]), true
	}
	if escape := strings.IndexByte(path, '%'); escape >= 0 && hidesSecrets(path) {
		return path[:escape] + redacted, true
	}
	return path, false
}

// endOfLinkWord returns the index after the first word that precedes a link, or -1.
func endOfLinkWord(path string) int {
	for start := 0; start < len(path); {
		end := start
		for end < len(path) && !isEdge(path[end]) {
			end++
		}
		word := path[start:end]
		if len(word) <= len("shared") && slices.ContainsFunc(linkWords, func(each string) bool { return strings.EqualFold(each, word) }) {
			return end
		}
		start = end + 1
	}
	return -1
}

// isEdge reports whether a word cannot go on with this byte.
func isEdge(letter byte) bool {
	return letter >= utf8.RuneSelf || letter <= ' ' || letter == '\\' || isGlue(rune(letter))
}

// withoutNames removes all names below the word before a link.
func withoutNames(rest string) string {
	segments := strings.Split(rest, "/")
	for number, segment := range segments {
		if segment != "" && segment != linkPhotos {
			segments[number] = redacted
		}
	}
	return strings.Join(segments, "/")
}

// hidesSecrets reports whether there is a link or a parameter in a path once it is decoded.
func hidesSecrets(path string) bool {
	for range mostDecoded {
		before := path
		if path = decoded(path); path == before {
			return false
		}
		if endOfLinkWord(path) >= 0 || strings.ContainsAny(path, "?&#;=") {
			return true
		}
	}
	return hasEscape(path)
}

// decoded decodes what is escaped in a text, and leaves what is no escape.
func decoded(text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	var plain strings.Builder
	for text != "" {
		if text[0] == '%' && len(text) > 2 && isHex(text[1]) && isHex(text[2]) {
			plain.WriteByte(hexValue(text[1])<<4 | hexValue(text[2]))
			text = text[3:]
			continue
		}
		plain.WriteByte(text[0])
		text = text[1:]
	}
	return plain.String()
}

// hexValue returns the value of a hexadecimal digit.
func hexValue(digit byte) byte {
	if digit <= '9' {
		return digit - '0'
	}
	return digit | 0x20 - 'a' + 10
}

// withoutAssignments removes the values of parameters that have got into a path.
func withoutAssignments(path string) string {
	start := strings.IndexAny(path, "&;#=")
	if start < 0 {
		return path
	}
	if path[start] == '=' {
		return path[:start+1] + redacted
	}
	return path[:start+1] + withoutValues(path[start+1:], false)
}

// withoutValues removes every value of a query, and what may not be the name of a parameter. `named` says that even a plain word
// may be the name of a link.
func withoutValues(query string, named bool) string {
	pairs := strings.Split(query, "&")
	for number, pair := range pairs {
		name, value, assigned := strings.Cut(pair, "=")
		if name != "" && (!isPlainName(name) || len(name) > longestName || named && !assigned) {
			name = redacted
		}
		switch {
		case value != "":
			pairs[number] = name + "=" + redacted
		case assigned:
			pairs[number] = name + "="
		default:
			pairs[number] = name
		}
	}
	return strings.Join(pairs, "&")
}

// withoutLongWords removes words as long as the key of a link, wherever they are.
func withoutLongWords(text string) string {
	if len(text) < longestWord {
		return text
	}
	for start := 0; start < len(text); {
		end := start
		for end < len(text) && (isWord(text[end]) || text[end] == '-') {
			end++
		}
		if end-start >= longestWord {
			text = text[:start] + redacted + text[end:]
			end = start + len(redacted)
		}
		start = end + 1
	}
	return text
}
