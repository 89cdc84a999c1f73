package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// crowdsecReader keeps a list of CrowdSec's decisions as its local API streams them to a bouncer
// (pkg/apiserver/controllers/v1/decisions.go of crowdsecurity/crowdsec). It only reads.
//
// The API remembers what it last sent to each key. So a run's first request asks for everything, and so does the request after
// an answer that did not arrive complete.
type crowdsecReader struct {
	writer    banWriter
	address   string
	key       string
	client    *http.Client
	decisions map[netip.Prefix]crowdsecBan
	whole     bool
	wholeAt   time.Time
	left      map[string]bool
}

type crowdsecBan struct {
	scenario string
	until    time.Time
}

// crowdsecDecision is one of the API's decisions. Only those that ban an address or a network count.
type crowdsecDecision struct {
	Duration  string `json:"duration"`
	Scenario  string `json:"scenario"`
	Scope     string `json:"scope"`
	Type      string `json:"type"`
	Value     string `json:"value"`
	Simulated bool   `json:"simulated"`
}

const (
	// crowdsecPause is the interval at which CrowdSec's own bouncers ask.
	crowdsecPause   = 10 * time.Second
	crowdsecTimeout = 60 * time.Second

	// crowdsecWhole is how often everything is asked for again: another client with the same key takes updates away.
	crowdsecWhole = time.Hour

	// crowdsecDecisions is the most that are kept; CrowdSec's community lists have tens of thousands.
	crowdsecDecisions   = 250_000
	crowdsecAnswerBytes = 128 << 20

	crowdsecAgent = "immich-exposure/1"
)

var errCrowdsecKey = errors.New("refuses the key (403); create one with \"cscli bouncers add immich-exposure\" and set it as crowdsecKey")

