package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// usual returns the default limits, with nothing used up.
func usual(t *testing.T) *Limits {
	t.Helper()
	for _, each := range []*buckets{
		&spentOf.requests, &spentOf.passwords, &spentOf.linkPasswords, &spentOf.bundles, &spentOf.offences, &spentOf.logins,
		&spentOf.paces, &spentOf.tooMany, &spentOf.givenUp,
	} {
		each.full, each.swept, each.shared = nil, 0, [sharedBuckets]int64{}
	}
	live.recent, live.older = nil, nil
	limits := &Limits{
		64, 60, 1_000_000, Amount{3000, caddy.Duration(30 * time.Second)}, Amount{10, caddy.Duration(time.Minute)},
		Amount{60, caddy.Duration(time.Hour)}, Amount{10, caddy.Duration(time.Minute)}, Amount{10, caddy.Duration(10 * time.Minute)},
	}
	if err := limits.Validate(); err != nil {
		t.Fatal(err)
	}
	inForce.Store(limits)
	return limits
}

// goes sends a request and returns the status; 0 means that the connection was ended. `says` is the status of Immich's answer,
// and `verdict` the one in the log.
func goes(t *testing.T, limits *Limits, from, method, target string, says int, verdict string) (status int) {
	t.Helper()
	r := httptest.NewRequestWithContext(contextWithVars(), method, target, nil)
	r.RemoteAddr = from
	defer func() {
		if problem := recover(); problem != nil {
			status = 0
		}
	}()
	w := httptest.NewRecorder()
	err := limits.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		w.WriteHeader(says)
		noteAnswer(r, says)
		noteVerdict(r, verdict, time.Now())
		return nil
	}))
	var refused caddyhttp.HandlerError
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	return w.Code
}

const (
	guest    = "192.0.2.1:1"
	openLink = "/api/shared-links/me?key=good"
	login    = linkLogin + "?key=good"
)

func photo(number int) string {
	return fmt.Sprintf("/api/assets/0a1b2c3d-0000-4000-8000-%012x/thumbnail?size=thumbnail&key=good", number)
}

// Thirty guests on one Wi-Fi open an album of 500 photos at the same moment and scroll to its end.
func TestAPartyMeetsNoLimit(t *testing.T) {
	limits := usual(t)
	for range 30 {
		for number := range 37 {
			if got := goes(t, limits, guest, "GET", openLink, 200, verdictAnon); got != 200 {
				t.Fatalf("page request %d: %d", number, got)
			}
		}
		for range 113 {
			if got := goes(t, limits, guest, "GET", "/_app/immutable/chunks/x.js", 200, verdictAnon); got != 200 {
				t.Fatal(got)
			}
		}
	}
	for number := range 30 * 500 {
		if got := goes(t, limits, guest, "GET", photo(number), 200, verdictAnon); got != 200 {
			t.Fatalf("photo %d: %d", number, got)
		}
	}
}

// Thirty guests on one Wi-Fi watch a one-hour video: streamed in parts of two seconds, with its playlist each time, or as two
// ranges per second, which is 500 Mbit/s for all of them if a range is a megabyte.
func TestAnHourOfVideoMeetsNoLimit(t *testing.T) {
	limits, visitor := usual(t), network(7)
	limits.Pace = 500
	now := time.Now()
	asked := func(target string) {
		r := httptest.NewRequest("GET", "/api/assets/0a1b2c3d-0000-4000-8000-0123456789ab/video/"+target+"?key=good", nil)
		if !isVideo(r) {
			t.Fatalf("%s is no video", target)
		}
		if wait := spendOfBoth(&spentOf.requests, visitor, nobody, costOf(r, true), limits.Requests, wideRequests, now); wait > 0 {
			t.Fatalf("a guest has to wait for %v", wait)
		}
		pace := rate{paceless, paceless * time.Second / time.Duration(limits.Pace)}
		if wait, ok := spentOf.paces.reserve(uint64(visitor), 1, pace, pacePatience, now); !ok || wait > time.Second {
			t.Fatalf("a guest's turn comes after %v", wait)
		}
	}
	for second := range 3600 {
		for range 30 {
			asked("playback")
			asked("playback")
			asked([]string{"stream/0a1b2c3d-0000-4000-8000-0123456789ab/0/segment_1.m4s", "stream/main.m3u8"}[second%2])
		}
		now = now.Add(time.Second)
	}
	flood := 0
	for tick := range 60_000 { // 1,000 ranges per second for a minute, from elsewhere
		r := httptest.NewRequest("GET", "/api/assets/a/video/playback?key=good", nil)
		if spendOfBoth(&spentOf.requests, 8, nobody, costOf(r, true), limits.Requests, wideRequests, now.Add(time.Duration(tick)*time.Millisecond)) == 0 {
			flood++
		}
	}
	if flood > 3_000+60*100+1 {
		t.Errorf("%d requests of a flood are within the limit", flood)
	}
}

