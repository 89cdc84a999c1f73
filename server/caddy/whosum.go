package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap/zapcore"
)

// summary is what the logs say about links and devices, added up so that it survives their rotation. It holds no visitor's
// address, no key and no slug. Its file is readable by root alone.
type summary struct {
	// Since is when the key of the pseudonyms was made, as Unix time in seconds; another key begins a new summary.
	Since int64 `json:"since"`
	// Read is how far each log has been read.
	Read    map[string]place   `json:"read"`
	Links   map[string]*opened `json:"links"`
	Devices map[string]sighted `json:"devices"`
	// Recent are visits that are still going on, as hashes of link, network and deed, with the time of the last request.
	Recent map[string]int64 `json:"recent"`

	names     *pseudonyms
	countryOf func(netip.Addr) string
	news      []string // links that were opened for the first time
}

// opened is what was done with one link. Times are Unix times in seconds; 0 means never.
type opened struct {
	Opens     int   `json:"opens"`
	Downloads int   `json:"downloads"`
	Uploads   int   `json:"uploads"`
	First     int64 `json:"first"` // when first opened
	Last      int64 `json:"last"`  // when last used in any way
	// From counts the opens by country, if there is a database of countries.
	From map[string]int `json:"from,omitempty"`
}

// sighted is when a device was last seen, and at which address.
type sighted struct {
	Last    int64  `json:"last"`
	Address string `json:"address"`
}

// place is a file and how many of its bytes were read. The file is identified by its first line, which stays the same when the
// file is renamed and compressed.
type place struct {
	Head   string `json:"head"`
	Offset int64  `json:"offset"`
}

const (
	// visitSpan is how long a visit must be idle before the next request of the same network counts as a new one.
	visitSpan = 30 * time.Minute
	// mostLinks is how many links are remembered; beyond that, the tenth that has been unused for longest is forgotten.
	mostLinks = 2000
	// mostRecent is how many visits are kept apart; beyond that, those that have been idle for longest are forgotten and would
	// count again.
	mostRecent = 20000
	// mostOfALog is larger than a log grows, and mostOfALine is longer than any line of the edge.
	mostOfALog  = 64 << 20
	mostOfALine = 64 << 10
	// mostOldLogs is more than the edge keeps (logfiles.go).
	mostOldLogs = 20
	// mostOfASummary is more than 2,000 links, 1,000 devices and 20,000 visits take.
	mostOfASummary = 8 << 20
)

// readSummary returns an empty summary if there is none, or it belongs to another key, or it cannot be read.
func readSummary(file string, names *pseudonyms) *summary {
	found := &summary{}
	if text, err := readPlain(file, mostOfASummary); err != nil || json.Unmarshal(text, found) != nil || found.Since != names.since.Unix() {
		found = &summary{Since: names.since.Unix()}
	}
	found.names = names
	if found.Read == nil {
		found.Read = map[string]place{}
	}
	if found.Links == nil {
		found.Links = map[string]*opened{}
	}
	if found.Devices == nil {
		found.Devices = map[string]sighted{}
	}
	if found.Recent == nil {
		found.Recent = map[string]int64{}
	}
	maps.DeleteFunc(found.Links, func(_ string, row *opened) bool { return row == nil })
	return found
}

// write replaces the summary's file atomically.
func (s *summary) write(file string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	temporary, err := os.OpenFile(besides(file), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(text)
	if err := errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), file)
}

