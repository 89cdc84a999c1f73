package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/dustin/go-humanize"
)

// surface is what strangers, or frames, may ask, as read from surface.toml; the comment at the top of that file explains it.
type surface struct {
	rows    []*row
	headers headerList
	quiet   quietList
}

// row is one kind of request that is let through.
type row struct {
	methods []string
	literal string         // the path up to its first pattern
	pattern *regexp.Regexp // for the whole path; nil if the path has no pattern
	link    bool           // it needs the key or slug of a link
	api     bool
	body    int64 // the largest body, in bytes
}

// tableFile is surface.toml, as far as the edge needs it.
type tableFile struct {
	Patterns map[string]string
	Features map[string]struct{ Fixed bool }
	Rows     []rowOfFile
	Frames   struct {
		Headers []string
		Rows    []rowOfFile
	}
	Visitors struct{ Headers, Cookies []string }
	Quiet    quietTable
}

type rowOfFile struct {
	Feature string
	Methods []string
	Path    string
	Link    bool
	Body    string
}

// bodyOfUploads marks a row whose body may be as large as the owner allows.
const bodyOfUploads = "upload"

// smallBody is the limit of a row that names none.
const smallBody = 1000

// readSurface reads the table. `switches` says for each feature that is not fixed whether it is on, and `upload` is the largest
// upload in bytes.
func readSurface(path string, switches map[string]bool, upload int64) (*surface, error) {
	var file tableFile
	if _, err := toml.DecodeFile(path, &file); err != nil {
		return nil, err
	}
	on, err := file.featuresThatAreOn(switches)
	if err != nil {
		return nil, err
	}
	found := &surface{headers: newHeaderList(file.Visitors.Headers, file.Visitors.Cookies)}
	for _, each := range file.Rows {
		if !on[each.Feature] {
			continue
		}
		made, err := each.row(file.Patterns, upload)
		if err != nil {
			return nil, err
		}
		found.rows = append(found.rows, made)
	}
	if len(found.rows) == 0 {
		return nil, fmt.Errorf("%s has no rows", path)
	}
	found.quiet, err = newQuietList(file.Quiet)
	return found, err
}

// readFrameSurface reads what frames may ask.
func readFrameSurface(path string) (*surface, error) {
	var file tableFile
	if _, err := toml.DecodeFile(path, &file); err != nil {
		return nil, err
	}
	found := &surface{headers: newHeaderList(file.Frames.Headers, nil)}
	for _, each := range file.Frames.Rows {
		made, err := each.row(file.Patterns, smallBody)
		if err != nil {
			return nil, err
		}
		found.rows = append(found.rows, made)
	}
	if len(found.rows) == 0 {
		return nil, fmt.Errorf("%s has no rows for frames", path)
	}
	return found, nil
}

func (f rowOfFile) row(patterns map[string]string, upload int64) (*row, error) {
	made := &row{methods: f.Methods, link: f.Link, api: strings.HasPrefix(f.Path, "/api/")}
	size, err := bodySize(f.Body, upload)
	if err == nil {
		made.body, err = size, made.setPath(f.Path, patterns)
	}
	if err != nil {
		return nil, fmt.Errorf("the row %s: %w", f.Path, err)
	}
	return made, nil
}

// featuresThatAreOn returns the features that are on by name, or an error if the switches are not exactly those of the table.
func (f *tableFile) featuresThatAreOn(switches map[string]bool) (map[string]bool, error) {
	on := maps.Clone(switches)
	for name, feature := range f.Features {
		if _, found := switches[name]; found == feature.Fixed {
			return nil, fmt.Errorf("the feature %s is to be switched unless it is fixed", name)
		}
		on[name] = feature.Fixed || switches[name]
	}
	for name := range on {
		if _, found := f.Features[name]; !found {
			return nil, fmt.Errorf("%q is not a feature", name)
		}
	}
	return on, nil
}

func bodySize(text string, upload int64) (int64, error) {
	switch text {
	case "":
		return smallBody, nil
	case bodyOfUploads:
		return upload, nil
	}
	size, err := humanize.ParseBytes(text)
	return int64(size), err
}

var braces = regexp.MustCompile(`\{\w+\}`)

// setPath compiles a path with patterns in braces into what the row's requests look like.
func (r *row) setPath(path string, patterns map[string]string) error {
	var unknown []string
	expression, end := "^", 0
	for _, place := range braces.FindAllStringIndex(path, -1) {
		name := path[place[0]+1 : place[1]-1]
		pattern, found := patterns[name]
		if !found {
			unknown = append(unknown, name)
		}
		expression += regexp.QuoteMeta(path[end:place[0]]) + "(?:" + pattern + ")"
		end = place[1]
	}
	if len(unknown) > 0 {
		return fmt.Errorf("it uses unknown patterns: %s", strings.Join(unknown, ", "))
	}
	r.literal, _, _ = strings.Cut(path, "{")
	if r.literal == path {
		return nil
	}
	var err error
	r.pattern, err = regexp.Compile(expression + regexp.QuoteMeta(path[end:]) + "$")
	return err
}

// longestPath is longer than a link with a long name in a distant script, escaped. A longer path would be expensive to match.
const longestPath = 2000

// find returns the row that matches a request, or nil. The path is compared byte for byte, as it was sent.
func (s *surface) find(method, path string) *row {
	if len(path) > longestPath {
		return nil
	}
	for _, each := range s.rows {
		if each.matches(path) && slices.Contains(each.methods, method) {
			if readsOneWay(path) {
				return each
			}
			return nil
		}
	}
	return nil
}

func (r *row) matches(path string) bool {
	if r.pattern == nil {
		return path == r.literal
	}
	return strings.HasPrefix(path, r.literal) && r.pattern.MatchString(path)
}
