package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// A stranger's upload is a form, and Immich must read in it exactly what the edge has read. So the edge accepts only one way of
// writing it: that of the browsers' FormData (html.spec.whatwg.org, "multipart/form-data encoding algorithm"). Whatever two
// parsers could read differently is refused: other parameters, quoted pairs, folded lines, text before or after the form.

// uploadTypes is [uploads] of surface.toml: what an upload's form may hold.
type uploadTypes struct {
	Fields, Media, Sidecars []string
}

// readUploadTypes reads the table.
func readUploadTypes(path string) (uploadTypes, error) {
	var file struct{ Uploads uploadTypes }
	if _, err := toml.DecodeFile(path, &file); err != nil {
		return uploadTypes{}, err
	}
	types := file.Uploads
	if len(types.Fields) == 0 || len(types.Media) == 0 || len(types.Sidecars) == 0 {
		return uploadTypes{}, fmt.Errorf("%s says in [uploads] not what an upload may hold", path)
	}
	return types, nil
}

const (
	// partMedia and partSidecar are Immich's names for the files of the form.
	partMedia   = "assetData"
	partSidecar = "sidecarData"

	// A part's head holds its name, a file name (255 bytes on most systems, each of which takes three as an escape) and its
	// type.
	mostOfPartHead = 4_096

	// A field is a date, a yes or no, or the file's name with some text of the page's around it.
	mostOfField = 2_048

	// The limit for all fields together, with their heads.
	mostBeforeFile = 16 << 10
)

// Visitors read them, so they are sentences.
var (
	errForm = errors.New("This is not an upload as Immich's page sends it, so it is refused.")
	errType = errors.New("Immich takes no files of this kind, so the upload is refused.")
)

var (
	// plainForm matches the type of a form whose boundary needs no quotes.
	plainForm = regexp.MustCompile(`^multipart/form-data; ?boundary=([0-9A-Za-z'+_-]{1,70})$`)

	// plainPart matches the first line of a part's head.
	plainPart = regexp.MustCompile(`^(?i:Content-Disposition): form-data; name="([0-9A-Za-z]{1,64})"(?:; filename="([^"\\/\x00-\x1f\x7f]+)")?$`)

	plainType = regexp.MustCompile(`^(?i:Content-Type): [0-9A-Za-z!#$&^_.+/-]{1,128}$`)
)

// boundaryOf returns the boundary between the parts of a form, or "".
func boundaryOf(contentTypes []string) string {
	if len(contentTypes) != 1 {
		return ""
	}
	if found := plainForm.FindStringSubmatch(contentTypes[0]); found != nil {
		return found[1]
	}
	return ""
}

// form reads an upload's form and passes on what it has parsed, byte for byte. It buffers a few kilobytes. A violation is
// returned as the error of Read, and from then on nothing is passed on.
type form struct {
	source    io.Reader
	delimiter []byte // including the line ending before it
	types     uploadTypes
	fileBegan func()

	store   []byte
	held    []byte // read into the store, and not yet passed on
	ready   int    // of these, parsed
	step    func(*form) (bool, error)
	seen    []string
	inField bool
	field   int
	ended   bool // the source has ended
	whole   bool // the form is complete
	err     error
}

func newForm(source io.Reader, boundary string, types uploadTypes, fileBegan func()) *form {
	return &form{
		source: source, delimiter: []byte("\r\n--" + boundary), types: types, fileBegan: fileBegan,
		step: (*form).start,
	}
}

// Read returns what has been parsed.
func (f *form) Read(into []byte) (int, error) {
	for f.ready == 0 && f.err == nil {
		f.err = f.advance()
	}
	if f.ready == 0 {
		return 0, f.err
	}
	count := copy(into, f.held[:f.ready])
	f.held = f.held[count:]
	f.ready -= count
	return count, nil
}

// prime reads until the file begins, or until there is more before it than any page sends, so that Immich gets nothing of an
// invalid form.
func (f *form) prime() error {
	for f.err == nil && !slices.Contains(f.seen, partMedia) && len(f.held) < mostBeforeFile {
		f.err = f.advance()
	}
	return f.err
}

// advance parses more, or reads more if the buffer is not enough.
func (f *form) advance() error {
	for {
		before := f.ready
		more, err := f.step(f)
		if err != nil || f.ready > before {
			return err
		}
		if more {
			continue
		}
		if f.ended {
			return f.end()
		}
		return f.fill()
	}
}

const formChunk = 32 << 10

// fill reads more after the unparsed part, which is at most a part's head.
func (f *form) fill() error {
	if f.store == nil {
		f.store = make([]byte, mostOfPartHead+formChunk)
	}
	kept := copy(f.store, f.held)
	count, err := f.source.Read(f.store[kept:])
	f.held = f.store[:kept+count]
	switch {
	case err == io.EOF:
		f.ended = true
	case err != nil:
		return err
	}
	return nil
}