// add reads what has been added to the logs since the last time.
func (s *summary) add(folder string) error {
	var problems []error
	for _, name := range []string{"access", "devices"} {
		reached, err := readOn(folder, name, s.Read[name], s.take)
		s.Read[name] = reached
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// take counts what a line says about a link or a device. Quotes within a client's text are escaped, so none of it can be taken
// for a field.
func (s *summary) take(line []byte) {
	s.takeDeed(line)
	s.takeDevice(line)
}

func (s *summary) takeDeed(line []byte) {
	did, pseudonym, found := strings.Cut(textIn(line, "deed"), " ")
	if !found {
		return
	}
	moment, known := momentOf(line)
	if !slices.Contains([]string{deedOpen, deedDownload, deedUpload}, did) || !known || !isPseudonym(pseudonym) || moment.Before(s.names.since) {
		return
	}
	visit := did + " " + pseudonym + " " + textIn(line, "network")
	if did == deedDownload {
		visit += " " + pathIn(line)
	}
	again := did != deedUpload && s.goesOn(visit, moment)
	row := s.Links[pseudonym]
	if row == nil {
		s.makeRoom()
		row = &opened{}
		s.Links[pseudonym] = row
	}
	row.Last = max(row.Last, moment.Unix())
	if again {
		return
	}
	switch did {
	case deedOpen:
		row.cameFrom(s.countryIn(textIn(line, "network")))
		if row.Opens++; row.First == 0 {
			row.First = moment.Unix()
			s.news = append(s.news, pseudonym)
		}
	case deedDownload:
		row.Downloads++
	case deedUpload:
		row.Uploads++
	}
}

// isPseudonym reports whether a text is a pseudonym. Anything else might, through the edge's log, get text of its choice to
// root's terminal.
func isPseudonym(text string) bool {
	_, err := hex.DecodeString(text)
	return err == nil && len(text) == 16
}

// countryIn returns a network's country, or "" if it is unknown.
func (s *summary) countryIn(network string) string {
	prefix, err := netip.ParsePrefix(network)
	if err != nil || s.countryOf == nil {
		return ""
	}
	return s.countryOf(prefix.Addr())
}

func (o *opened) cameFrom(country string) {
	if country == "" {
		return
	}
	if o.From == nil {
		o.From = map[string]int{}
	}
	o.From[country]++
}

// goesOn reports whether a visit was noted a short time ago, and notes it.
func (s *summary) goesOn(visit string, moment time.Time) bool {
	hash := sha256.Sum256(append([]byte(visit), s.names.key...))
	name := hex.EncodeToString(hash[:8])
	last, found := s.Recent[name]
	if !found && len(s.Recent) >= mostRecent {
		s.forgetVisits(moment)
	}
	s.Recent[name] = max(last, moment.Unix())
	return found && moment.Unix()-last < int64(visitSpan.Seconds())
}

// forgetVisits forgets visits that have ended and, if there are too many, the older half.
func (s *summary) forgetVisits(moment time.Time) {
	ended := moment.Add(-visitSpan).Unix()
	maps.DeleteFunc(s.Recent, func(_ string, last int64) bool { return last <= ended })
	if len(s.Recent) < mostRecent {
		return
	}
	middle := slices.Sorted(maps.Values(s.Recent))[len(s.Recent)/2]
	maps.DeleteFunc(s.Recent, func(_ string, last int64) bool { return last <= middle })
}

// makeRoom forgets a tenth of the links if there are too many.
func (s *summary) makeRoom() {
	if len(s.Links) < mostLinks {
		return
	}
	var used []int64
	for _, row := range s.Links {
		used = append(used, row.Last)
	}
	slices.Sort(used)
	maps.DeleteFunc(s.Links, func(_ string, row *opened) bool { return row.Last <= used[len(used)/10] })
}

// takeDevice notes which device or frame a line is about.
func (s *summary) takeDevice(line []byte) {
	device := textIn(line, "device")
	if device == "" {
		return
	}
	moment, known := momentOf(line)
	if !known {
		return
	}
	if s.Devices[device].Last <= moment.Unix() {
		s.Devices[device] = sighted{moment.Unix(), textIn(line, "remote_ip")}
	}
}

// forget drops links unused since a given time, and devices that are not in the list.
func (s *summary) forget(before time.Time, devices map[string]string) {
	maps.DeleteFunc(s.Links, func(_ string, row *opened) bool { return row.Last < before.Unix() })
	maps.DeleteFunc(s.Devices, func(name string, _ sighted) bool { return devices[name] == "" })
	s.forgetVisits(time.Now())
}

// textIn returns the text of a field of a JSON line as it is written; none of our values contains an escape.
func textIn(line []byte, field string) string {
	_, rest, found := bytes.Cut(line, []byte(`"`+field+`":"`))
	text, _, ended := bytes.Cut(rest, []byte(`"`))
	if !found || !ended {
		return ""
	}
	return string(text)
}

// pathIn returns the path of the request's target.
func pathIn(line []byte) string {
	path, _, _ := strings.Cut(textIn(line, "uri"), "?")
	return path
}

func momentOf(line []byte) (time.Time, bool) {
	moment, err := time.Parse("2006-01-02T15:04:05.000Z0700", textIn(line, "ts"))
	return moment, err == nil
}

var _ zapcore.TimeEncoder = zapcore.ISO8601TimeEncoder // writes what momentOf reads

// readOn passes on each complete line of a log after a place, from old and compressed files as well, and returns how far it
// got. If the place's file has been rotated away, all existing lines are newer. A file that cannot be read to its end is
// reported, and reading continues with the next.
func readOn(folder, name string, from place, take func([]byte)) (place, error) {
	files, err := openLogs(folder, name)
	if err != nil {
		return from, err
	}
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	begin, skip := 0, int64(0)
	for number := len(files) - 1; number >= 0 && from.Head != ""; number-- {
		if reached, err := readLines(files[number], 0, nil); err == nil && reached.Head == from.Head {
			begin, skip = number, from.Offset
			break
		}
	}
	var problems []error
	for _, file := range files[begin:] {
		reached, err := readLines(file, skip, take)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", file.Name(), err))
		}
		if reached.Head != "" {
			from = reached
		}
		skip = 0
	}
	return from, errors.Join(problems...)
}

// openLogs opens the files of a log, oldest first: access-2026-11-26T15-47-24.123-size.log.gz, then access.log. It opens
// access.log before it looks for the others: if that is renamed meanwhile, it appears twice, and is never missing.
func openLogs(folder, name string) (files []*os.File, err error) {
	current, err := openPlain(filepath.Join(folder, name+".log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, errors.Join(err, closeAll(current))
	}
	var old []string
	for _, entry := range entries {
		plain := strings.TrimSuffix(entry.Name(), ".gz")
		if strings.HasPrefix(plain, name+"-") && strings.HasSuffix(plain, ".log") && !slices.Contains(old, plain) {
			old = append(old, plain)
		}
	}
	slices.Sort(old)
	for _, plain := range old[max(0, len(old)-mostOldLogs):] {
		// While a file is being compressed, both forms exist, and the plain one is complete.
		file, err := openPlain(filepath.Join(folder, plain))
		if errors.Is(err, os.ErrNotExist) {
			file, err = openPlain(filepath.Join(folder, plain+".gz"))
		}
		switch {
		case err != nil: // the edge has removed it
		case current != nil && isSame(file, current):
			_ = file.Close() // nothing was written to it
		default:
			files = append(files, file)
		}
	}
	if current != nil {
		files = append(files, current)
	}
	return files, nil
}

func closeAll(file *os.File) error {
	if file == nil {
		return nil
	}
	return file.Close()
}

func isSame(one, other *os.File) bool {
	first, err := one.Stat()
	second, problem := other.Stat()
	return err == nil && problem == nil && os.SameFile(first, second)
}

// openPlain opens a regular file, and nothing else that the edge's user may have put in its place.
func openPlain(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(file.Close(), err, fmt.Errorf("%s is not a plain file", path))
	}
	return file, nil
}

// readPlain returns the content of a file, up to this many bytes.
func readPlain(path string, most int64) ([]byte, error) {
	file, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, most))
}

// readLines passes on each complete line that begins after this many bytes; without `take` it only reads the first line.
func readLines(file *os.File, skip int64, take func([]byte)) (reached place, err error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return reached, err
	}
	var from io.Reader = file
	if strings.HasSuffix(file.Name(), ".gz") {
		plain, err := gzip.NewReader(file)
		if err != nil {
			return reached, err
		}
		from = plain
	}
	lines := bufio.NewReaderSize(io.LimitReader(from, mostOfALog), mostOfALine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF): // an incomplete line is still being written
			return reached, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return reached, errors.New("it has a line that the edge has not written")
		case err != nil:
			return reached, err
		}
		if reached.Head == "" {
			hash := sha256.Sum256(line)
			reached.Head = hex.EncodeToString(hash[:8])
			if take == nil {
				return reached, nil
			}
		}
		if reached.Offset >= skip {
			take(line)
		}
		reached.Offset += int64(len(line))
	}
}
