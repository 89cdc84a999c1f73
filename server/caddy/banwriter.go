package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The names of the lists that are written here, in the folder of lists and in the folder of reports.
const (
	listOfCountries = "countries"
	listOfNetworks  = "networks"
	listOfCrowdsec  = "crowdsec"
)

// The state of a list.
const (
	listGood = "good" // what was asked for is in force
	listKept = "kept" // the previous list is still in force, and something is wrong
	listNone = "none" // nothing is in force, and something is wrong
)

// banWriter writes ban lists and a report on each. A report has a line `STATE COUNT SECONDS SENTENCE`, where SECONDS is the
// Unix time at which the list in force was written, and a line that identifies what it was made from. exposure.sh, guard.sh and
// drift.sh read the first line.
type banWriter struct {
	sources banSources
	folder  string
	reports string
	now     time.Time
}

// write brings the lists of countries and networks up to date with their sources, and removes those that are no longer
// configured.
func (w banWriter) write() error {
	if w.sources.database == "" {
		w.remove(listOfCountries)
	} else if err := w.writeCountries(); err != nil {
		return err
	}
	if len(w.sources.networks) == 0 {
		w.remove(listOfNetworks)
		return nil
	}
	return w.writeNetworks()
}

func (w banWriter) remove(list string) {
	_ = os.Remove(filepath.Join(w.folder, list))
	_ = os.Remove(filepath.Join(w.reports, list))
}

// writeCountries walks the database only if something has changed, because that takes a while.
func (w banWriter) writeCountries() error {
	made := w.madeFrom(w.sources.inWords(), w.sources.database)
	database, err := w.sources.openDatabase(w.now)
	if err != nil {
		return w.keepCountries(err)
	}
	if w.isCurrent(listOfCountries, made) {
		return nil
	}
	list, err := newListWriter(filepath.Join(w.folder, listOfCountries))
	if err != nil {
		return err
	}
	lacking, err := w.sources.countryNetworks(database, list.add)
	if err != nil {
		list.drop()
		return w.keepCountries(err)
	}
	if err := list.place(); err != nil {
		return err
	}
	from := database.Metadata.BuildTime().UTC().Format(time.DateOnly)
	said := fmt.Sprintf("%s, by %s of %s", w.sources.inWords(), w.sources.database, from)
	if len(lacking) > 0 {
		said += "; that " + noNetworkOf(lacking)
	}
	return w.report(listOfCountries, listGood, list.count, made, said)
}

// keepCountries keeps the previous list in force, without what the owner no longer bans.
func (w banWriter) keepCountries(wrong error) error {
	count, err := w.keep(listOfCountries, func(entry listEntry) bool { return w.sources.bansCountry(entry.words) })
	if err != nil {
		return err
	}
	return w.reportWrong(listOfCountries, count, fmt.Sprintf("%s %v", w.sources.database, wrong))
}

// keep reduces a list in force to the wanted entries, and returns how many those are.
func (w banWriter) keep(list string, wanted func(listEntry) bool) (int, error) {
	path := filepath.Join(w.folder, list)
	before, kept := 0, []listEntry{}
	err := readList(path, func(entry listEntry) {
		if before++; wanted(entry) {
			kept = append(kept, entry)
		}
	})
	if err != nil || len(kept) == before {
		return len(kept), nil // an unreadable list is not in force after the next start, and there is nothing better
	}
	return len(kept), w.put(list, kept)
}

// put writes a list, or removes it if it would be empty.
func (w banWriter) put(list string, entries []listEntry) error {
	if len(entries) == 0 {
		_ = os.Remove(filepath.Join(w.folder, list))
		return nil
	}
	writer, err := newListWriter(filepath.Join(w.folder, list))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := writer.add(entry); err != nil {
			writer.drop()
			return err
		}
	}
	return writer.place()
}

