package main

import (
	"errors"
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
	below, pages, words, schemes, api, previews []string
	files, programs                             *regexp.Regexp
}

// quietTable is [quiet] as written in the file.
type quietTable struct {
	Below, Pages, Words, Files, Programs, Schemes, API, Before, Previews []string
}

func newQuietList(table quietTable) (quietList, error) {
	files, err := wholePaths(table.Files)
	if err != nil {
		return quietList{}, fmt.Errorf("the quiet files make no expression: %w", err)
	}
	programs, err := wholePaths(table.Programs)
	if err != nil {
		return quietList{}, fmt.Errorf("the quiet programs make no expression: %w", err)
	}
	return quietList{
		below: table.Below, pages: table.Pages, words: table.Words, schemes: table.Schemes, files: files, programs: programs,
		api: slices.Concat(table.API, table.Before), previews: table.Previews,
	}, nil
}

var errNoPaths = errors.New("there are none")

// wholePaths returns an expression for the paths that match one of these as a whole.
func wholePaths(expressions []string) (*regexp.Regexp, error) {
	if len(expressions) == 0 {
		return nil, errNoPaths
	}
	return regexp.Compile(`^(?i:` + strings.Join(expressions, "|") + `)$`)
}

// verdictOf returns the verdict on a refused request. fail2ban counts "scan", so that must be a request that no innocent
// person's browser can be made to send.
func (q quietList) verdictOf(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	path = path[:min(len(path), longestPath)]
	if ledHere(r) || q.isInnocent(r, path) {
		return verdictQuiet
	}
	if own := ownPath(path, r.Host); own != "" && q.isInnocent(r, own) {
		return verdictQuiet
	}
	return verdictScan
}

// isInnocent reports whether a path may be a mistake of a person or of a program. A program that joins two parts of an address
// doubles the slash between them.
func (q quietList) isInnocent(r *http.Request, path string) bool {
	path = manySlashes.ReplaceAllString(path, "/")
	return q.has(path) || readsOneWay(path) && isTyped(r, path, q.previews)
}

var manySlashes = regexp.MustCompile(`//+`)

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
	if namesProgram(plain) {
		return len(plain) < longestFile && q.programs.MatchString("/"+plain)
	}
	if scheme, _, found := strings.Cut(first, ":"); found && slices.Contains(q.schemes, scheme) {
		return true
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

// program matches the path of a file that a server would run, or of one that is hidden or left over in a folder.
var program = regexp.MustCompile(
	`(?i)\.(?:aspx?|as[hm]x|bak|cgi|dll|env|exe|jspx?|old|phar|php\d?|phtml|pl|py|sh|sql|svc)(?:/|$)|/\.`,
)

func namesProgram(path string) bool { return program.MatchString(path) }
