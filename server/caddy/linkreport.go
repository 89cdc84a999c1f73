package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// The permissions that the key of Immich's API needs, and no more; "all" allows everything (Immich's enum.ts).
const (
	rightNeeded = "sharedLink.read"
	rightOfAll  = "all"
)

// linkReport is what Immich reports about the shared links of the key's user.
type linkReport struct {
	links []sharedLink
	// more lists the key's permissions that a report does not need.
	more []string
	// cut says that Immich has more links than are reported.
	cut bool
	// trouble says why there is no report, as a sentence.
	trouble string
}

// sharedLink is the part of a link that a report keeps. What opens the link (key, slug and password) is discarded.
type sharedLink struct {
	id, name   string
	pseudonyms []string
	expires    time.Time // zero for never
	password   bool
	upload     bool
	download   bool
	metadata   bool
}

func (l sharedLink) expired(now time.Time) bool { return !l.expires.IsZero() && !l.expires.After(now) }

// answerOfImmich is an item of GET /api/shared-links (shared-link.dto.ts of Immich 2 and 3).
type answerOfImmich struct {
	ID            string     `json:"id"`
	Key           string     `json:"key"`
	Slug          *string    `json:"slug"`
	Description   *string    `json:"description"`
	Password      *string    `json:"password"`
	ExpiresAt     *time.Time `json:"expiresAt"`
	AllowUpload   bool       `json:"allowUpload"`
	AllowDownload bool       `json:"allowDownload"`
	ShowMetadata  bool       `json:"showMetadata"`
	Album         *struct {
		AlbumName string `json:"albumName"`
	} `json:"album"`
}

const (
	immichPatience = 20 * time.Second
	// mostOfALibrary is the largest answer: for links that share chosen photos, Immich lists each photo.
	mostOfALibrary = 256 << 20
	// mostReported is how many links a report has at most.
	mostReported = 5000
)