func TestAFloodIsStopped(t *testing.T) {
	for target, burst := range map[string]float64{"/api/server/config": 3_000, photo(1): 3_000, "/_app/immutable/x.js": 60_000} {
		limits := usual(t)
		answered, began := 0., time.Now()
		for range int(burst * 1.2) {
			if goes(t, limits, guest, "GET", target, 401, verdictAnon) == 401 {
				answered++
			}
		}
		if most := burst * (1 + time.Since(began).Seconds()/30); answered > min(most+1, burst*1.2-1) || answered < burst {
			t.Errorf("%s: %v requests of a flood were answered", target, answered)
		}
		if goes(t, limits, "192.0.2.2:1", "GET", target, 200, verdictAnon) != 200 {
			t.Errorf("%s: somebody else is refused", target)
		}
	}
	limits, answered, began := usual(t), 0., time.Now()
	for number := range 50_000 { // a new /64 every few requests, all from one /48
		from := fmt.Sprintf("[2001:db8:1:%x::1]:1", number%5_000)
		if goes(t, limits, from, "GET", "/api/server/config", 200, verdictAnon) == 200 {
			answered++
		}
	}
	if most := 30_000 * (1 + time.Since(began).Seconds()/30); answered > most+1 {
		t.Errorf("a /48 had %v answers", answered)
	}
}

// A guesser is refused here, without fail2ban, after the same number of offences as in fail2ban.
func TestOffendersAreRefusedInPlace(t *testing.T) {
	for _, row := range []struct {
		verdict, method, target string
		says                    int
	}{
		{verdictGuess, "GET", "/s/word%d", 404}, {verdictScan, "GET", "/wp-login%d", 403},
		{verdictPassword, "POST", linkLogin + "?key=k%d", 401},
	} {
		limits := usual(t)
		answered := 0
		for number := range 100 {
			if got := goes(t, limits, guest, row.method, fmt.Sprintf(row.target, number), row.says, row.verdict); got == row.says {
				answered++
			}
		}
		if answered != 10 {
			t.Errorf("%s: %d offences were answered", row.verdict, answered)
		}
		if goes(t, limits, "192.0.2.2:1", "GET", openLink, 200, verdictAnon) != 200 {
			t.Errorf("%s: somebody else is refused", row.verdict)
		}
	}
}

func TestAWideNetworkHasABoundOnGuesses(t *testing.T) {
	for verdict, target := range map[string]string{verdictGuess: "/s/word%d", verdictPassword: linkLogin + "?key=k%d"} {
		limits, method, answered := usual(t), "GET", 0
		if verdict == verdictPassword {
			method = "POST"
		}
		for number := range 4_500 { // 500 neighbouring /64s, nine attempts each
			from := fmt.Sprintf("[2001:db8:1:%x::1]:1", number%500)
			if goes(t, limits, from, method, fmt.Sprintf(target, number), 404, verdict) == 404 {
				answered++
			}
		}
		if answered > 50 {
			t.Errorf("%s: a /48 had %d tries", verdict, answered)
		}
		if goes(t, limits, "[2001:db8:1:ffff::1]:1", "GET", "/_app/immutable/x.js", 200, verdictAnon) != 200 {
			t.Errorf("%s: a neighbour who guesses nothing is refused", verdict)
		}
	}
}

