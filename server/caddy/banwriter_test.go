package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// countryTest is MaxMind's own test data (MaxMind-DB, Apache 2.0 or MIT).
const countryTest = "testdata/GeoLite2-Country-Test.mmdb"

func builtAt(t *testing.T) time.Time {
	t.Helper()
	database, err := banSources{database: countryTest}.openDatabase(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return database.Metadata.BuildTime()
}

func newTestWriter(t *testing.T, sources banSources, now time.Time) banWriter {
	t.Helper()
	root := t.TempDir()
	writer := banWriter{sources, filepath.Join(root, "lists"), filepath.Join(root, "reports"), now}
	for _, folder := range []string{writer.folder, writer.reports} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return writer
}

func (w banWriter) mustWrite(t *testing.T) {
	t.Helper()
	if err := w.write(); err != nil {
		t.Fatal(err)
	}
}

// reported returns the first line of a report without its time.
func (w banWriter) reported(t *testing.T, list string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(w.reports, list))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	words := strings.SplitN(line, " ", 4)
	return words[0] + " " + words[1] + " " + words[3]
}

func (w banWriter) bans(t *testing.T, list string, addresses ...string) string {
	t.Helper()
	table, err := readTable(filepath.Join(w.folder, list))
	if err != nil {
		table = &banTable{}
	}
	var banned []string
	for _, address := range addresses {
		if table.has(netip.MustParseAddr(address)) {
			banned = append(banned, address)
		}
	}
	return strings.Join(banned, " ")
}

// From the test data: Bhutan (registered in Romania), China, Britain, Japan, and two unknown addresses.
var somewhere = []string{"67.43.156.1", "111.235.160.1", "81.2.69.142", "2001:218::1", "9.9.9.9", "2001:db8::1"}

func TestCountries(t *testing.T) {
	now := builtAt(t).Add(24 * time.Hour)
	for _, row := range []struct {
		countries []string
		only      bool
		banned    string
	}{
		{[]string{"CN"}, false, "111.235.160.1"},
		{[]string{"CN", "JP"}, false, "111.235.160.1 2001:218::1"},
		{[]string{"RO"}, false, ""}, // a network's location counts, not its registration
		{[]string{"BT"}, false, "67.43.156.1"},
		{[]string{"GB"}, true, "67.43.156.1 111.235.160.1 2001:218::1"}, // and no address of unknown location
		{[]string{"AQ"}, false, ""},
	} {
		writer := newTestWriter(t, banSources{countries: row.countries, only: row.only, database: countryTest, databaseDays: 45}, now)
		writer.mustWrite(t)
		if banned := writer.bans(t, listOfCountries, somewhere...); banned != row.banned {
			t.Errorf("%v: %q, not %q", row, banned, row.banned)
		}
		if writer.sources.bansCountry("") {
			t.Errorf("%v: a network in no known country is banned", row)
		}
		if said := writer.reported(t, listOfCountries); !strings.HasPrefix(said, "good ") || !strings.Contains(said, countryTest) {
			t.Errorf("%v: %s", row, said)
		}
	}
}