// writeNetworks handles each file separately: if one is faulty, its previous entries stay in force.
func (w banWriter) writeNetworks() error {
	made := w.madeFrom(listOfNetworks, w.sources.networks...)
	if w.sources.networksDays == 0 && w.isCurrent(listOfNetworks, made) {
		return nil
	}
	before := map[string][]listEntry{}
	_ = readList(filepath.Join(w.folder, listOfNetworks), func(entry listEntry) {
		before[entry.words] = append(before[entry.words], entry)
	})
	var entries []listEntry
	var wrong, left []string
	for _, path := range w.sources.networks {
		found, not, err := w.sources.readNetworks(path, w.now)
		if err != nil {
			wrong, found = append(wrong, fmt.Sprintf("%s %v", path, err)), before[path]
		}
		if remark := remarkOn(path, found, not); err == nil && remark != "" {
			left = append(left, remark)
		}
		entries = append(entries, found...)
	}
	if len(entries) > mostNetworks {
		entries = slices.Concat(slices.Collect(maps.Values(before))...)
		wrong = append(wrong, fmt.Sprintf("the lists hold more than %d networks together", mostNetworks))
	}
	err := w.put(listOfNetworks, entries)
	if errors.Is(err, errLargeList) {
		entries = slices.Concat(slices.Collect(maps.Values(before))...)
		wrong = append(wrong, fmt.Sprintf("the list %v", err))
		err = w.put(listOfNetworks, entries)
	}
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return w.reportWrong(listOfNetworks, len(entries), strings.Join(wrong, "; "))
	}
	said := strings.Join(append([]string{strings.Join(w.sources.networks, ", ")}, left...), "; ")
	return w.report(listOfNetworks, listGood, len(entries), made, said)
}

// noNetworkOf names the countries for which a database has no network.
func noNetworkOf(countries []string) string {
	return "has no network of " + strings.Join(countries, ", ")
}

// remarkOn returns a remark about a list that is in order, or "".
func remarkOn(path string, found []listEntry, left []string) string {
	switch {
	case len(left) > 0:
		return leftOut(path, left)
	case len(found) == 0:
		return path + " holds no network"
	}
	return ""
}

// leftOut names the first few entries of a source that no list may ban.
func leftOut(source string, entries []string) string {
	const most = 3
	said := strings.Join(entries[:min(len(entries), most)], "; ")
	if more := len(entries) - most; more > 0 {
		said += fmt.Sprintf("; and %d more", more)
	}
	return fmt.Sprintf("left out of %s: %s", source, said)
}

// madeFrom identifies the state of the sources.
func (w banWriter) madeFrom(words string, paths ...string) string {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s\n", words)
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(hash, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
	}
	return strconv.FormatUint(hash.Sum64(), 16)
}

// isCurrent reports whether the list in force was made from the same sources.
func (w banWriter) isCurrent(list, made string) bool {
	said, err := os.ReadFile(filepath.Join(w.reports, list))
	lines := strings.Split(string(said), "\n")
	if err != nil || len(lines) < 2 || !strings.HasPrefix(lines[0], listGood+" ") || lines[1] != made {
		return false
	}
	_, err = os.Stat(filepath.Join(w.folder, list))
	return err == nil || strings.HasPrefix(lines[0], listGood+" 0 ")
}

// reportWrong reports what is wrong, and whether a list is in force all the same. The time is that of the list.
func (w banWriter) reportWrong(list string, count int, sentence string) error {
	state, written := listNone, w.now
	if info, err := os.Stat(filepath.Join(w.folder, list)); err == nil && count > 0 {
		state, written = listKept, info.ModTime()
	}
	return w.putReport(list, fmt.Sprintf("%s %d %d %s\n\n", state, count, written.Unix(), sentence))
}

func (w banWriter) report(list, state string, count int, made, sentence string) error {
	return w.putReport(list, fmt.Sprintf("%s %d %d %s\n%s\n", state, count, w.now.Unix(), sentence, made))
}

func (w banWriter) putReport(list, text string) error {
	path := filepath.Join(w.reports, list)
	if said, err := os.ReadFile(path); err == nil && string(said) == text {
		return nil
	}
	temp := filepath.Join(w.reports, "."+list)
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// problems returns what is wrong with each source right now, prefixed with the name of its list; mere remarks have the prefix
// "note".
func (s banSources) problems(now time.Time) []string {
	var said []string
	if s.database != "" {
		var lacking []string
		database, err := s.openDatabase(now)
		if err == nil {
			lacking, err = s.countryNetworks(database, func(listEntry) error { return nil })
		}
		if err != nil {
			said = append(said, fmt.Sprintf("%s %s %v", listOfCountries, s.database, err))
		} else if len(lacking) > 0 {
			said = append(said, fmt.Sprintf("note %s %s", s.database, noNetworkOf(lacking)))
		}
	}
	for _, path := range s.networks {
		found, left, err := s.readNetworks(path, now)
		if err != nil {
			said = append(said, fmt.Sprintf("%s %s %v", listOfNetworks, path, err))
		} else if remark := remarkOn(path, found, left); remark != "" {
			said = append(said, "note "+remark)
		}
	}
	return said
}