func TestALinkTakesSoManyWrongPasswordsFromEverybody(t *testing.T) {
	limits, wrong := usual(t), 0
	for number := range 300 {
		from := fmt.Sprintf("[2001:db8:%x::1]:1", number)
		if goes(t, limits, from, "POST", login, 401, verdictPassword) == 401 {
			wrong++
		}
	}
	if wrong != 60 {
		t.Errorf("%d wrong passwords were taken", wrong)
	}
	if goes(t, limits, guest, "POST", linkLogin+"?slug=other", 201, verdictAnon) != 201 {
		t.Error("another link takes no password")
	}
	limits = usual(t)
	for number := range 100 { // right passwords cost nothing
		if got := goes(t, limits, fmt.Sprintf("192.0.2.%d:1", number), "POST", login, 201, verdictAnon); got != 201 {
			t.Fatal(got)
		}
	}
}

// A client that sends a password drop by drop does not keep others from entering one.
func TestAPasswordThatIsSentSlowlyHoldsNoPlace(t *testing.T) {
	limits := usual(t)
	ask := func(ctx context.Context, from string, body io.Reader) (status int) {
		r := httptest.NewRequestWithContext(ctx, "POST", login, body)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		var refused caddyhttp.HandlerError
		if err := limits.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			if text, err := io.ReadAll(r.Body); err == nil && int64(len(text)) != r.ContentLength {
				t.Errorf("%q of %d bytes", text, r.ContentLength)
			}
			w.WriteHeader(http.StatusCreated)
			return nil
		})); errors.As(err, &refused) {
			return refused.StatusCode
		}
		return w.Code
	}
	var slow sync.WaitGroup
	defer slow.Wait()
	waiting, stop := context.WithCancel(contextWithVars())
	defer stop()
	for number := range 2 * passwordsAtOnce {
		body, drops := io.Pipe()
		defer drops.CloseWithError(io.ErrUnexpectedEOF)
		from := fmt.Sprintf("192.0.2.%d:1", 100+number)
		slow.Go(func() { ask(waiting, from, body) })
		for inside.count(widestOf(from)) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	soon, cancel := context.WithTimeout(contextWithVars(), 5*time.Second)
	defer cancel()
	if got := ask(soon, guest, strings.NewReader(`{"password":"x"}`)); got != http.StatusCreated {
		t.Errorf("another visitor's password: %d", got)
	}
	if got := ask(soon, guest, strings.NewReader(strings.Repeat("x", mostInHand+1))); got != http.StatusRequestEntityTooLarge {
		t.Errorf("a password without an end: %d", got)
	}
}

// Behind one IPv4 address somebody guesses, and somebody else had a good link before.
func TestALiveLinkStaysOpenForTheNetwork(t *testing.T) {
	limits := usual(t)
	goes(t, limits, guest, "GET", openLink, 200, verdictAnon)
	for number := range 30 {
		goes(t, limits, guest, "GET", fmt.Sprintf("/s/word%d", number), 404, verdictGuess)
	}
	for target, wanted := range map[string]int{
		openLink: 200, photo(1): 200, "/share/good": 200, "/_app/immutable/x.js": 200,
		"/s/word99": 0, "/share/other": 0, "/api/shared-links/me?key=good&slug=word": 0, "/share/other?key=good": 0,
		"/api/shared-links/me?slug=word&k%65y=other": 0,
	} {
		if got := goes(t, limits, guest, "GET", target, 200, verdictAnon); got != wanted {
			t.Errorf("%s: %d instead of %d", target, got, wanted)
		}
	}
	if got := goes(t, limits, guest, "POST", login, 201, verdictAnon); got != 0 {
		t.Errorf("a guesser may try passwords of a live link: %d", got)
	}
	if goes(t, limits, "192.0.2.7:1", "GET", openLink, 200, verdictAnon) != 200 {
		t.Error("another network is refused")
	}
	live.began = time.Now().Add(-2 * liveSpan)
	goes(t, limits, "192.0.2.8:1", "GET", openLink, 200, verdictAnon) // begins a new hour
	live.began = time.Now().Add(-2 * liveSpan)
	if goes(t, limits, guest, "GET", openLink, 200, verdictAnon) != 0 {
		t.Error("a link is live for ever")
	}
}

