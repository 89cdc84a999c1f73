package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// What a visitor did with a link, as the log has it if the owner wants to know: "open", "download" or "upload", and the link's
// pseudonym.
const (
	deedOpen     = "open"
	deedDownload = "download"
	deedUpload   = "upload"
)

// pseudonyms names links by a hash that cannot be reproduced without the key: a slug is a word, which could be guessed from a
// plain hash. `since` is when the key was made; earlier lines have pseudonyms made with another key.
type pseudonyms struct {
	key   []byte
	since time.Time
}

// readPseudonyms reads the key: 64 hexadecimal digits, a blank, and a Unix time in seconds.
func readPseudonyms(file string) (*pseudonyms, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var digits string
	var seconds int64
	if _, err := fmt.Sscanf(string(text), "%64s %d\n", &digits, &seconds); err != nil {
		return nil, fmt.Errorf("%s holds no key: %w", file, err)
	}
	key, err := hex.DecodeString(digits)
	if err != nil || len(key) != sha256.Size {
		return nil, fmt.Errorf("%s holds no key of 64 hexadecimal digits", file)
	}
	return &pseudonyms{key, time.Unix(seconds, 0)}, nil
}

// of returns the pseudonym of a link, 16 hexadecimal digits, independent of how its key is spelled.
func (p *pseudonyms) of(l link) string {
	hash := hmac.New(sha256.New, p.key)
	hash.Write([]byte(l.field + "=" + l.asImmichReads()))
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// deed returns what a stranger's request did and the link's pseudonym, or "". Only requests that Immich has answered count, so
// links cannot be made up. An open is the page's request for the link's data, which it makes when it starts: a chat program
// that makes a preview does not run the page, and only asks for it and a picture.
func (p *pseudonyms) deed(method string, asked *url.URL, agent string, status int) string {
	did := deedOf(method, asked.Path, status)
	if did == "" || did == deedOpen && isRobot(agent) {
		return ""
	}
	query := asked.Query()
	of := link{"key", query.Get("key")}
	if of.name == "" {
		of = link{"slug", query.Get("slug")}
	}
	if of.name == "" {
		return ""
	}
	return did + " " + p.of(of)
}

func deedOf(method, path string, status int) string {
	switch method {
	case http.MethodGet:
		switch {
		case path == "/api/shared-links/me" && (status == http.StatusOK || status == http.StatusNotModified):
			return deedOpen
		case strings.HasPrefix(path, "/api/assets/") && strings.HasSuffix(path, "/original") &&
			(status == http.StatusOK || status == http.StatusPartialContent):
			return deedDownload
		}
	case http.MethodPost:
		if status != http.StatusOK && status != http.StatusCreated {
			return ""
		}
		switch {
		case path == linkLogin:
			return deedOpen
		case path == "/api/download/archive":
			return deedDownload
		case path == "/api/assets" && status == http.StatusCreated: // also for a file that Immich already had (uploads.go)
			return deedUpload
		}
	}
	return ""
}

// robots are the user agents of programs that run a page without a person looking at it.
var robots = []string{
	"Applebot", "bingbot", "Discordbot", "facebookexternalhit", "Googlebot", "Google-Read-Aloud", "LinkedInBot", "Mastodon/",
	"SkypeUriPreview", "Slackbot", "TelegramBot", "Twitterbot", "WhatsApp/", "HeadlessChrome",
}

func isRobot(agent string) bool {
	return slices.ContainsFunc(robots, func(name string) bool { return strings.Contains(agent, name) })
}
