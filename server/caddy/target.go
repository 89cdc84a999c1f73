package main

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A stranger's request is compared as it was sent, because that is what Immich gets. It must have only one reading, whether a
// server decodes twice, takes a backslash for a slash, or cuts a segment at a semicolon.

// readsOneWay reports whether every decoder, however often it decodes, finds the same names in a path, and none that leads
// upwards. Which letters are allowed is up to the patterns: this checks what an escape may hide.
func readsOneWay(path string) bool {
	if !strings.Contains(path, "%") && !strings.Contains(path, "//") && !strings.Contains(path, "/.") && !strings.Contains(path, `\`) {
		return true
	}
	decoded, err := url.PathUnescape(path)
	if err != nil || hasEscape(decoded) || !isText(decoded) || strings.Contains(decoded, `\`) {
		return false
	}
	for segment := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSuffix(decoded, "/"), "/"), "/") {
		if segment == "" && decoded != "/" || leadsUp(segment) {
			return false
		}
	}
	return true
}

// leadsUp reports whether a segment means the parent or the same folder to a server that ignores blanks, or what follows a
// semicolon.
func leadsUp(segment string) bool {
	if end := strings.IndexAny(segment, ";?#"); end >= 0 {
		segment = segment[:end]
	}
	segment = strings.Map(func(letter rune) rune {
		if unicode.IsSpace(letter) || unicode.IsControl(letter) || unicode.Is(unicode.Cf, letter) {
			return -1
		}
		return letter
	}, segment)
	return segment == "." || segment == ".."
}

// hasEscape reports whether something may be decoded, also in the old style (%u0020).
func hasEscape(text string) bool {
	for rest := text; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			return false
		}
		if len(after) > 1 && (isHex(after[0]) && isHex(after[1]) || after[0]|0x20 == 'u') {
			return true
		}
		rest = after
	}
}

// isText reports whether text is UTF-8 without ASCII control characters.
func isText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(letter rune) bool {
		return letter < 0x20 || letter == 0x7f || letter == utf8.RuneError
	})
}

func isHex(letter byte) bool {
	return '0' <= letter && letter <= '9' || 'a' <= letter|0x20 && letter|0x20 <= 'f'
}

// query is what the edge has to know about a query.
type query struct {
	keys, slugs int  // how often each name occurs
	link        bool // it has a nonempty key or slug of a link
	credentials bool // it has a user's credentials, or a link's password
	oddKey      bool // it has a key with letters that no key has
}

// readQuery parses a query. `sound` says that every parser reads it the same way: plain names, one `&` between each two, and no
// brackets in the values, because some parsers end a name at the last of them.
func readQuery(raw string) (found query, sound bool) {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		name, value, _ := strings.Cut(pair, "=")
		if !isPlainName(name) || !isPlainValue(value) {
			return query{}, false
		}
		found.add(name, value)
	}
	return found, true
}

func (q *query) add(name, value string) {
	switch name {
	case "key":
		q.keys++
		q.link = q.link || value != ""
		q.oddKey = q.oddKey || !isKey(value)
	case "slug":
		q.slugs++
		q.link = q.link || value != ""
	}
	switch strings.ToLower(name) {
	case "apikey", "sessionkey", "password":
		q.credentials = true
	}
}

// smuggles reports whether the query holds what must not reach Immich: a user's credentials, a password outside its own call
// (where guessing would go unnoticed), two links, of which one parser takes the first and another the last, or a key with other
// letters in between, which Immich skips, so that one link would have any number of keys.
func (q query) smuggles() bool {
	return q.credentials || q.keys+q.slugs > 1 || q.oddKey
}

// isKey reports whether a value has only letters of base64url, which include those of hex.
func isKey(value string) bool {
	if strings.Contains(value, "%") {
		decoded, err := url.PathUnescape(value)
		if err != nil {
			return false
		}
		value = decoded
	}
	for _, letter := range []byte(value) {
		if !isWord(letter) && letter != '-' {
			return false
		}
	}
	return true
}

// hidesControls reports whether a query has an escaped control character.
func hidesControls(raw string) bool {
	for {
		_, after, found := strings.Cut(raw, "%")
		if !found {
			return false
		}
		if len(after) > 1 && isHex(after[1]) && (after[0] == '0' || after[0] == '1' || strings.EqualFold(after[:2], "7f")) {
			return true
		}
		raw = after
	}
}

func isPlainName(name string) bool {
	for _, letter := range []byte(name) {
		if !isWord(letter) && letter != '.' && letter != '~' && letter != '-' {
			return false
		}
	}
	return name != ""
}

func isWord(letter byte) bool {
	return letter == '_' || '0' <= letter && letter <= '9' || 'a' <= letter|0x20 && letter|0x20 <= 'z'
}

func isPlainValue(value string) bool {
	escaped := false
	for _, letter := range []byte(value) {
		if letter <= ' ' || letter > '~' || strings.IndexByte(`"#&;[\]`, letter) >= 0 {
			return false
		}
		escaped = escaped || letter == '%'
	}
	if !escaped {
		return true
	}
	decoded, err := url.PathUnescape(value)
	return err == nil && isText(decoded)
}