func TestWhatMakesALinkLive(t *testing.T) {
	limits := usual(t)
	for _, row := range []struct {
		target string
		says   int
	}{
		{"/api/server/config?key=guess", 200}, {"/s/guess", 200}, {"/share/guess", 200}, {"/_app/immutable/x.js?key=guess", 200},
		{"/api/shared-links/me?key=good&slug=guess", 200}, {"/api/shared-links/me?slug=guess&key=good", 200},
		{"/api/shared-links/me?slug=good&KEY=guess", 200},
		{"/api/shared-links/me?key=guess", 401}, {"/api/shared-links/me?key=guess", 404}, {"/api/shared-links/me?key=guess", 500},
	} {
		goes(t, limits, guest, "GET", row.target, row.says, verdictAnon)
		visitor, _ := networksOf(guest, 64)
		if live.knows(visitor, "guess") || live.knows(visitor, link{"key", "guess"}.asImmichReads()) {
			t.Errorf("%s with %d makes a link live", row.target, row.says)
		}
	}
}

func TestSoManyRequestsAtOnce(t *testing.T) {
	var s slots
	const most, clients = 5, 50
	var mutex sync.Mutex
	var group sync.WaitGroup
	inside, highest := 0, 0
	for range clients {
		group.Go(func() {
			if err := s.enter(context.Background(), 1, most); err != nil {
				t.Error(err)
				return
			}
			mutex.Lock()
			inside++
			highest = max(highest, inside)
			mutex.Unlock()
			time.Sleep(time.Millisecond)
			mutex.Lock()
			inside--
			mutex.Unlock()
			s.leave(1, most)
		})
	}
	group.Wait()
	if highest > most || s.inside != 0 || len(s.lines) != 0 {
		t.Errorf("%d were inside at once; %d and %d lines are left", highest, s.inside, len(s.lines))
	}
	for range most {
		_ = s.enter(context.Background(), 2, most)
	}
	impatient, cancel := context.WithCancel(context.Background())
	cancel()
	if s.enter(impatient, 2, most) == nil {
		t.Error("one more was let in")
	}
	if len(s.lines[2].waiting) != 0 || s.enter(context.Background(), 3, most) != nil {
		t.Error("who hung up still waits, or somebody else may not enter")
	}
	s.inside = manyInside
	for range fewOfMany {
		_ = s.enter(context.Background(), 5, most)
	}
	if s.enter(impatient, 5, most) == nil {
		t.Error("when many are inside, one network has as many as ever")
	}
}

// fromAddress is a connection that comes from a given address.
type fromAddress struct {
	net.Conn
	address net.Addr
}

func (f fromAddress) RemoteAddr() net.Addr           { return f.address }
func (f fromAddress) Read(bytes []byte) (int, error) { return len(bytes), nil }
func (f fromAddress) Close() error                   { return nil }