func newCrowdsecReader(writer banWriter, key string) *crowdsecReader {
	return &crowdsecReader{
		writer:    writer,
		address:   strings.TrimSuffix(writer.sources.crowdsec, "/"),
		key:       strings.TrimSpace(key),
		decisions: map[netip.Prefix]crowdsecBan{},
		left:      map[string]bool{},
		// No proxy, because the key is for this address alone; and no redirects, which would send it elsewhere.
		client: &http.Client{
			Timeout:       crowdsecTimeout,
			Transport:     &http.Transport{},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// follow polls until its context ends.
func (c *crowdsecReader) follow(ctx context.Context, pause time.Duration) error {
	for {
		if err := c.step(ctx, time.Now()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// step asks once and writes what has changed. It only returns errors of the disk.
func (c *crowdsecReader) step(ctx context.Context, now time.Time) error {
	c.writer.now = now
	changed, err := c.ask(ctx, now)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return c.keep(now, err)
	}
	if !c.forgetEnded(now) && !changed && c.writer.isCurrent(listOfCrowdsec, c.address) {
		return nil
	}
	list := c.entries()
	if err := c.writer.put(listOfCrowdsec, list); err != nil {
		return err
	}
	said := c.address
	if len(c.left) > 0 {
		said += "; " + leftOut("what it says", slices.Sorted(maps.Keys(c.left)))
	}
	return c.writer.report(listOfCrowdsec, listGood, len(list), c.address, said)
}

// keep carries on without CrowdSec: each decision stays in force until it expires. Until the first answer of this run, what an
// earlier run wrote stays as it is.
func (c *crowdsecReader) keep(now time.Time, wrong error) error {
	count, err := 0, error(nil)
	if c.whole || len(c.decisions) > 0 {
		if c.forgetEnded(now) {
			err = c.writer.put(listOfCrowdsec, c.entries())
		}
		count = len(c.decisions)
	} else {
		count, err = c.writer.keep(listOfCrowdsec, func(entry listEntry) bool { return !endedBy(entry, now) })
	}
	// Updates may have been missed, so the next answer must be complete.
	c.whole = false
	if err != nil {
		return err
	}
	return c.writer.reportWrong(listOfCrowdsec, count, fmt.Sprintf("CrowdSec at %s %v", c.address, wrong))
}

// entries are the list's lines: what is banned, when the ban ends (Unix time in seconds), and the scenario.
func (c *crowdsecReader) entries() []listEntry {
	entries := make([]listEntry, 0, len(c.decisions))
	for network, ban := range c.decisions {
		entries = append(entries, listEntry{network, fmt.Sprintf("%d %s", ban.until.Unix(), ban.scenario)})
	}
	return entries
}

// endedBy reports whether the ban of such a line has ended.
func endedBy(entry listEntry, now time.Time) bool {
	var until int64
	_, err := fmt.Sscan(entry.words, &until)
	return err != nil || until <= now.Unix()
}

func (c *crowdsecReader) forgetEnded(now time.Time) bool {
	before := len(c.decisions)
	maps.DeleteFunc(c.decisions, func(_ netip.Prefix, ban crowdsecBan) bool { return !ban.until.After(now) })
	return len(c.decisions) != before
}

// ask applies the API's answer, and reports whether that changed anything.
func (c *crowdsecReader) ask(ctx context.Context, now time.Time) (bool, error) {
	c.whole = c.whole && now.Sub(c.wholeAt) < crowdsecWhole
	news := &crowdsecNews{startup: !c.whole, now: now, came: map[netip.Prefix]crowdsecBan{}, left: map[string]bool{}}
	if err := c.stream(ctx, news); err != nil {
		return false, err
	}
	if news.startup {
		c.whole, c.wholeAt, c.decisions, c.left = true, now, news.came, news.left
		return true, nil
	}
	left, changed := len(c.left), false
	for _, network := range news.ended {
		_, had := c.decisions[network]
		delete(c.decisions, network)
		changed = changed || had
	}
	for network, ban := range news.came {
		if _, had := c.decisions[network]; !had && len(c.decisions) >= crowdsecDecisions {
			news.left[beyondDecisions] = true
			continue
		}
		c.decisions[network], changed = ban, true
	}
	for said := range news.left {
		if len(c.left) < mostLeft {
			c.left[said] = true
		}
	}
	return changed || len(c.left) != left, nil
}

// crowdsecNews processes an answer one decision at a time, because a whole answer may not fit into memory. Deletions are
// applied before new decisions, in whichever order the API sends them.
type crowdsecNews struct {
	startup bool
	now     time.Time
	came    map[netip.Prefix]crowdsecBan
	ended   []netip.Prefix
	left    map[string]bool
}

// mostLeft is how many entries that no list may ban are remembered.
const mostLeft = 100

var beyondDecisions = fmt.Sprintf("all beyond %d decisions", crowdsecDecisions)

// take applies one decision. At startup there is nothing yet that could have been deleted.
func (n *crowdsecNews) take(field string, decision crowdsecDecision) error {
	if field == "deleted" && n.startup {
		return nil
	}
	network, ok := n.networkOf(decision)
	if !ok {
		return nil
	}
	if field == "deleted" {
		if n.ended = append(n.ended, network); len(n.ended) > crowdsecDecisions {
			return fmt.Errorf("says that more than %d decisions have ended", crowdsecDecisions)
		}
		return nil
	}
	lasts, err := time.ParseDuration(decision.Duration)
	if err != nil || lasts <= 0 {
		return nil
	}
	if _, had := n.came[network]; !had && len(n.came) >= crowdsecDecisions {
		n.left[beyondDecisions] = true
		return nil
	}
	n.came[network] = crowdsecBan{oneLine(decision.Scenario), n.now.Add(lasts)}
	return nil
}

// networkOf returns the network that a decision bans, and false if it bans none, or one that no list may ban.
func (n *crowdsecNews) networkOf(decision crowdsecDecision) (netip.Prefix, bool) {
	scope := strings.ToLower(decision.Scope)
	if decision.Type != "ban" || decision.Simulated || scope != "ip" && scope != "range" {
		return netip.Prefix{}, false
	}
	network, err := readNetwork(decision.Value)
	if err != nil {
		return netip.Prefix{}, false
	}
	if why := whyNotBanned(network); why != "" {
		if len(n.left) < mostLeft {
			n.left[fmt.Sprintf("%s, %s", network, why)] = true
		}
		return netip.Prefix{}, false
	}
	return network, true
}

// oneLine removes from untrusted text whatever would end a line or control a terminal.
func oneLine(text string) string {
	return clipped(strings.Map(func(letter rune) rune {
		if letter < ' ' || letter > '~' {
			return '?'
		}
		return letter
	}, text), 100)
}

func (c *crowdsecReader) stream(ctx context.Context, news *crowdsecNews) error {
	response, err := c.request(ctx, fmt.Sprintf("%s/v1/decisions/stream?startup=%v&scopes=ip,range", c.address, news.startup))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return readDecisions(io.LimitReader(response.Body, crowdsecAnswerBytes), news.take)
}

var errNotWhole = errors.New("does not answer whole")

// readDecisions passes on each decision of an answer, `{"new": [...], "deleted": [...]}` in either order. Older versions send
// null for an empty list.
func readDecisions(answer io.Reader, take func(field string, decision crowdsecDecision) error) error {
	decoder := json.NewDecoder(answer)
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return errNotWhole
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return errNotWhole
		}
		field, _ := name.(string)
		if field == "new" || field == "deleted" {
			err = readDecisionsOf(field, decoder, take)
		} else if skip(decoder) != nil {
			err = errNotWhole
		}
		if err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return errNotWhole
	}
	return nil
}

func readDecisionsOf(field string, decoder *json.Decoder, take func(field string, decision crowdsecDecision) error) error {
	switch token, err := decoder.Token(); {
	case err == nil && token == nil:
		return nil
	case err != nil || token != json.Delim('['):
		return errNotWhole
	}
	for decoder.More() {
		var decision crowdsecDecision
		if err := decoder.Decode(&decision); err != nil {
			return errNotWhole
		}
		if err := take(field, decision); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return errNotWhole
	}
	return nil
}

func (c *crowdsecReader) request(ctx context.Context, address string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("has no sound address")
	}
	request.Header.Set("X-Api-Key", c.key)
	request.Header.Set("User-Agent", crowdsecAgent)
	response, err := c.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("does not answer (%v)", rootOf(err))
	}
	switch response.StatusCode {
	case http.StatusOK:
		return response, nil
	case http.StatusForbidden, http.StatusUnauthorized:
		err = errCrowdsecKey
	default:
		err = fmt.Errorf("answers %d, so it is not CrowdSec's local API", response.StatusCode)
	}
	_ = response.Body.Close()
	return nil, err
}

func rootOf(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
