package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lapi is a stand-in for CrowdSec's local API as a bouncer sees it (crowdsec 1.7, pkg/apiserver and pkg/database): 403 for an
// unknown key; everything in force with startup=true; otherwise what was added and ended since this key's last answer; of
// several decisions on the same value only the longest; only `ip` and `range` unless asked otherwise.
type lapi struct {
	mutex     sync.Mutex
	now       time.Time
	decisions []lapiDecision
	lastPull  time.Time
	nulls     bool // older versions send null for an empty list
	status    int
	cut       bool
	asked     []string
}

type lapiDecision struct {
	scope, value, kind, scenario string
	created, until               time.Time
}

const lapiKey = "a-key-of-a-bouncer"

func (l *lapi) decide(scope, value, kind, scenario string, lasts time.Duration) {
	l.decisions = append(l.decisions, lapiDecision{scope, value, kind, scenario, l.now, l.now.Add(lasts)})
}

// expire does what `cscli decisions delete` does.
func (l *lapi) expire(value string) {
	for place := range l.decisions {
		if l.decisions[place].value == value {
			l.decisions[place].until = l.now
		}
	}
}

func (l *lapi) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.asked = append(l.asked, r.URL.RawQuery)
	switch {
	case l.status != 0:
		w.WriteHeader(l.status)
		return
	case r.URL.Path != "/v1/decisions/stream" || r.Method != http.MethodGet:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Header.Get("X-Api-Key") != lapiKey:
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"message":"access forbidden"}`))
		return
	}
	startup := r.URL.Query().Get("startup") == "true"
	scopes := "," + strings.ToLower(r.URL.Query().Get("scopes")) + ","
	var came, ended []map[string]any
	for _, one := range l.decisions {
		if !strings.Contains(scopes, ","+strings.ToLower(one.scope)+",") || l.isShorter(one) {
			continue
		}
		said := map[string]any{"duration": one.until.Sub(l.now).Round(time.Second).String(), "id": 1, "origin": "crowdsec",
			"scenario": one.scenario, "scope": one.scope, "type": one.kind, "value": one.value}
		switch {
		case one.until.After(l.now) && (startup || one.created.After(l.lastPull)):
			came = append(came, said)
		case !one.until.After(l.now) && (startup || one.until.After(l.lastPull.Add(-2*time.Second))):
			ended = append(ended, said)
		}
	}
	if !l.nulls {
		came, ended = append([]map[string]any{}, came...), append([]map[string]any{}, ended...)
	}
	l.lastPull = l.now
	text, _ := json.Marshal(map[string]any{"new": came, "deleted": ended})
	if l.cut {
		text = text[:len(text)/2]
	}
	_, _ = w.Write(text)
}

func (l *lapi) isShorter(one lapiDecision) bool {
	for _, other := range l.decisions {
		if other.scope == one.scope && other.value == one.value && other.kind == one.kind && other.until.After(one.until) {
			return true
		}
	}
	return false
}

func newLapi(t *testing.T) (*lapi, *crowdsecReader) {
	t.Helper()
	api := &lapi{now: time.Now()}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	return api, newCrowdsecReader(newTestWriter(t, banSources{crowdsec: server.URL + "/"}, api.now), lapiKey+"\n")
}

// after asks after this much time, and returns which of the addresses are banned.
func (c *crowdsecReader) after(t *testing.T, api *lapi, later time.Duration) string {
	t.Helper()
	api.mutex.Lock()
	api.now = api.now.Add(later)
	now := api.now
	api.mutex.Unlock()
	if err := c.step(context.Background(), now); err != nil {
		t.Fatal(err)
	}
	return c.writer.bans(t, listOfCrowdsec, "203.0.113.1", "203.0.113.2", "198.51.100.9", "2001:db8:1:ffff::1", "2001:db8:2::1", "192.168.1.7", "9.9.9.9")
}

func TestCrowdsecsDecisionsComeAndGo(t *testing.T) {
	api, reader := newLapi(t)
	api.nulls = true
	if banned := reader.after(t, api, 0); banned != "" || reader.writer.reported(t, listOfCrowdsec) != "good 0 "+reader.address {
		t.Errorf("nothing decided: %q", banned)
	}
	api.nulls = false
	api.decide("Ip", "203.0.113.1", "ban", "crowdsecurity/ssh-bf", 4*time.Hour)
	api.decide("Range", "2001:db8:1::/48", "ban", "crowdsecurity/http-probing", time.Hour)
	api.decide("Range", "198.51.100.0/24", "ban", "manual 'ban' from\n\x1b[31m", 30*time.Second)
	api.decide("Ip", "9.9.9.9", "captcha", "x", time.Hour)
	api.decide("Country", "CN", "ban", "x", time.Hour)
	api.decide("Ip", "192.168.1.7", "ban", "x", time.Hour)
	api.decide("Ip", "not an address", "ban", "x", time.Hour)
	if banned := reader.after(t, api, time.Second); banned != "" { // created at the moment of the last answer: part of the next one
		t.Errorf("a decision of the last moment: %q", banned)
	}
	reader.whole = false
	if banned := reader.after(t, api, time.Second); banned != "203.0.113.1 198.51.100.9 2001:db8:1:ffff::1" {
		t.Errorf("%q", banned)
	}
	said := reader.writer.reported(t, listOfCrowdsec)
	if !strings.HasPrefix(said, "good 3 ") || !strings.Contains(said, "192.168.1.7/32, is a network at home") {
		t.Error(said)
	}
	lines, _ := os.ReadFile(filepath.Join(reader.writer.folder, listOfCrowdsec))
	if !strings.Contains(string(lines), " crowdsecurity/ssh-bf\n") || strings.Contains(string(lines), "\x1b") {
		t.Errorf("%q", lines)
	}

	api.decide("ip", "203.0.113.2", "ban", "x", time.Hour)
	if banned := reader.after(t, api, 10*time.Second); banned != "203.0.113.1 198.51.100.9 2001:db8:1:ffff::1" {
		t.Errorf("decided at the moment of the last answer: %q", banned)
	}
	api.decide("ip", "203.0.113.2", "ban", "x", 2*time.Hour)
	api.decide("ip", "203.0.113.2", "ban", "x", time.Minute) // a shorter decision on the same value is not sent
	api.expire("203.0.113.1")
	for place := range api.decisions { // as long as it takes from one moment to the next
		api.decisions[place].created = api.decisions[place].created.Add(time.Millisecond)
	}
	if banned := reader.after(t, api, 10*time.Second); banned != "203.0.113.2 198.51.100.9 2001:db8:1:ffff::1" {
		t.Errorf("one came, one went: %q", banned)
	}
	if banned := reader.after(t, api, 2*time.Minute); banned != "203.0.113.2 2001:db8:1:ffff::1" {
		t.Errorf("one has ended: %q", banned)
	}
	if first := api.asked[0]; first != "startup=true&scopes=ip,range" || !strings.HasPrefix(api.asked[1], "startup=false") {
		t.Errorf("asked %v", api.asked)
	}
}

// If CrowdSec does not give a proper answer, its decisions hold until they expire, and then everything is asked for again.
func TestCrowdsecThatDoesNotAnswerChangesNothing(t *testing.T) {
	for said, change := range map[string]func(*lapi, *crowdsecReader){
		"refuses the key (403)":     func(_ *lapi, reader *crowdsecReader) { reader.key = "another" },
		"answers 500, so it is not": func(api *lapi, _ *crowdsecReader) { api.status = http.StatusInternalServerError },
		"answers 302, so it is not": func(api *lapi, _ *crowdsecReader) { api.status = http.StatusFound },
		"does not answer whole":     func(api *lapi, _ *crowdsecReader) { api.cut = true },
		"does not answer (conn":     func(_ *lapi, reader *crowdsecReader) { reader.address = "http://127.0.0.1:9" },
	} {
		api, reader := newLapi(t)
		api.decide("Ip", "203.0.113.1", "ban", "x", time.Hour)
		api.decide("Ip", "203.0.113.2", "ban", "x", time.Minute)
		address, key := reader.address, reader.key
		reader.after(t, api, time.Second)
		change(api, reader)
		if banned := reader.after(t, api, 10*time.Second); banned != "203.0.113.1 203.0.113.2" {
			t.Errorf("%s: %q", said, banned)
		}
		if found := reader.writer.reported(t, listOfCrowdsec); !strings.HasPrefix(found, "kept 2 ") || !strings.Contains(found, said) || strings.Contains(found, lapiKey) {
			t.Errorf("%s: %s", said, found)
		}
		if banned := reader.after(t, api, 2*time.Minute); banned != "203.0.113.1" {
			t.Errorf("%s, and one has ended: %q", said, banned)
		}
		// Another run, which has no answer yet, continues with the file.
		again := newCrowdsecReader(reader.writer, reader.key)
		again.address = reader.address
		if banned := again.after(t, api, time.Minute); banned != "203.0.113.1" {
			t.Errorf("%s, started again: %q", said, banned)
		}
		if banned := again.after(t, api, 2*time.Hour); banned != "" {
			t.Errorf("%s, and all have ended: %q", said, banned)
		}
		api.status, api.cut, again.key, again.address = 0, false, key, address
		api.decide("Ip", "198.51.100.9", "ban", "x", time.Hour)
		if banned := again.after(t, api, time.Second); banned != "198.51.100.9" || !strings.HasPrefix(again.writer.reported(t, listOfCrowdsec), "good 1 ") {
			t.Errorf("%s, and it is back: %q", said, banned)
		}
	}
}

func TestCrowdsecDecidesNoMoreThanHasRoom(t *testing.T) {
	api, reader := newLapi(t)
	for number := range crowdsecDecisions + 10 {
		reader.decisions[mustNetwork(fmt.Sprintf("2001:db8:%x:%x::1", number>>16, number&0xffff))] = crowdsecBan{"x", api.now.Add(time.Hour)}
	}
	reader.whole, reader.wholeAt = true, api.now
	api.lastPull = api.now.Add(-time.Second)
	api.decide("Ip", "203.0.113.1", "ban", "x", time.Hour)
	if banned := reader.after(t, api, time.Second); strings.Contains(banned, "203.0.113.1") {
		t.Error(banned)
	}
	if said := reader.writer.reported(t, listOfCrowdsec); !strings.Contains(said, "all beyond 250000 decisions") {
		t.Error(said)
	}
}

// The API counts an answer as sent even if it was lost on the way, so everything is asked for again.
func TestCrowdsecsNewsThatAreLostAreAskedForAgain(t *testing.T) {
	api, reader := newLapi(t)
	reader.after(t, api, time.Second)
	api.decide("Ip", "203.0.113.1", "ban", "x", time.Hour)
	api.cut = true
	reader.after(t, api, time.Second)
	api.cut = false
	if banned := reader.after(t, api, 10*time.Second); banned != "203.0.113.1" {
		t.Errorf("%q, asked %v", banned, api.asked)
	}
}

// An answer may be larger than the memory of the unit that reads it.
func TestAnAnswerOfCrowdsecIsReadAsItComes(t *testing.T) {
	reader, writer := io.Pipe()
	var sent atomic.Int64
	taken, atFirst := 0, int64(0)
	go func() {
		_, _ = io.WriteString(writer, `{"new": [{}`)
		for number := range 99_999 {
			_, _ = fmt.Fprintf(writer, `,{"duration":"1h","scope":"Ip","type":"ban","value":"203.0.113.%d"}`, number%256)
			sent.Add(1)
		}
		_, _ = io.WriteString(writer, `], "deleted": null, "more": {"x": [1]}}`)
		_ = writer.Close()
	}()
	err := readDecisions(reader, func(field string, decision crowdsecDecision) error {
		if taken++; taken == 1 {
			atFirst = sent.Load()
		}
		return nil
	})
	if err != nil || taken != 100_000 || atFirst > 1000 {
		t.Errorf("%v, %d taken, the first of them after %d", err, taken, atFirst)
	}
}

func TestWhatHasEndedComesBeforeWhatHasCome(t *testing.T) {
	const decision = `[{"duration":"1h","scope":"Ip","type":"ban","value":"203.0.113.1"}]`
	for answer, want := range map[string]string{
		`{"new": ` + decision + `, "deleted": ` + decision + `}`: "203.0.113.1",
		`{"deleted": ` + decision + `, "new": ` + decision + `}`: "203.0.113.1",
		`{"new": [], "deleted": ` + decision + `}`:               "",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
		reader := newCrowdsecReader(newTestWriter(t, banSources{crowdsec: server.URL}, time.Now()), lapiKey)
		reader.whole, reader.wholeAt = true, time.Now()
		if err := reader.step(context.Background(), time.Now()); err != nil {
			t.Error(err)
		}
		if banned := reader.writer.bans(t, listOfCrowdsec, "203.0.113.1"); banned != want {
			t.Errorf("%s: %q", answer, banned)
		}
		server.Close()
	}
}

func TestWhatIsNoAnswerOfCrowdsecIsNotWhole(t *testing.T) {
	for _, answer := range []string{"", "[]", "null", `"new"`, `{"new": {}}`, `{"new": [}`, `{"new": [{"value": 7}]}`, `{"new": []`, `{"x": [`, `{"new": [{}], `} {
		if err := readDecisions(strings.NewReader(answer), func(string, crowdsecDecision) error { return nil }); !errors.Is(err, errNotWhole) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}