func connectionFrom(address string) *countedConnection {
	from := fromAddress{address: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &countedConnection{Conn: from, done: make(chan struct{})}
}

// atThisPace makes connections begin, and be read, at the test's own pace.
func atThisPace(t *testing.T, begin, bytes rate) {
	t.Helper()
	usualBegin, usualBytes := newConnections, readBytes
	t.Cleanup(func() { newConnections, readBytes = usualBegin, usualBytes })
	forgetConnections()
	t.Cleanup(forgetConnections)
	newConnections, readBytes = begin, bytes
}

func forgetConnections() {
	connections.of, connections.by, connections.all = nil, [connectionsOfOne + 1]map[network]struct{}{}, 0
	begun.full, read.full = nil, nil
	for _, each := range []*liveLinks{live, homes} {
		each.recent, each.older = nil, nil
	}
}

func TestSoManyConnections(t *testing.T) {
	atThisPace(t, rate{1e6, time.Second}, rate{1e6, time.Second})
	connect := func(number int) *countedConnection {
		return connectionFrom(fmt.Sprintf("2001:db8:1:%x::1", number))
	}
	var opened []*countedConnection
	for number := range connectionsOfOne + 50 {
		connection := connect(number)
		_, err := connection.Read(make([]byte, 1))
		if (err == nil) != (number < connectionsOfOne) {
			t.Fatalf("connection %d of a /48: %v", number, err)
		}
		opened = append(opened, connection)
	}
	other := connectionFrom("192.0.2.1")
	if _, err := other.Read(make([]byte, 1)); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	for _, connection := range append(opened, other) {
		for range 2 {
			_ = connection.Close()
		}
	}
	if connections.all != 0 || len(connections.of) != 0 {
		t.Errorf("%d connections are counted that are closed", connections.all)
	}
}

// comes begins a connection, and reports whether it is admitted.
func comes(c *countedConnection) bool {
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

func isOpen(c *countedConnection) bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// crowd is a number of networks that hold a number of connections each.
type crowd struct{ networks, each int }

// crowded lets crowds connect, one after another, until there is no room, and returns the connections they hold.
func crowded(t *testing.T, crowds ...crowd) []*countedConnection {
	t.Helper()
	atThisPace(t, rate{1e6, time.Second}, rate{1e6, time.Second})
	var held []*countedConnection
	first := 0
	for _, of := range crowds {
		for number := range of.networks * of.each {
			if made := connectionFrom(fmt.Sprintf("2001:db8:%x::1", first+number/of.each)); comes(made) {
				held = append(held, made)
			}
		}
		first += of.networks
	}
	if connections.all != mostConnections-keptConnections {
		t.Fatalf("%v hold %d connections", crowds, connections.all)
	}
	return held
}

func TestAFewNetworksCannotShutAllOthersOut(t *testing.T) {
	for _, row := range [][]crowd{{{13, connectionsOfOne}, {150, fewConnections}}, {{1_000, fewConnections}}, {{2_700, 3}}} {
		held := crowded(t, row...)
		for number := range 400 {
			if !comes(connectionFrom(fmt.Sprintf("198.51.%d.%d", number/250, number%250))) {
				t.Fatalf("%v: newcomer %d is shut out", row, number)
			}
		}
		closed := 0
		for _, each := range held {
			if !isOpen(each) {
				closed++
			}
		}
		if lost := closed - len(held) + mostConnections - keptConnections; lost != 400 || connections.all != mostConnections-keptConnections {
			t.Errorf("%v: %d connections have lost their place to 400, and %d are open", row, lost, connections.all)
		}
	}
}

func TestConnectionsInAllHaveABound(t *testing.T) {
	for _, known := range []bool{false, true} {
		crowded(t, crowd{mostConnections, 1})
		was := connections.isKnown
		connections.isKnown = func(string) bool { return known }
		t.Cleanup(func() { connections.isKnown = was })
		let := 0
		for number := range 2 * keptConnections {
			if comes(connectionFrom(fmt.Sprintf("198.51.%d.%d", number/250, number%250))) {
				let++
			}
		}
		if wanted := map[bool]int{true: keptConnections}[known]; let != wanted {
			t.Errorf("known %v: %d more get in, not %d", known, let, wanted)
		}
		connections.isKnown = was
	}
}

func TestWhoIsKnownGetsInAndKeepsThePlace(t *testing.T) {
	usual(t)
	atThisPace(t, rate{1e6, time.Second}, rate{1e6, time.Second})
	guest, phone := connectionFrom("192.0.2.1"), connectionFrom("192.0.2.2")
	var guests []*countedConnection
	visitor, _ := networksOf(guest.RemoteAddr().String(), 64)
	remember := func() {
		live.opened(visitor, "link", time.Now())
		homes.opened(widestOf(phone.RemoteAddr().String()), "", time.Now())
	}
	remember()
	for range 50 {
		guests = append(guests, connectionFrom("192.0.2.1"))
		comes(guests[len(guests)-1])
	}
	for range 50 {
		owner := connectionFrom("192.0.2.3")
		comes(owner)
		owner.device.Store(true)
		guests = append(guests, owner)
	}
	for number := range mostConnections { // strangers with one connection each, and then a second
		comes(connectionFrom(fmt.Sprintf("2001:db8:%x::1", number%3_000)))
	}
	if comes(guest) {
		t.Error("a network with more than few gets another") // and no stranger loses a place to it
	}
	if !comes(phone) {
		t.Error("a device's network is shut out")
	}
	for _, each := range guests {
		if !isOpen(each) {
			t.Fatal("a guest or a device has lost its place")
		}
	}
}

func TestConnectionsOfANetworkBeginOneAfterAnother(t *testing.T) {
	atThisPace(t, rate{2, 100 * time.Millisecond}, rate{1e6, time.Second})
	began := time.Now()
	for number := range 5 {
		if _, err := connectionFrom(fmt.Sprintf("2001:db8:1:%x::1", number)).Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(began); took < 140*time.Millisecond {
		t.Errorf("five connections began within %v", took)
	}
	began = time.Now()
	if _, err := connectionFrom("192.0.2.1").Read(make([]byte, 1)); err != nil || time.Since(began) > 50*time.Millisecond {
		t.Errorf("somebody else waits as well: %v", err)
	}
	newConnections = rate{2, 20 * time.Second}
	begun.spend(uint64(widestOf("192.0.2.2:1")), 2, newConnections, time.Now())
	if _, err := connectionFrom("192.0.2.2").Read(make([]byte, 1)); !errors.Is(err, errManyConnections) {
		t.Errorf("a connection waits for ever: %v", err)
	}
}

func TestWhatANetworkSendsIsReadAtAPace(t *testing.T) {
	atThisPace(t, rate{1e6, time.Second}, rate{1000, 200 * time.Millisecond})
	connect := func(from string) *countedConnection {
		connection := connectionFrom(from)
		connection.paced.Store(true)
		return connection
	}
	one, another, device := connect("192.0.2.1"), connect("192.0.2.1"), connectionFrom("192.0.2.1")
	elapsed := func(connection *countedConnection, bytes int) time.Duration {
		began := time.Now()
		if _, err := connection.Read(make([]byte, bytes)); err != nil {
			t.Error(err)
		}
		return time.Since(began)
	}
	if took := elapsed(one, 900); took > 50*time.Millisecond {
		t.Errorf("little waits for %v", took)
	}
	if took := elapsed(another, 600); took < 90*time.Millisecond {
		t.Errorf("much of a network, over two connections, waits for %v alone", took)
	}
	if took := elapsed(connect("192.0.2.2"), 900); took > 50*time.Millisecond {
		t.Errorf("somebody else waits for %v", took)
	}
	one.trusted.Add(1)
	for _, each := range []*countedConnection{one, device} {
		if took := elapsed(each, 100_000); took > 50*time.Millisecond {
			t.Errorf("a device or an upload waits for %v", took)
		}
	}
	_ = another.Close()
	if took := elapsed(another, 900); took > 50*time.Millisecond {
		t.Errorf("a connection that is closed is kept for %v", took)
	}
}

func TestACrowdIsReadNoFurther(t *testing.T) {
	atThisPace(t, rate{1e6, time.Second}, rate{1e6, time.Second})
	from := widestOf("192.0.2.1:1")
	for range crowdedFrom + 1 {
		inside.add(from)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		inside.remove(from)
	}()
	began := time.Now()
	for address, most := range map[string]time.Duration{"192.0.2.1": time.Second, "192.0.2.2": 50 * time.Millisecond} {
		connection := connectionFrom(address)
		connection.paced.Store(true)
		start := time.Now()
		if _, err := connection.Read(make([]byte, 1)); err != nil || time.Since(start) > most {
			t.Errorf("%s waits for %v: %v", address, time.Since(start), err)
		}
	}
	if time.Since(began) < 90*time.Millisecond {
		t.Error("nobody waits")
	}
	for range crowdedFrom {
		inside.remove(from)
	}
}

func TestRequestsOfANetworkComeOneAfterAnother(t *testing.T) {
	limits := usual(t)
	limits.Pace = 1000
	began := time.Now()
	for range paceless + 100 {
		if got := goes(t, limits, guest, "GET", "/api/server/config", 200, verdictAnon); got != 200 {
			t.Fatal(got)
		}
	}
	if took := time.Since(began); took < 90*time.Millisecond {
		t.Errorf("all within %v", took)
	}
}

// A client that continues after this many 429s loses the connection, and nobody else does.
func TestWhoDoesNotWaitLosesTheConnection(t *testing.T) {
	limits := usual(t)
	limits.Requests.Count = 5
	seen := map[int]int{}
	for range 60 {
		seen[goes(t, limits, guest, "GET", "/api/server/config", 200, verdictAnon)]++
	}
	if seen[200] != 5 || seen[http.StatusTooManyRequests] != 20 || seen[0] != 35 {
		t.Errorf("statuses: %v", seen)
	}
	if got := goes(t, limits, "192.0.2.2:1", "GET", "/api/server/config", 200, verdictAnon); got != 200 {
		t.Errorf("somebody else: %d", got)
	}
}

// Rapid resets (CVE-2023-44487): each costs the client a few bytes.
func TestWhoGivesUpEveryRequestLosesTheConnection(t *testing.T) {
	limits := usual(t)
	given, cancel := context.WithCancel(contextWithVars())
	cancel()
	ended := 0
	for range 150 {
		func() {
			defer func() {
				if recover() != nil {
					ended++
				}
			}()
			r := httptest.NewRequestWithContext(given, "GET", "/api/server/config", nil)
			r.RemoteAddr = guest
			_ = limits.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
				return nil
			}))
		}()
	}
	if ended < 45 || ended > 50 {
		t.Errorf("%d of 150 ended the connection", ended)
	}
}

