package main

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// quietList is what people, their programs and Immich's own pages request by mistake, from [quiet] of the table.
type quietList struct {
	below, pages, words, api, previews []string
	files                              *regexp.Regexp
}

// quietTable is [quiet] as written in the file.
type quietTable struct{ Below, Pages, Words, Files, API, Before, Previews []string }

func newQuietList(table quietTable) (quietList, error) {
	expression, err := regexp.Compile(`^(?i:` + strings.Join(table.Files, "|") + `)$`)
	if err != nil || len(table.Files) == 0 {
		return quietList{}, fmt.Errorf("the quiet files make no expression: %w", err)
	}
	return quietList{
		below: table.Below, pages: table.Pages, words: table.Words, files: expression,
		api: slices.Concat(table.API, table.Before), previews: table.Previews,
	}, nil
}

// verdictOf returns the verdict on a refused request. fail2ban counts "scan", so that must be a request that no innocent
// person's browser can be made to send.
func (q quietList) verdictOf(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	path = path[:min(len(path), longestPath)]
	if own := ownPath(path, r.Host); own != "" {
		path = own
	}
	if ledHere(r) || q.has(path) || readsOneWay(path) && isTyped(r, path, q.previews) {
		return verdictQuiet
	}
	return verdictScan
}

// longestFile is longer than the name of any file that programs request automatically.
const longestFile = 200

// has reports whether a path is no sign of bad intent. (A query never is one.)
func (q quietList) has(path string) bool {
	decoded, err := url.PathUnescape(path)
	if err != nil {
		decoded = path
	}
	plain := withoutGlue(decoded)
	first, rest, _ := strings.Cut(strings.ToLower(strings.ReplaceAll(plain, `\`, "/")), "/")
	if slices.ContainsFunc(q.below, func(word string) bool { return isWordOrGlued(first, word) }) {
		return true
	}
	if start := strings.TrimLeft(decoded, "/"); plain == "" || strings.IndexAny(start, "?&#") == 0 {
		return !strings.Contains(decoded, "..") // only something glued to the name of the server
	}
	if !readsOneWay(path) {
		return false
	}
	if first == "api" {
		family, _, _ := strings.Cut(rest, "/")
		if family == "" || slices.Contains(q.api, family) {
			return true
		}
	}
	first = strings.TrimRightFunc(first, isGlue)
	return slices.Contains(q.pages, first) && !namesFile(plain) ||
		slices.Contains(q.words, first) && strings.Trim(rest, "/") == "" ||
		len(plain) < longestFile && q.files.MatchString("/"+plain)
}

// isGlue reports whether a character belongs to the surrounding sentence, or to a program's formatting, and not to the address.
func isGlue(letter rune) bool {
	if letter < utf8.RuneSelf {
		return strings.ContainsRune("/ \t\r\n!\"#%&'()*,:;<=>?[]^`{|}", letter)
	}
	return letter != utf8.RuneError && unicode.In(letter, glue...)
}

// glue is space, punctuation, symbols, zero-width characters, and variation selectors.
var glue = []*unicode.RangeTable{unicode.White_Space, unicode.P, unicode.S, unicode.Cf, unicode.Mn}

// withoutGlue removes what is glued to both ends of a path, and dots at its end.
func withoutGlue(path string) string {
	return strings.TrimRightFunc(strings.TrimLeftFunc(path, isGlue), func(letter rune) bool {
		return letter != '/' && (letter == '.' || isGlue(letter))
	})
}

// isWordOrGlued reports whether the first segment of a path is a word, possibly with something glued to it.
func isWordOrGlued(segment, word string) bool {
	rest, found := strings.CutPrefix(segment, word)
	if !found || rest == "" {
		return found
	}
	letter, _ := utf8.DecodeRuneInString(rest)
	return isGlue(letter)
}

// namesFile reports whether a path has an extension such as .php: no page of the app has one, and scanners ask for little else.
func namesFile(path string) bool {
	return strings.Contains(strings.TrimRightFunc(path, func(letter rune) bool { return letter == '.' || isGlue(letter) }), ".")
}
