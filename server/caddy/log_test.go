package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestCutKeepsWithinTheBound(t *testing.T) {
	for name, text := range map[string]string{
		"plain": strings.Repeat("a", 5_000), "quotes": strings.Repeat(`"`, 5_000), "not UTF-8": strings.Repeat("\xff", 5_000),
		"controls": strings.Repeat("\x01", 5_000), "letters": strings.Repeat("é", 5_000), "lines": strings.Repeat("\n", 5_000),
		"C1": strings.Repeat("\u009b", 5_000), "formats": strings.Repeat("\u202e", 5_000), "tags": strings.Repeat("\U000e0041", 5_000),
	} {
		encoded, err := zapcore.NewJSONEncoder(zapcore.EncoderConfig{}).EncodeEntry(zapcore.Entry{}, []zap.Field{zap.String("t", cut(text))})
		size := len(withoutUnseen(encoded.Bytes()))
		if err != nil || size > mostWritten+len(`{"t":"..."}`)+1 || size < mostWritten-2*longestEscape {
			t.Errorf("%s: %d bytes written, %v", name, size, err)
		}
	}
	for _, text := range []string{"", "short", strings.Repeat("a", mostWritten), strings.Repeat("ß", 100)} {
		if cut(text) != text {
			t.Errorf("%q was cut though it has room", text)
		}
	}
}

// lineOf returns the access log's line about a request.
func lineOf(t *testing.T, remote, agent, verdict string, status int, now time.Time) string {
	t.Helper()
	return strings.Join(writtenOf(t, func(log *accessLog) {
		r := &http.Request{Method: "GET", RemoteAddr: remote, RequestURI: "/x?" + agent, URL: new(url.URL), Host: agent, Header: http.Header{"User-Agent": {agent}}}
		r = r.WithContext(contextWithVars())
		answer := newAnswered(nil, r)
		answer.status = status
		caddyhttp.SetVar(r.Context(), verdictVar, verdict)
		log.writeAt(answer, r, now)
	}), "")
}

// writtenOf returns the lines written by an access log whose visitors are /64s.
func writtenOf(t *testing.T, work func(*accessLog)) []string {
	t.Helper()
	to := new(written)
	work(&accessLog{bits: networkBits, to: &verdictFiles{to, to, to}})
	return to.all()
}

// journalLineOf returns the journal's line about a request that Caddy logs.
func journalLineOf(t *testing.T, remote, agent string, now time.Time) string {
	t.Helper()
	encoder := new(WithoutSecrets)
	if err := encoder.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	request := &http.Request{Method: "GET", RemoteAddr: remote, RequestURI: "/x?" + agent, URL: new(url.URL), Host: agent, Header: http.Header{"User-Agent": {agent}}}
	held := encoder.Clone()
	held.AddString("upstream", "immich")
	if err := held.AddObject("request", caddyhttp.LoggableHTTPRequest{Request: request.WithContext(contextWithVars())}); err != nil {
		t.Fatal(err)
	}
	line, err := held.EncodeEntry(zapcore.Entry{LoggerName: "http.log.error", Message: agent, Time: now}, []zap.Field{zap.Int("status", 502)})
	if err != nil {
		t.Fatal(err)
	}
	if held.(*WithoutSecrets).Encoder != encoder.Encoder || len(encoder.held) > 0 {
		t.Error("a context was put into words before its line was written, or into another's")
	}
	return line.String()
}