func TestRequestsInTheEdgeHaveABound(t *testing.T) {
	c := headcount{room: inside.room}
	fill := func(from network) (count int) {
		for c.add(from) {
			count++
		}
		return count
	}
	first, second, third := fill(1), fill(2), fill(3)
	if first < 3_000 || second < 1_500 || third < 500 || c.all >= mostInside {
		t.Errorf("three networks have %d, %d and %d", first, second, third)
	}
	for range first {
		c.remove(1)
	}
	if len(c.of) != 2 || fill(4) < 1_000 {
		t.Error("who has left still takes room")
	}
}

// The /64s of a /48 that offends do not fill the memory of offenders.
func TestAWideNetworkIsRememberedAsOne(t *testing.T) {
	limits := usual(t)
	for number := range 2_000 {
		goes(t, limits, fmt.Sprintf("[2001:db8:1:%x::1]:1", number), "GET", "/wp-login", 403, verdictScan)
	}
	if count := len(spentOf.offences.full); count > 100 {
		t.Errorf("%d networks of one /48 are remembered", count)
	}
	if got := goes(t, limits, "[2001:db8:1:ffff::1]:1", "GET", "/api/server/config", 200, verdictAnon); got != 200 {
		t.Errorf("their neighbour: %d", got)
	}
}

