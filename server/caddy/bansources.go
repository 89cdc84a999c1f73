package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// banSources is what the owner has banned by lists, as settings/lists.conf says it (components/config/lists.py writes it):
//
//	countries CODE...           these; or
//	only-countries CODE...      every other one
//	database FILE               in the form of MaxMind's (.mmdb); database-days DAYS is how old it may be
//	networks FILE               once for each; networks-days DAYS is how old they may be, 0 for as old as they like
//	crowdsec ADDRESS            of its local API
type banSources struct {
	countries    []string
	only         bool
	database     string
	databaseDays int
	networks     []string
	networksDays int
	crowdsec     string
}

func readBanSources(path string) (banSources, error) {
	var sources banSources
	content, err := os.ReadFile(path)
	if err != nil {
		return sources, err
	}
	for line := range strings.Lines(string(content)) {
		word, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		var err error
		switch word {
		case "countries", "only-countries":
			sources.countries, sources.only = strings.Fields(value), word == "only-countries"
		case "database":
			sources.database = value
		case "database-days":
			sources.databaseDays, err = strconv.Atoi(value)
		case "networks":
			sources.networks = append(sources.networks, value)
		case "networks-days":
			sources.networksDays, err = strconv.Atoi(value)
		case "crowdsec":
			sources.crowdsec = value
		default:
			err = errors.New("is not understood")
		}
		if err != nil {
			return sources, fmt.Errorf("%s: the line %q %w", path, line, err)
		}
	}
	return sources, nil
}

// bansCountry tells whether a country is turned away. One that is not known never is.
func (s banSources) bansCountry(code string) bool {
	return code != "" && slices.Contains(s.countries, code) != s.only
}

// inWords says which countries are turned away.
func (s banSources) inWords() string {
	if s.only {
		return "every country but " + strings.Join(s.countries, ", ")
	}
	return strings.Join(s.countries, ", ")
}

// country is where a record of a database says that a network is: as MaxMind and DB-IP write it, or in one word, as others do.
type country struct {
	Country any    `maxminddb:"country"`
	Code    string `maxminddb:"country_code"`
}

// countryCode is the form of ISO 3166's codes.
var countryCode = regexp.MustCompile(`^[A-Z]{2}$`)

// noCountries are what databases write of networks in more than one country, or in none that they know.
var noCountries = []string{"AP", "EU", "XX", "ZZ"}

// code returns a country's code; nothing where the record names no country.
func (c country) code() string {
	code := c.written()
	if !countryCode.MatchString(code) || slices.Contains(noCountries, code) {
		return ""
	}
	return code
}

func (c country) written() string {
	if fields, ok := c.Country.(map[string]any); ok {
		code, _ := fields["iso_code"].(string)
		return code
	}
	if code, ok := c.Country.(string); ok && c.Code == "" {
		return code
	}
	return c.Code
}

// openDatabase returns a database of countries that is whole as far as can be told without reading all of it, and no older than
// it may be.
func (s banSources) openDatabase(now time.Time) (*maxminddb.Reader, error) {
	content, _, err := readSource(s.database)
	if err != nil {
		return nil, err
	}
	reader, err := maxminddb.OpenBytes(content)
	if err != nil {
		return nil, errors.New("is no database of countries in MaxMind's form (.mmdb), or damaged")
	}
	if !hasAnEnd(content, reader.Metadata) {
		return nil, errors.New("is damaged: there is no end to its networks")
	}
	return reader, tooOld(reader.Metadata.BuildTime(), s.databaseDays, "countryDays", now)
}

// tooOld says so of what was made at a time, where it may be so many days old (0: as old as it likes).
func tooOld(made time.Time, days int, setting string, now time.Time) error {
	if age := int(now.Sub(made).Hours() / 24); days > 0 && age >= days {
		return fmt.Errorf("is %d days old, and banLists.%s allows %d; fetch a new one", age, setting, days)
	}
	return nil
}

// countryNetworks hands over each network of a country that is turned away, and returns which countries of the settings the
// database has no network of.
func (s banSources) countryNetworks(reader *maxminddb.Reader, take func(listEntry) error) (lacking []string, err error) {
	damaged := errors.New("is damaged: its networks cannot be read")
	defer func() {
		if recover() != nil {
			err = damaged
		}
	}()
	known, countries := map[uintptr]string{}, map[string]bool{}
	for result := range reader.Networks() {
		if result.Err() != nil {
			return nil, damaged
		}
		code, seen := known[result.Offset()]
		if !seen {
			var record country
			if result.Decode(&record) != nil {
				return nil, damaged
			}
			code = record.code()
			if known[result.Offset()] = code; code != "" {
				countries[code] = true
			}
		}
		if !s.bansCountry(code) {
			continue
		}
		for _, network := range bannedOf(plain(result.Prefix())) {
			if err := take(listEntry{network, code}); err != nil {
				return nil, err
			}
		}
	}
	if len(countries) == 0 {
		return nil, errors.New("says of no network which country it is in; name a database of countries")
	}
	for _, code := range s.countries {
		if !countries[code] {
			lacking = append(lacking, code)
		}
	}
	return lacking, nil
}

// plain is a network with a mapped IPv4 address as that.
func plain(network netip.Prefix) netip.Prefix {
	if network.Addr().Is4In6() && network.Bits() >= 96 {
		return netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	return network
}

// readNetworks reads a list of the owner's: a network or an address a line; what follows a blank, a `#` or a `;` is a comment. It
// returns what no list may ban in words. A line that is no network, or several, makes the whole list one that cannot be trusted,
// and so does a file with nothing in it, as a download that failed leaves it.
func (s banSources) readNetworks(path string, now time.Time) (entries []listEntry, left []string, err error) {
	content, info, err := readSource(path)
	if err != nil {
		return nil, nil, err
	}
	if err := tooOld(info.ModTime(), s.networksDays, "networkDays", now); err != nil {
		return nil, nil, err
	}
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, nil, errors.New("is empty; fetch it anew, or write a comment into it where nobody is to be banned by it")
	}
	// What editors of Windows begin a file with.
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	lines, number := bufio.NewScanner(bytes.NewReader(content)), 0
	for lines.Scan() {
		number++
		text, _, _ := strings.Cut(strings.ReplaceAll(lines.Text(), ";", "#"), "#")
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		network, err := readNetwork(words[0])
		if err != nil {
			return nil, nil, fmt.Errorf("is damaged: line %d, %w", number, err)
		}
		if len(words) > 1 && isNoComment(words[1]) {
			return nil, nil, fmt.Errorf("is damaged: line %d holds a range, or several networks; write one network a line", number)
		}
		if why := whyNotBanned(network); why != "" {
			left = append(left, fmt.Sprintf("line %d, %s, %s", number, network, why))
			continue
		}
		if entries = append(entries, listEntry{network, path}); len(entries) > mostNetworks {
			return nil, nil, fmt.Errorf("holds more than %d networks", mostNetworks)
		}
	}
	if lines.Err() != nil {
		return nil, nil, fmt.Errorf("is damaged: line %d is too long", number+1)
	}
	return entries, left, nil
}

// isNoComment tells whether what follows a network is another one, or goes on to one.
func isNoComment(word string) bool {
	_, err := readNetwork(word)
	return err == nil || word == "-"
}
