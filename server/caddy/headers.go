package main

import (
	"net/http"
	"net/textproto"
	"strings"
)

// headerList is the list of a stranger's headers and cookies that Immich gets. Everything else is dropped, so that no unknown
// header can authenticate anybody: Immich accepts a user's session or API key on the calls of a link as well, and a stolen one
// must be worthless without a device.
type headerList struct {
	names    map[string]bool
	prefixes []string
	cookies  []string
}

// newHeaderList takes names of headers, which may end in an asterisk, and names of cookies.
func newHeaderList(names, cookies []string) headerList {
	list := headerList{names: map[string]bool{}, cookies: cookies}
	for _, name := range names {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if prefix, found := strings.CutSuffix(canonical, "*"); found {
			list.prefixes = append(list.prefixes, prefix)
		} else {
			list.names[canonical] = true
		}
	}
	return list
}

// of returns those of a visitor's headers that are on the list.
func (l headerList) of(headers http.Header) http.Header {
	left := make(http.Header, len(headers))
	for name, values := range headers {
		if l.has(name) {
			left[name] = values
		}
	}
	if kept := l.cookiesOf(headers["Cookie"]); kept != "" {
		left["Cookie"] = []string{kept}
	}
	return left
}

func (l headerList) has(name string) bool {
	if l.names[name] {
		return true
	}
	for _, prefix := range l.prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// cookiesOf returns the first of each cookie on the list, as one header. A value ends wherever any parser could end it.
func (l headerList) cookiesOf(headers []string) string {
	var kept []string
	for _, name := range l.cookies {
		if value := firstCookie(headers, name); value != "" {
			kept = append(kept, name+"="+value)
		}
	}
	return strings.Join(kept, "; ")
}

func firstCookie(headers []string, name string) string {
	for _, header := range headers {
		for cookie := range strings.SplitSeq(header, ";") {
			value, found := strings.CutPrefix(strings.TrimLeft(cookie, " \t"), name+"=")
			if end := strings.IndexAny(value, ", \t"); end >= 0 {
				value = value[:end]
			}
			if found && value != "" {
				return value
			}
		}
	}
	return ""
}

// withoutForwarded removes a device's claims about where it comes from: the address comes from the PROXY line alone, and Caddy
// writes its own X-Forwarded-*. (For strangers, the gate drops all of these.)
func withoutForwarded(header http.Header) {
	for name := range header {
		if name == "Forwarded" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			delete(header, name)
		}
	}
}