func TestLimitsAreReadAndRefused(t *testing.T) {
	const sound = "visitor 64\nat_once 60\npace 500\nrequests 3000 30s\npasswords 10 60s\nlink_passwords 60 1h\nbundles 10 60s\noffences 10 600s\n"
	for _, row := range []struct{ from, to, problem string }{
		{"", "", ""}, {"requests 3000 30s\n", "", "limits: requests needs"}, {"10 600s", "0 600s", "limits: offences needs"},
		{"visitor 64", "visitor 32", "limits: visitor is"}, {"at_once 60", "at_once 0", "at_once and pace at least 1"},
		{"pace 500\n", "", "at_once and pace at least 1"},
		{"60 1h", "60 soon", "link_passwords:"}, {"bundles 10 60s", "bundles 10", "rong argument count"}, {"visitor", "visitors", "rong argument count"},
	} {
		limits := new(Limits)
		text := "limits {\n" + strings.Replace(sound, row.from, row.to, 1) + "}"
		err := limits.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
		if err == nil {
			err = limits.Validate()
		}
		if (row.problem == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), row.problem) {
			t.Errorf("%q for %q: %v", row.to, row.from, err)
		}
	}
}

// A /48 has 65,536 networks of 64 bits; these addresses come from many of them, and each guesses as well.
func TestAHundredThousandAddressesTakeLittleMemory(t *testing.T) {
	limits := usual(t)
	bounds = lineBounds{}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for number := range 100_000 {
		from := fmt.Sprintf("[2001:db8:%x:%x::1]:1", number/100, number)
		goes(t, limits, from, "GET", fmt.Sprintf("/s/word%d", number), 404, verdictGuess)
		bounds.mayWrite(widestOf(from), verdictGuess, 404, 500, time.Now())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	held := after.HeapAlloc - before.HeapAlloc
	t.Logf("100,000 addresses take %.1f MB", float64(held)/1e6)
	if held > 24<<20 {
		t.Errorf("100,000 addresses take %d bytes", held)
	}
	runtime.KeepAlive(limits)
}
