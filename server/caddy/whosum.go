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

// summary is what the logs say of links and devices, added up, so that it stays when they rotate away. No visitor's address is
// in it, and no key or slug. It is a file of root's alone.
type summary struct {
	// Since is when the key of the pseudonyms was made, in seconds since 1970; another key makes another summary.
	Since int64 `json:"since"`
	// Read is how far each log has been read.
	Read    map[string]place   `json:"read"`
	Links   map[string]*opened `json:"links"`
	Devices map[string]sighted `json:"devices"`
	// Recent are visits that still go on, as hashes of link, network and what was done, with the moment of the last.
	Recent map[string]int64 `json:"recent"`

	names     *pseudonyms
	countryOf func(netip.Addr) string
	news      []string // links that were opened for the first time
}

// opened is what became of one link; moments are seconds since 1970, and 0 stands for never.
type opened struct {
	Opens     int   `json:"opens"`
	Downloads int   `json:"downloads"`
	Uploads   int   `json:"uploads"`
	First     int64 `json:"first"` // opened
	Last      int64 `json:"last"`  // used in any way
	// From has the opens by country, where a database of them is there.
	From map[string]int `json:"from,omitempty"`
}

// sighted is when a device was last seen, and where.
type sighted struct {
	Last    int64  `json:"last"`
	Address string `json:"address"`
}

// place is a file, told by its first line, which it keeps when it is renamed and compressed, and how many of its bytes were read.
type place struct {
	Head   string `json:"head"`
	Offset int64  `json:"offset"`
}

const (
	// visitSpan is how long a visit rests before the next look by the same network counts as another one.
	visitSpan = 30 * time.Minute
	// mostLinks are remembered; beyond that, the tenth goes that nobody has used for longest.
	mostLinks = 2000
	// mostRecent visits are told apart; beyond that, those that rest for longest count anew.
	mostRecent = 20000
	// mostOfALog is more than a log grows to, and mostOfALine more than the edge writes in one.
	mostOfALog  = 64 << 20
	mostOfALine = 64 << 10
	// mostOldLogs is more than the edge keeps (logfiles.go).
	mostOldLogs = 20
	// mostOfASummary is more than 2,000 links, 1,000 devices and 20,000 visits take.
	mostOfASummary = 8 << 20
)

// readSummary returns an empty one where there is none, or one of another key, or none that can be read.
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

// write puts the summary in its place whole or not at all.
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

// add reads what the logs have got since the last time.
func (s *summary) add(folder string) error {
	var problems []error
	for _, name := range []string{"access", "devices"} {
		reached, err := readOn(folder, name, s.Read[name], s.take)
		s.Read[name] = reached
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// take counts what a line says, of a link or of a device. Text of clients is in quotes whose own are escaped, so none of it can be
// taken for a field.
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

// isPseudonym tells whether a text is one, and nothing that whoever writes the edge's log would have root's terminal do.
func isPseudonym(text string) bool {
	_, err := hex.DecodeString(text)
	return err == nil && len(text) == 16
}

// countryIn returns where a network is; nothing where nobody knows.
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

// goesOn tells whether a visit is one that was noted a short time ago, and notes it.
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

// forgetVisits forgets those that have ended, and of too many the older half.
func (s *summary) forgetVisits(moment time.Time) {
	ended := moment.Add(-visitSpan).Unix()
	maps.DeleteFunc(s.Recent, func(_ string, last int64) bool { return last <= ended })
	if len(s.Recent) < mostRecent {
		return
	}
	middle := slices.Sorted(maps.Values(s.Recent))[len(s.Recent)/2]
	maps.DeleteFunc(s.Recent, func(_ string, last int64) bool { return last <= middle })
}

// makeRoom forgets a tenth of too many links.
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

// forget drops links that nobody has used since a moment, and devices that are not among these.
func (s *summary) forget(before time.Time, devices map[string]string) {
	maps.DeleteFunc(s.Links, func(_ string, row *opened) bool { return row.Last < before.Unix() })
	maps.DeleteFunc(s.Devices, func(name string, _ sighted) bool { return devices[name] == "" })
	s.forgetVisits(time.Now())
}

// textIn returns the text of a field of a line of JSON, as it stands there; none of ours holds an escape.
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

// readOn hands over each whole line of a log that came after a place, of old and compressed files as well, and returns how far
// it got. Where the file of the place has been rotated away, all that is there is newer. A file that cannot be read to its end
// is told, and what comes after it is read all the same.
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

// openLogs opens the files of a log, the oldest first: access-2026-11-26T15-47-24.123-size.log.gz, then access.log. That is
// opened before the others are looked for: when it is renamed meanwhile, it is there twice, and never missing.
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
		// While it is being compressed it is there in both forms, and the plain one is whole.
		file, err := openPlain(filepath.Join(folder, plain))
		if errors.Is(err, os.ErrNotExist) {
			file, err = openPlain(filepath.Join(folder, plain+".gz"))
		}
		switch {
		case err != nil: // the edge has removed it
		case current != nil && isSame(file, current):
			err = file.Close()
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

// openPlain opens a plain file, and nothing else that the edge's own user may have put in its place.
func openPlain(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(file.Close(), err, fmt.Errorf("%s is no plain file", path))
	}
	return file, nil
}

// readPlain returns what a file holds, up to so many bytes.
func readPlain(path string, most int64) ([]byte, error) {
	file, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, most))
}

// readLines hands over each whole line that begins after so many bytes; without `take` it reads the first line alone.
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
		case errors.Is(err, io.EOF): // what is there of a line is still being written
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
