package main

import (
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// countriesOf returns a function that looks up an address's country in the database that the owner has configured for bans
// (settings/lists.conf). The database is opened at the first call. The function returns "" if there is no database, or a
// damaged or outdated one.
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
