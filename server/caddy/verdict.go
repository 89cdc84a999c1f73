package main

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// quietList is what people, their programs and Immich's own pages ask for by mistake.
type quietList struct {
	below, pages, api []string
	files             *regexp.Regexp
}

// newQuietList takes the first words of paths below which nothing is an offence, the first words of the app's pages,
// expressions for whole paths, and the first words below /api.
func newQuietList(below, pages, files, api []string) (quietList, error) {
	expression, err := regexp.Compile(`^(?i:` + strings.Join(files, "|") + `)$`)
	if err != nil || len(files) == 0 {
		return quietList{}, fmt.Errorf("the quiet files make no expression: %w", err)
	}
	return quietList{below, pages, api, expression}, nil
}

// verdictOf returns the verdict on a request that is refused. fail2ban counts "scan": that must be something that no
// innocent person's browser can be made to do.
func (q quietList) verdictOf(r *http.Request) string {
	// Another site's page has sent the browser here, without anybody's will.
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" || q.has(r.RequestURI) {
		return verdictQuiet
	}
	return verdictScan
}

// has tells whether a request target is no sign of ill will. The query never is one.
func (q quietList) has(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	words := wordsOf(path)
	if slices.Contains(q.below, words[0]) {
		return true
	}
	if !readsOneWay(path) {
		return false
	}
	if words[0] == "api" {
		return words[1] == "" || slices.Contains(q.api, words[1])
	}
	page := strings.TrimRight(words[0], glued)
	return slices.Contains(q.pages, page) && !namesFile(path) || q.files.MatchString(path)
}

// glued is what belongs to somebody's sentence at the end of an address.
const glued = ".,;:!?)"

// namesFile tells whether a path has an ending such as .php: no page of the app has one, and scanners ask for little
// else.
func namesFile(path string) bool {
	return strings.Contains(strings.TrimRight(path, glued), ".")
}

// wordsOf returns the first two segments of a path in lower case, as a person means them: decoded, with whatever slashes,
// and without what is empty before them.
func wordsOf(path string) [2]string {
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded
	}
	var words [2]string
	path = strings.ReplaceAll(strings.ToLower(path), `\`, "/")
	first, rest, _ := strings.Cut(strings.TrimLeft(path, "/"), "/")
	words[0] = first
	words[1], _, _ = strings.Cut(rest, "/")
	return words
}
