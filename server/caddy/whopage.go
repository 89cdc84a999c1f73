package main

import (
	"cmp"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// view is the content of a page or a table.
type view struct {
	When    time.Time
	Counted bool // whether opens are counted at all
	Since   time.Time
	Links   []linkRow
	Devices []deviceRow
	// Report is what Immich says, if a key of its API is configured.
	Reported  bool
	Words     string // of the report
	Countries bool   // whether any country is known
	Troubles  []string
}

type linkRow struct {
	Name, ID                   string // ID is the beginning of Immich's id
	Opens, Downloads, Uploads  int
	First, Last                time.Time
	From                       map[string]int
	Known                      bool // by Immich
	Expires                    string
	Password, Upload, Download string
	Metadata                   string
}

type deviceRow struct {
	Name, Address string
	Last          time.Time
}

// viewOf joins what was counted with what Immich knows. A link that Immich no longer has keeps its row.
func viewOf(s *summary, report *linkReport, devices map[string]string, now time.Time) view {
	v := view{When: now}
	counted := map[string]opened{}
	if s != nil {
		v.Counted, v.Since = true, s.names.since
		for name, row := range s.Links {
			counted[name] = *row
		}
		for fingerprint, name := range devices {
			row := deviceRow{Name: name}
			if seen, found := s.Devices[fingerprint]; found {
				row.Address, row.Last = plainText(seen.Address), time.Unix(seen.Last, 0)
			}
			v.Devices = append(v.Devices, row)
		}
	}
	if report != nil {
		v.Reported, v.Words = report.trouble == "", report.words(now)
		for _, said := range []string{report.trouble, report.leftOut(), report.tooMuch()} {
			if said != "" {
				v.Troubles = append(v.Troubles, said)
			}
		}
		for _, l := range report.links {
			row := linkRow{
				Name: l.name, ID: strings.SplitN(l.id, "-", 2)[0], Known: true, Expires: l.end(now), Password: yes(l.password), Upload: yes(l.upload),
				Download: yes(l.download), Metadata: yes(l.metadata),
			}
			for _, name := range l.pseudonyms {
				row.add(counted[name])
				delete(counted, name)
			}
			v.Links = append(v.Links, row)
		}
	}
	for name, count := range counted {
		row := linkRow{Name: name}
		row.add(count)
		v.Links = append(v.Links, row)
	}
	v.Countries = slices.ContainsFunc(v.Links, func(row linkRow) bool { return len(row.From) > 0 })
	slices.SortFunc(v.Links, func(one, other linkRow) int {
		return cmp.Or(other.Last.Compare(one.Last), strings.Compare(one.Name, other.Name))
	})
	slices.SortFunc(v.Devices, func(one, other deviceRow) int {
		return cmp.Or(other.Last.Compare(one.Last), strings.Compare(one.Name, other.Name))
	})
	return v
}

// add adds the counts of one of a link's names: its key or its slug.
func (r *linkRow) add(count opened) {
	r.Opens += count.Opens
	r.Downloads += count.Downloads
	r.Uploads += count.Uploads
	for country, opens := range count.From {
		if r.From == nil {
			r.From = map[string]int{}
		}
		r.From[country] += opens
	}
	if first := time.Unix(count.First, 0); count.First != 0 && (r.First.IsZero() || first.Before(r.First)) {
		r.First = first
	}
	if last := time.Unix(count.Last, 0); count.Last != 0 && last.After(r.Last) {
		r.Last = last
	}
}

// Origin names the countries from which a link was opened most, and how often.
func (r linkRow) Origin() string {
	countries := slices.SortedFunc(maps.Keys(r.From), func(one, other string) int {
		return cmp.Or(cmp.Compare(r.From[other], r.From[one]), strings.Compare(one, other))
	})
	var parts []string
	for _, country := range countries[:min(len(countries), mostCountries)] {
		parts = append(parts, fmt.Sprint(plainText(country), " ", r.From[country]))
	}
	if len(countries) > mostCountries {
		parts = append(parts, fmt.Sprint(len(countries)-mostCountries, " more"))
	}
	return strings.Join(parts, ", ")
}

// mostCountries is how many countries are named per link.
const mostCountries = 6

// Title is the owner's own name of a link, and enough of Immich's id to distinguish two with the same name.
func (r linkRow) Title() string { return r.within(70) }

// within is Title, limited to this many columns.
func (r linkRow) within(columns int) string {
	switch {
	case r.ID == "":
		return r.Name
	case r.Name == "":
		return r.ID
	}
	return shortened(r.Name, columns-len(r.ID)-3) + " (" + r.ID + ")"
}

func (l sharedLink) end(now time.Time) string {
	switch {
	case l.expires.IsZero():
		return "never"
	case l.expired(now):
		return "over"
	}
	return l.expires.Local().Format("2006-01-02")
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// plainText replaces each character of untrusted text that would move a cursor, change a colour or change the direction of the
// text with a question mark.
func plainText(text string) string {
	text = strings.ToValidUTF8(text, "?")
	return strings.Map(func(letter rune) rune {
		switch {
		case letter == '\t' || letter == '\n' || letter == '\r':
			return ' '
		case !unicode.IsPrint(letter) && letter != ' ':
			return '?'
		}
		return letter
	}, shortened(text, 500))
}

// widthOf is how many columns of a terminal a character takes: two for East Asian scripts and emoji, none for combining marks.
func widthOf(letter rune) int {
	switch {
	case unicode.In(letter, unicode.Mn, unicode.Me):
		return 0
	case letter >= 0x1100 && letter <= 0x115f, letter >= 0x2e80 && letter <= 0xa4cf, letter >= 0xac00 && letter <= 0xd7a3,
		letter >= 0xf900 && letter <= 0xfaff, letter >= 0xfe30 && letter <= 0xfe6f, letter >= 0xff00 && letter <= 0xff60,
		letter >= 0x1f300 && letter <= 0x1faff, letter >= 0x20000 && letter <= 0x3fffd:
		return 2
	}
	return 1
}

// shortened truncates a text to this many columns, with three dots for the rest.
func shortened(text string, columns int) string {
	width, end := 0, 0
	for place, letter := range text {
		if width += widthOf(letter); width > columns {
			return text[:end] + "..."
		}
		if width <= columns-3 {
			end = place + len(string(letter))
		}
	}
	return text
}

// padded is a text in a field of this many columns.
func padded(text string, columns int) string {
	text = shortened(text, columns)
	width := 0
	for _, letter := range text {
		width += widthOf(letter)
	}
	return text + strings.Repeat(" ", max(0, columns-width))
}

func minuteOf(moment time.Time) string {
	if moment.IsZero() {
		return "never"
	}
	return moment.Local().Format("2006-01-02 15:04")
}

func dayOf(moment time.Time) string {
	if moment.IsZero() {
		return "never"
	}
	return moment.Local().Format("2006-01-02")
}

// printOpened writes who opened what, in 80 columns.
func (v view) printOpened(to io.Writer) {
	fmt.Fprintf(to, "Shared links, counted since %s\n", dayOf(v.Since))
	if len(v.Links) == 0 {
		fmt.Fprintln(to, "Nobody has opened one yet.")
	} else {
		fmt.Fprintf(to, "%s %5s %9s %7s %-10s %s\n", padded("LINK", 28), "OPENS", "DOWNLOADS", "UPLOADS", "FIRST OPEN", "LAST USE")
	}
	for _, row := range v.Links {
		fmt.Fprintf(to, "%s %5d %9d %7d %-10s %s\n", padded(row.within(28), 28), row.Opens, row.Downloads, row.Uploads, dayOf(row.First), minuteOf(row.Last))
		if len(row.From) > 0 {
			fmt.Fprintln(to, "  from", row.Origin())
		}
	}
	fmt.Fprintf(to, "\n%s %-16s %s\n", padded("DEVICE", 22), "LAST SEEN", "ADDRESS")
	for _, row := range v.Devices {
		fmt.Fprintln(to, strings.TrimRight(fmt.Sprintf("%s %-16s %s", padded(row.Name, 22), minuteOf(row.Last), row.Address), " "))
	}
}

// printLinks writes what Immich says about its links, in 80 columns.
func (v view) printLinks(to io.Writer) {
	if v.Reported {
		fmt.Fprintf(to, "%s %-10s %-8s %-7s %-9s %s\n", padded("LINK", 33), "EXPIRES", "PASSWORD", "UPLOADS", "DOWNLOADS", "METADATA")
		for _, row := range v.Links {
			if row.Known {
				fmt.Fprintf(to, "%s %-10s %-8s %-7s %-9s %s\n", padded(row.within(33), 33), row.Expires, row.Password, row.Upload, row.Download, row.Metadata)
			}
		}
		said := v.Words
		if said == "" {
			said = "There is nothing to report about them."
		}
		fmt.Fprintln(to, wrapped(said))
	}
	for _, trouble := range v.Troubles {
		fmt.Fprintln(to, wrapped(trouble))
	}
}

// wrapped breaks a sentence at blanks into lines of at most 80 columns.
func wrapped(text string) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > 80 {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimLeft(line+" "+word, " ")
	}
	return strings.Join(append(lines, line), "\n")
}

// printPage writes a self-contained page: no scripts, no pictures, no addresses.
func (v view) printPage(to io.Writer) error { return whoPage.Execute(to, v) }

var whoPage = template.Must(template.New("who").Funcs(template.FuncMap{"minute": minuteOf, "day": dayOf}).Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Who opened what</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --paper: #fff; --mark: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --paper: #0d1117; --mark: #fdba74; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } .mark { color: var(--mark); font-weight: 600; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .6rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; } .n { text-align: right; font-variant-numeric: tabular-nums; }
@media (min-width: 40.01rem) { .n + :not(.n) { padding-left: 1rem; } }
@media (max-width: 40rem) {
  thead { display: none; } tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; text-align: right; }
  td::before { content: attr(data-is); color: var(--soft); text-align: left; }
  td:first-child { font-weight: 600; text-align: left; } td:first-child::before { content: none; }
}
</style>
<h1>Who opened what</h1>
<p class="soft">As of {{minute .When}}{{if .Counted}}, counted since {{day .Since}}{{end}}. No address of a visitor is kept.</p>
{{range .Troubles}}<p class="mark">{{.}}</p>{{end}}
{{if .Words}}<p class="mark">{{.Words}}</p>{{end}}
{{if .Counted}}
<h2>Shared links</h2>
{{if .Links}}<table><thead><tr><th>Link<th class="n">Opens<th class="n">Downloads<th class="n">Uploads<th>First open<th>Last use{{if .Countries}}<th>From{{end}}</thead><tbody>
{{range .Links}}<tr><td>{{.Title}}<td class="n" data-is="Opens">{{.Opens}}<td class="n" data-is="Downloads">{{.Downloads}}<td class="n" data-is="Uploads">{{.Uploads}}<td data-is="First open">{{day .First}}<td data-is="Last use">{{minute .Last}}{{if $.Countries}}<td data-is="From">{{.Origin}}{{end}}
{{end}}</table>{{else}}<p>Nobody has opened one yet.</p>{{end}}
<h2>Devices</h2>
<table><thead><tr><th>Device<th>Last seen<th>Address</thead><tbody>
{{range .Devices}}<tr><td>{{.Name}}<td data-is="Last seen">{{minute .Last}}<td data-is="Address">{{.Address}}
{{end}}</table>
{{end}}
{{if .Reported}}
<h2>What the links allow</h2>
<table><thead><tr><th>Link<th>Expires<th>Password<th>Uploads<th>Downloads<th>Metadata</thead><tbody>
{{range .Links}}{{if .Known}}<tr><td>{{.Title}}<td data-is="Expires"{{if eq .Expires "never"}} class="mark"{{end}}>{{.Expires}}<td data-is="Password"{{if eq .Password "no"}} class="mark"{{end}}>{{.Password}}<td data-is="Uploads"{{if eq .Upload "yes"}} class="mark"{{end}}>{{.Upload}}<td data-is="Downloads">{{.Download}}<td data-is="Metadata">{{.Metadata}}
{{end}}{{end}}</table>
{{end}}
</html>
`))