// end handles the end of the source.
func (f *form) end() error {
	if f.whole {
		return io.EOF
	}
	return errForm
}

// rest returns what is not parsed yet.
func (f *form) rest() []byte { return f.held[f.ready:] }

// start expects the first part at the beginning of the form. Each step reports whether it made progress.
func (f *form) start() (bool, error) {
	first := append(slices.Clone(f.delimiter[2:]), "\r\n"...)
	if len(f.rest()) < len(first) {
		if !bytes.HasPrefix(first, f.rest()) {
			return false, errForm
		}
		return false, nil
	}
	if !bytes.HasPrefix(f.rest(), first) {
		return false, errForm
	}
	f.ready += len(first)
	f.step = (*form).head
	return true, nil
}

// head expects a complete head of a part.
func (f *form) head() (bool, error) {
	rest := f.rest()
	end := bytes.Index(rest[:min(len(rest), mostOfPartHead)], []byte("\r\n\r\n"))
	if end < 0 {
		if len(rest) >= mostOfPartHead {
			return false, errForm
		}
		return false, nil
	}
	if err := f.takePart(string(rest[:end])); err != nil {
		return false, err
	}
	f.ready += end + 2
	f.step = (*form).blank
	return true, nil
}

// blank requires that the empty line below a head does not begin a delimiter: a parser that looks for the delimiter first would
// take what follows for the next part.
func (f *form) blank() (bool, error) {
	rest := f.rest()
	switch {
	case bytes.HasPrefix(rest, f.delimiter):
		return false, errForm
	case len(rest) < len(f.delimiter) && bytes.HasPrefix(f.delimiter, rest):
		return false, nil
	}
	f.ready += 2
	f.step, f.field = (*form).body, 0
	return true, nil
}

// takePart checks a part's head.
func (f *form) takePart(head string) error {
	first, second, typed := strings.Cut(head, "\r\n")
	found := plainPart.FindStringSubmatch(first)
	if found == nil || typed && !plainType.MatchString(second) {
		return errForm
	}
	name, file := found[1], found[2]
	if slices.Contains(f.seen, name) {
		return errForm
	}
	f.seen = append(f.seen, name)
	switch name {
	case partMedia, partSidecar:
		// One parser would take a file part without a file name for a field, another for a file all the same.
		if file == "" {
			return errForm
		}
		if !endsWith(file, map[string][]string{partMedia: f.types.Media, partSidecar: f.types.Sidecars}[name]) {
			return errType
		}
		f.inField = false
		if name == partMedia {
			f.fileBegan()
		}
	default:
		if file != "" || typed || !slices.Contains(f.types.Fields, name) {
			return errForm
		}
		f.inField = true
	}
	return nil
}

// endsWith reports whether a file name has one of the extensions, with something before it.
func endsWith(name string, endings []string) bool {
	dot := strings.LastIndexByte(name, '.')
	return dot > 0 && slices.Contains(endings, strings.ToLower(name[dot+1:]))
}

// body skips to the delimiter.
func (f *form) body() (bool, error) {
	rest := f.rest()
	end := bytes.Index(rest, f.delimiter)
	found := end >= 0
	if !found {
		// The delimiter may have begun.
		end = max(0, len(rest)-len(f.delimiter)+1)
	}
	if f.inField {
		if f.field += end; f.field > mostOfField {
			return false, errForm
		}
	}
	f.ready += end
	if found {
		f.step = (*form).between
	}
	return found || end > 0, nil
}

// between expects another part, or the end.
func (f *form) between() (bool, error) {
	rest := f.rest()
	if len(rest) < len(f.delimiter)+2 {
		return false, nil
	}
	switch string(rest[len(f.delimiter) : len(f.delimiter)+2]) {
	case "\r\n":
		f.step = (*form).head
	case "--":
		if !slices.Contains(f.seen, partMedia) {
			return false, errForm
		}
		f.step = (*form).after
	default:
		return false, errForm
	}
	f.ready += len(f.delimiter) + 2
	return true, nil
}

// after allows nothing but a final line ending.
func (f *form) after() (bool, error) {
	rest := f.rest()
	if len(rest) > 2 || !strings.HasPrefix("\r\n", string(rest)) {
		return false, errForm
	}
	if !f.ended {
		return false, nil
	}
	if len(rest) == 1 {
		return false, errForm
	}
	f.ready += len(rest)
	f.step, f.whole = (*form).over, true
	return true, nil
}

func (f *form) over() (bool, error) { return false, nil }
