package main

import (
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// countriesOf returns what tells an address's country, by the database that the owner has named for bans (settings/lists.conf).
// It is read when it is first asked, and says nothing where there is none, or one that is damaged or too old.
func countriesOf(state string, now time.Time) func(netip.Addr) string {
	database := sync.OnceValue(func() *maxminddb.Reader {
		sources, err := readBanSources(filepath.Join(state, "settings", "lists.conf"))
		if err != nil || sources.database == "" {
			return nil
		}
		reader, err := sources.openDatabase(now)
		if err != nil {
			return nil
		}
		return reader
	})
	return func(address netip.Addr) (code string) {
		defer func() {
			if recover() != nil { // a damaged database
				code = ""
			}
		}()
		reader := database()
		if reader == nil {
			return ""
		}
		var found country
		if reader.Lookup(address).Decode(&found) != nil {
			return ""
		}
		return found.code()
	}
}