// A fault of the database is reported and leaves the previous list in force, but without what the owner no longer bans.
func TestADatabaseThatCannotBeUsedChangesNothing(t *testing.T) {
	whole, err := os.ReadFile(countryTest)
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(whole)
	for place := 0; place < 3_000; place++ {
		damaged[place] = 0xff
	}
	built := builtAt(t)
	for said, change := range map[string]func(path string, writer *banWriter) error{
		"is not on the server":                     func(path string, _ *banWriter) error { return os.Remove(path) },
		"is damaged, or is not a country":          func(path string, _ *banWriter) error { return os.WriteFile(path, whole[:9_000], 0o644) },
		"is damaged: ":                             func(path string, _ *banWriter) error { return os.WriteFile(path, damaged, 0o644) },
		"says of no network which country":         nil,
		"is 45 days old, and banLists.country":     func(_ string, writer *banWriter) error { writer.now = built.Add(45 * 24 * time.Hour); return nil },
		"is not a file":                            func(path string, _ *banWriter) error { return os.Remove(path) },
		"is damaged, or is not a country database": func(path string, _ *banWriter) error { return os.WriteFile(path, []byte("1.2.3.0/24\n"), 0o644) },
	} {
		path := filepath.Join(t.TempDir(), "countries.mmdb")
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
		sources := banSources{countries: []string{"CN", "JP"}, database: path, databaseDays: 45}
		writer := newTestWriter(t, sources, built.Add(time.Hour))
		writer.mustWrite(t)
		switch {
		case change == nil:
			other, err := os.ReadFile("testdata/GeoIP2-Anonymous-IP-Test.mmdb")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, other, 0o644); err != nil {
				t.Fatal(err)
			}
			writer.sources.databaseDays = 0
		default:
			if err := change(path, &writer); err != nil {
				t.Fatal(err)
			}
			if said == "is not a file" {
				if err := os.Mkdir(path, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		writer.mustWrite(t)
		if banned := writer.bans(t, listOfCountries, somewhere...); banned != "111.235.160.1 2001:218::1" {
			t.Errorf("%s: %q", said, banned)
		}
		if found := writer.reported(t, listOfCountries); !strings.HasPrefix(found, "kept ") || !strings.Contains(found, said) {
			t.Errorf("%s: %s", said, found)
		}
		if found := writer.sources.problems(writer.now); len(found) != 1 || !strings.Contains(found[0], said) {
			t.Errorf("%s: %s", said, found)
		}
		writer.sources.countries = []string{"JP"}
		writer.mustWrite(t)
		if banned := writer.bans(t, listOfCountries, somewhere...); banned != "2001:218::1" {
			t.Errorf("%s, without China: %q", said, banned)
		}
		fresh := newTestWriter(t, writer.sources, writer.now)
		fresh.mustWrite(t)
		if found := fresh.reported(t, listOfCountries); !strings.HasPrefix(found, "none 0 ") {
			t.Errorf("%s, for the first time: %s", said, found)
		}
	}
}

func TestAListThatStandsIsNotWrittenAgain(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("203.0.113.0/24\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sources := banSources{countries: []string{"CN"}, database: countryTest, networks: []string{list}}
	writer := newTestWriter(t, sources, time.Now())
	inodes := func() string {
		writer.mustWrite(t)
		var said string
		for _, name := range []string{listOfCountries, listOfNetworks} {
			info, err := os.Stat(filepath.Join(writer.folder, name))
			if err != nil {
				t.Fatal(err)
			}
			said += fmt.Sprint(info.ModTime().UnixNano(), " ")
		}
		return said
	}
	first := inodes()
	if inodes() != first {
		t.Error("written without a reason")
	}
	if err := os.Remove(filepath.Join(writer.folder, listOfCountries)); err != nil {
		t.Fatal(err)
	}
	if inodes() == first {
		t.Error("not written although it was gone")
	}
	writer.sources.database, writer.sources.networks = "", nil
	writer.mustWrite(t)
	if left, _ := listNames(writer.folder); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestNetworksOfTheOwner(t *testing.T) {
	folder := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	drop := put("drop", "# a comment\n; another\n\n203.0.113.0/24 ; SBL1\r\n  2001:db8:7::/48#x\n192.168.0.0/16\n0.0.0.0/0\n::ffff:198.51.100.9\n")
	hand := put("hand", "198.51.100.77\n")
	writer := newTestWriter(t, banSources{networks: []string{drop, hand}}, time.Now())
	writer.mustWrite(t)
	asked := []string{"203.0.113.200", "2001:db8:7:ffff::1", "2001:db8:8::1", "198.51.100.9", "198.51.100.77", "192.168.1.1", "9.9.9.9"}
	all := "203.0.113.200 2001:db8:7:ffff::1 198.51.100.9 198.51.100.77"
	if banned := writer.bans(t, listOfNetworks, asked...); banned != all {
		t.Errorf("%q", banned)
	}
	said := writer.reported(t, listOfNetworks)
	for _, words := range []string{"good 4 ", "line 6, 192.168.0.0/16, is a network at home", "line 7, 0.0.0.0/0, is too wide"} {
		if !strings.Contains(said, words) {
			t.Errorf("%q is not in %q", words, said)
		}
	}

	put("drop", "203.0.113.0/24\n10.0.0.0/33\n")
	put("hand", "198.51.100.78\n")
	writer.mustWrite(t)
	if banned := writer.bans(t, listOfNetworks, append(asked, "198.51.100.78")...); banned !=
		"203.0.113.200 2001:db8:7:ffff::1 198.51.100.9 198.51.100.78" {
		t.Errorf("one damaged, the other not: %q", banned)
	}
	if said := writer.reported(t, listOfNetworks); !strings.HasPrefix(said, "kept 4 ") || !strings.Contains(said, `line 2, "10.0.0.0/33" is not a network`) {
		t.Error(said)
	}

	put("drop", "203.0.113.0/24\n")
	writer.sources.networksDays = 7
	writer.now = time.Now().Add(8 * 24 * time.Hour)
	writer.mustWrite(t)
	if said := writer.reported(t, listOfNetworks); !strings.HasPrefix(said, "kept 4 ") || !strings.Contains(said, "is 8 days old") {
		t.Error(said)
	}
}

// What people save, download and leave behind in place of a list.
func TestFilesThatAreAlmostLists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	const before, now = "198.51.100.1", "203.0.113.9"
	for text, want := range map[string]string{
		"\xef\xbb\xbf203.0.113.0/24\r\n":              "good 1 " + path,
		"203.0.113.9 198.51.100.7 is a comment\n":     "kept 1 " + path + " is damaged: line 1 holds a range, or several networks; write one network a line",
		"# DShield\n203.0.113.0\t203.0.113.255\t24\n": "kept 1 " + path + " is damaged: line 2 holds a range",
		"203.0.113.0 - 203.0.113.255\n":               "kept 1 " + path + " is damaged: line 1 holds a range",
		"203.0.113.0-203.0.113.255\n":                 "kept 1 " + path + ` is damaged: line 1, "203.0.113.0-203.0.113.255" is not a network`,
		"203.0.113.0/24\r198.51.100.0/24\r":           "kept 1 " + path + " is damaged: line 1 holds a range",
		"":                                            "kept 1 " + path + " is empty; fetch it again",
		" \r\n\n":                                     "kept 1 " + path + " is empty; fetch it again",
		"# nobody, for now\n":                         "good 0 " + path + "; " + path + " holds no network",
		"203.0.113.9\t10\n":                           "good 1 " + path, // counts of offences, as in ipsum
	} {
		if err := os.WriteFile(path, []byte(before+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		writer := newTestWriter(t, banSources{networks: []string{path}}, time.Now())
		writer.mustWrite(t)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		writer.mustWrite(t)
		said := writer.reported(t, listOfNetworks)
		if !strings.HasPrefix(said, want) {
			t.Errorf("%q: %s", text, said)
		}
		banned := map[string]string{"good 1": now, "good 0": "", "kept 1": before}[said[:6]]
		if found := writer.bans(t, listOfNetworks, before, now); found != banned {
			t.Errorf("%q: %q is banned", text, found)
		}
	}
}

// A database without a country bans nothing of it, which must not go unnoticed.
func TestACountryThatTheDatabaseDoesNotKnow(t *testing.T) {
	now := builtAt(t).Add(time.Hour)
	writer := newTestWriter(t, banSources{countries: []string{"AQ", "CN"}, database: countryTest}, now)
	writer.mustWrite(t)
	if said := writer.reported(t, listOfCountries); !strings.HasSuffix(said, "; that has no network of AQ") {
		t.Error(said)
	}
	if said := writer.sources.problems(now); len(said) != 1 || said[0] != "note "+countryTest+" has no network of AQ" {
		t.Errorf("%q", said)
	}
}

func TestWhatTheSettingsSay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lists.conf")
	for text, want := range map[string]string{
		"countries CN RU\ndatabase /x.mmdb\ndatabase-days 45\n": "{[CN RU] false /x.mmdb 45 [] 0 }",
		"only-countries DE\nnetworks /a\nnetworks /b\n":         "{[DE] true  0 [/a /b] 0 }",
		"networks-days 3\ncrowdsec http://127.0.0.1:8080\n":     "{[] false  0 [] 3 http://127.0.0.1:8080}",
		"country CN\n":      "",
		"database-days x\n": "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		sources, err := readBanSources(path)
		if (err != nil) != (want == "") || err == nil && fmt.Sprint(sources) != want {
			t.Errorf("%q: %v, %v", text, sources, err)
		}
	}
}

// Runs that are killed leave at most one file behind, however many there are.
func TestWhatAKilledRunHasLeftIsWrittenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "countries")
	for range 3 {
		killed, err := newListWriter(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(killed.add(listEntry{mustNetwork("203.0.113.0/24"), "CN"}), killed.buffer.Flush(), killed.file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	list, err := newListWriter(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.place(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("%v", left)
	}
	if table, err := readTable(path); err != nil || len(table.ranges4) != 0 {
		t.Errorf("%v, %v", table, err)
	}
}

// A list that the edge would not read is not reported as in force.
func TestAListThatTheEdgeDoesNotReadIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 250))
	var text strings.Builder
	for number := range 300_000 {
		fmt.Fprintf(&text, "5.%d.%d.%d\n", number>>16, number>>8&255, number&255)
	}
	write(t, path, text.String())
	writer := newTestWriter(t, banSources{networks: []string{path}}, time.Now())
	writer.mustWrite(t)
	if said := writer.reported(t, listOfNetworks); !strings.HasPrefix(said, "none 0 ") || !strings.Contains(said, "larger than 64 MB") {
		t.Error(clipped(said, 400))
	}
	write(t, path, "203.0.113.0/24\n")
	writer.mustWrite(t)
	if said := writer.reported(t, listOfNetworks); !strings.HasPrefix(said, "good 1 ") {
		t.Error(clipped(said, 400))
	}
	if files, _ := os.ReadDir(writer.folder); len(files) != 1 {
		t.Errorf("%v", files)
	}
}
