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

// banSources is what the owner bans by lists, as written in settings/lists.conf (by components/config/lists.py):
//
//	countries CODE...           these are banned; or
//	only-countries CODE...      all others are banned
//	database FILE               in MaxMind's format (.mmdb); database-days DAYS is how old it may be
//	networks FILE               one line per file; networks-days DAYS is how old they may be, 0 for any age
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

// bansCountry reports whether a country is banned. An unknown country never is.
func (s banSources) bansCountry(code string) bool {
	return code != "" && slices.Contains(s.countries, code) != s.only
}

// inWords describes which countries are banned.
func (s banSources) inWords() string {
	if s.only {
		return "every country but " + strings.Join(s.countries, ", ")
	}
	return strings.Join(s.countries, ", ")
}

// country is a database record's location of a network: in the form of MaxMind and DB-IP, or as a single word, as others write
// it.
type country struct {
	Country any    `maxminddb:"country"`
	Code    string `maxminddb:"country_code"`
}

// countryCode matches a code of ISO 3166.
var countryCode = regexp.MustCompile(`^[A-Z]{2}$`)

// noCountries are the codes that databases use for networks in several countries, or in an unknown one.
var noCountries = []string{"AP", "EU", "XX", "ZZ"}

// code returns the country's code, or "" if the record names no country.
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

// openDatabase opens the country database. It fails if the database is too old, or is damaged as far as that shows without
// reading all of it.
func (s banSources) openDatabase(now time.Time) (*maxminddb.Reader, error) {
	content, _, err := readSource(s.database)
	if err != nil {
		return nil, err
	}
	reader, err := maxminddb.OpenBytes(content)
	if err != nil {
		return nil, errors.New("is damaged, or is not a country database in MaxMind's format (.mmdb)")
	}
	if !hasAnEnd(content, reader.Metadata) {
		return nil, errors.New("is damaged: there is no end to its networks")
	}
	return reader, tooOld(reader.Metadata.BuildTime(), s.databaseDays, "countryDays", now)
}

// tooOld returns an error if something made at this time is older than this many days (0: no limit).
func tooOld(made time.Time, days int, setting string, now time.Time) error {
	if age := int(now.Sub(made).Hours() / 24); days > 0 && age >= days {
		return fmt.Errorf("is %d days old, and banLists.%s allows %d; fetch a new one", age, setting, days)
	}
	return nil
}

// countryNetworks passes on each network of a banned country, and returns the countries in the settings for which the database
// has no network.
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

// plain returns the network, with a mapped IPv4 address as plain IPv4.
func plain(network netip.Prefix) netip.Prefix {
	if network.Addr().Is4In6() && network.Bits() >= 96 {
		return netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	return network
}

// readNetworks reads one of the owner's lists: one network or address per line; what follows a blank, `#` or `;` is a comment.
// `left` describes the entries that no list may ban. A line with no network, or with several, makes the whole list
// untrustworthy, and so does an empty file, which a failed download leaves behind.
func (s banSources) readNetworks(path string, now time.Time) (entries []listEntry, left []string, err error) {
	content, info, err := readSource(path)
	if err != nil {
		return nil, nil, err
	}
	if err := tooOld(info.ModTime(), s.networksDays, "networkDays", now); err != nil {
		return nil, nil, err
	}
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, nil, errors.New("is empty; fetch it again, or write a comment into it if it should ban nobody")
	}
	// The byte order mark that Windows editors write.
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

// isNoComment reports whether the text after a network is another network, or leads on to one.
func isNoComment(word string) bool {
	_, err := readNetwork(word)
	return err == nil || word == "-"
}