func TestTextIsWrittenAsInTheJournal(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	letters := []string{"a", `"`, `\`, "\n", "\r", "\t", "\b", "\x00", "\x1f", "\x7f", "\xff", "\xc3", "é", "\u2028", "\u0085", "\u202e", "\U000e0041", "😀", "<", "\ufffd"}
	for range 20_000 {
		var text strings.Builder
		for range random.IntN(12) {
			text.WriteString(letters[random.IntN(len(letters))])
		}
		encoded, err := zapcore.NewJSONEncoder(zapcore.EncoderConfig{SkipLineEnding: true}).EncodeEntry(zapcore.Entry{}, []zap.Field{zap.String("t", text.String())})
		if ours := `{"t":` + string(appendText(nil, text.String())) + "}"; err != nil || ours != string(withoutUnseen(encoded.Bytes())) {
			t.Fatalf("%q is written as %s, and in the journal as %s, %v", text.String(), ours, encoded, err)
		}
	}
}

func TestALogShowsWhatATerminalWouldObey(t *testing.T) {
	bounds = lineBounds{}
	defer func() { bounds = lineBounds{} }()
	for _, text := range []string{
		"\x7f", "\u0085", "\u009b31m", "\u009d52;c;cm0\u009c", "\u00ad", "\u200b", "\u200f", "\u2028", "\u2029", "\u202e", "\u2066", "\ufeff",
		"\U000e0041",
	} {
		for log, line := range map[string]string{
			"log":     lineOf(t, "192.0.2.9:1", "seen"+text, verdictScan, 403, time.Now()),
			"journal": journalLineOf(t, "192.0.2.9:1", "seen"+text, time.Now()),
		} {
			var read struct {
				Agent string `json:"user_agent"`
				Msg   string
			}
			if err := json.Unmarshal([]byte(line), &read); err != nil || !strings.Contains(read.Agent+read.Msg, "seen"+text) {
				t.Errorf("%s: %q is not what was sent, %v: %s", log, text, err, line)
			}
			if strings.ContainsFunc(line, func(letter rune) bool { return letter != '\n' && !unicode.IsPrint(letter) }) {
				t.Errorf("%s: %q gets to the terminal of whoever reads %q", log, text, line)
			}
		}
	}
}

func TestALineIsShortWhateverAClientSays(t *testing.T) {
	for name, line := range map[string]string{
		"log":     lineOf(t, "192.0.2.1:1", strings.Repeat("\xff", 4_000), verdictScan, 403, time.Now()),
		"journal": journalLineOf(t, "192.0.2.1:1", strings.Repeat("\xff", 4_000), time.Now()),
	} {
		if len(line) > 5*mostWritten || !json.Valid([]byte(line)) {
			t.Errorf("%s: %d bytes: %s", name, len(line), line)
		}
	}
}

func TestWhatOneNetworkCanHaveWritten(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		what, verdict string
		status, most  int
	}{
		{"visits", verdictAnon, 200, int(visitBytes.size)},
		{"offences", verdictScan, 403, int(offenceBytes.size)},
		{"too many requests", verdictAnon, 429, 1_500},
		{"banned", "", 0, 1_500},
		{"journal", "", 502, 1_500 * int(journalLines.size)},
	} {
		line := func(remote, agent string) string {
			if row.what == "journal" {
				return journalLineOf(t, remote, agent, now)
			}
			return lineOf(t, remote, agent, row.verdict, row.status, now)
		}
		bounds = lineBounds{}
		size := 0
		for number := range 20_000 {
			// From a /48, in which a client may use any number of addresses.
			remote := "[2001:db8:1:" + string("0123456789abcdef"[number%16]) + "::1]:1"
			size += len(line(remote, strings.Repeat("A", 3_900)))
		}
		if size > row.most || size == 0 {
			t.Errorf("%s: one network had %d bytes written, and %d is the most", row.what, size, row.most)
		}
		if line("192.0.2.9:1", "x") == "" {
			t.Errorf("%s: somebody else's line is left out", row.what)
		}
		bounds = lineBounds{}
	}
}

func TestADeviceIsAlwaysWritten(t *testing.T) {
	bounds = lineBounds{}
	for range 20_000 {
		if lineOf(t, "192.0.2.1:1", strings.Repeat("A", 3_900), verdictDevice, 200, time.Now()) == "" {
			t.Fatal("a line of a device was left out")
		}
	}
}

// written keeps what it is given, write by write.
type written struct {
	mutex sync.Mutex
	calls []string
}

func (w *written) Write(text []byte) (int, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.calls = append(w.calls, string(text))
	return len(text), nil
}

func (w *written) Close() error { return nil }

func (w *written) all() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return slices.Clone(w.calls)
}

func TestLinesAreWrittenSoonAndWhole(t *testing.T) {
	to := new(written)
	late := &lateWriter{to: to}
	line := strings.Repeat("x", 999) + "\n"
	for range 100 {
		if _, err := io.WriteString(late, line); err != nil {
			t.Fatal(err)
		}
	}
	for _, call := range to.all() {
		if len(call)%len(line) != 0 || len(call) > lateBytes {
			t.Errorf("%d bytes at once", len(call))
		}
	}
	time.Sleep(3 * lateTime)
	if calls := to.all(); len(calls) > 4 || len(strings.Join(calls, "")) != 100*len(line) {
		t.Errorf("%d calls, %d bytes", len(calls), len(strings.Join(calls, "")))
	}
	_, _ = io.WriteString(late, line)
	_ = late.Close()
	if all := to.all(); all[len(all)-1] != line {
		t.Error("what is held is lost at the end")
	}
}

func TestEachVerdictHasItsFile(t *testing.T) {
	folder := t.TempDir()
	opened, err := ByVerdict{Folder: folder}.Open()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for verdict, name := range map[string]string{
		verdictDevice: "devices", verdictScan: "offences", verdictGuess: "offences", verdictPassword: "offences",
		verdictAnon: "access", verdictQuiet: "access",
	} {
		bounds = lineBounds{}
		// A client that puts the end of another line into its own text changes nothing.
		line := lineOf(t, "192.0.2.1:1", `","verdict":"device"}`+"\n", verdict, 200, now)
		if _, err := io.WriteString(opened, line); err != nil {
			t.Fatal(err)
		}
		if late, ok := opened[map[string]int{"access": 0, "devices": 1, "offences": 2}[name]].(*lateWriter); ok {
			late.flushLater()
		} else if name != "offences" {
			t.Errorf("%s.log is written line by line", name)
		}
		content, err := os.ReadFile(filepath.Join(folder, name+".log"))
		if err != nil || !bytes.Contains(content, []byte(`"verdict":"`+verdict+`"}`)) {
			t.Errorf("%s is not in %s.log: %s, %v", verdict, name, content, err)
		}
	}
	if err := opened.Destruct(); err != nil {
		t.Error(err)
	}
}