// askImmich returns the report, or the reason why there is none. The key is read from a file, so that no other account sees it.
func askImmich(place, keyFile string, names *pseudonyms) linkReport {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return linkReport{trouble: "There is no Immich API key on this server; set immichApiKey and run pulumi up."}
	}
	immich := &immichAPI{place: place, key: strings.TrimSpace(string(text)), client: &http.Client{
		// Only Immich gets the key: no proxy, and no redirects.
		Transport:     &http.Transport{Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	ctx, cancel := context.WithTimeout(context.Background(), immichPatience)
	defer cancel()
	var report linkReport
	if err := immich.rights(ctx, &report); err != nil {
		return linkReport{trouble: err.Error()}
	}
	if err := immich.links(ctx, &report, names); err != nil {
		return linkReport{trouble: err.Error(), more: report.more}
	}
	return report
}

type immichAPI struct {
	place, key string
	client     *http.Client
}

// forOwner is an error that is a complete sentence for the owner.
type forOwner string

func (f forOwner) Error() string { return string(f) }

const (
	keyRefused    forOwner = "Immich refuses the API key in immichApiKey; create a new one with the permission " + rightNeeded + " alone."
	keyLacksRight forOwner = "The API key in immichApiKey lacks the permission " + rightNeeded + ", so nothing is known about Immich's links; give it that permission, and no other."
)

func sentence(format string, arguments ...any) error {
	return forOwner(fmt.Sprintf(format, arguments...))
}

func (i *immichAPI) get(ctx context.Context, path string, read func(status int, body io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.place+path, nil)
	if err != nil {
		return sentence("There is no Immich at %s.", plainText(i.place))
	}
	request.Header.Set("x-api-key", i.key)
	request.Header.Set("Accept", "application/json")
	answer, err := i.client.Do(request)
	if err != nil {
		return sentence("Immich does not answer at %s, so nothing is known about its links; start it.", plainText(i.place))
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusUnauthorized {
		return keyRefused
	}
	return read(answer.StatusCode, io.LimitReader(answer.Body, mostOfALibrary))
}

// rights checks the key's permissions; any key may ask for its own.
func (i *immichAPI) rights(ctx context.Context, report *linkReport) error {
	return i.get(ctx, "/api/api-keys/me", func(status int, body io.Reader) error {
		var key struct {
			Permissions []string `json:"permissions"`
		}
		if status != http.StatusOK || json.NewDecoder(body).Decode(&key) != nil {
			return nil // an Immich that does not report them; reading the links will show it
		}
		if !slices.Contains(key.Permissions, rightNeeded) && !slices.Contains(key.Permissions, rightOfAll) {
			return keyLacksRight
		}
		for _, right := range key.Permissions {
			if right != rightNeeded {
				report.more = append(report.more, plainText(right))
			}
		}
		return nil
	})
}

func (i *immichAPI) links(ctx context.Context, report *linkReport, names *pseudonyms) error {
	return i.get(ctx, "/api/shared-links", func(status int, body io.Reader) error {
		switch {
		case status == http.StatusForbidden:
			return keyLacksRight
		case status != http.StatusOK:
			return sentence("Immich answers %d when it is asked for its links; see its log.", status)
		}
		decoder := json.NewDecoder(body)
		if start, err := decoder.Token(); err != nil || start != json.Delim('[') {
			return sentence("Immich's list of links is not a list; check whether another program answers at its port.")
		}
		for decoder.More() && len(report.links) < mostReported {
			var said answerOfImmich
			if err := decoder.Decode(&said); err != nil {
				return sentence("Immich's list of links cannot be read; see its log.")
			}
			report.links = append(report.links, said.kept(names))
		}
		report.cut = decoder.More()
		return nil
	})
}

func (a answerOfImmich) kept(names *pseudonyms) sharedLink {
	kept := sharedLink{
		id: plainText(a.ID), password: a.Password != nil && *a.Password != "", upload: a.AllowUpload,
		download: a.AllowDownload, metadata: a.ShowMetadata,
	}
	if a.ExpiresAt != nil {
		kept.expires = *a.ExpiresAt
	}
	if a.Album != nil {
		kept.name = plainText(a.Album.AlbumName)
	}
	if a.Description != nil && *a.Description != "" {
		kept.name = plainText(*a.Description)
	}
	if names != nil {
		kept.pseudonyms = append(kept.pseudonyms, names.of(link{"key", a.Key}))
		if a.Slug != nil && *a.Slug != "" {
			kept.pseudonyms = append(kept.pseudonyms, names.of(link{"slug", *a.Slug}))
		}
	}
	return kept
}

// words names what the owner should know about the links, as one sentence without names, or "".
func (r linkReport) words(now time.Time) string {
	var never, open, openUpload, metadata, expired int
	for _, l := range r.links {
		switch {
		case l.expired(now):
			expired++
			continue
		case l.expires.IsZero():
			never++
		}
		switch {
		case !l.password && l.upload:
			openUpload++
		case !l.password:
			open++
		}
		if l.metadata {
			metadata++
		}
	}
	var parts []string
	for _, part := range []struct {
		count     int
		one, many string
	}{
		{never, "never expires", "never expire"},
		{openUpload, "has no password and allows uploads", "have no password and allow uploads"},
		{open, "has no password", "have no password"},
		{metadata, "shows metadata (where and when photos were taken)", "show metadata (where and when photos were taken)"},
		{expired, "has expired and is still there", "have expired and are still there"},
	} {
		switch part.count {
		case 0:
		case 1:
			parts = append(parts, "1 "+part.one)
		default:
			parts = append(parts, fmt.Sprint(part.count, " ", part.many))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	of := fmt.Sprintf("Of %d shared links", len(r.links))
	if len(r.links) == 1 {
		of = "Of the one shared link"
	}
	return of + ", " + strings.Join(parts, ", ") + "."
}

// leftOut says that Immich has more links than are reported, or "".
func (r linkReport) leftOut() string {
	if !r.cut {
		return ""
	}
	return fmt.Sprintf("Immich has more than %d shared links; the report leaves out the rest. Remove those that nobody needs.", mostReported)
}

// tooMuch names the key's superfluous permissions, or "".
func (r linkReport) tooMuch() string {
	if len(r.more) == 0 {
		return ""
	}
	also := strings.Join(r.more[:min(len(r.more), 5)], ", ")
	if len(r.more) > 5 {
		also += fmt.Sprintf(" and %d more", len(r.more)-5)
	}
	return fmt.Sprintf("The API key in immichApiKey has more permissions than it needs (%s); create one with %s alone.", also, rightNeeded)
}
