package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// logsBegin is when the logs of the tests begin: after the key of testPseudonyms was made.
var logsBegin = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// logLine is a line as the edge writes it.
func logLine(after time.Duration, network, deed string) string {
	return fmt.Sprintf(`{"level":"info","ts":%q,"logger":"http.log.access.edge","msg":"handled request","request":{"remote_ip":%q,`+
		`"method":"GET","uri":"/api/assets/a55e7001-1111-4222-8333-444444444444/original?key=REDACTED"},"size":1234,"status":200,`+
		`"user_agent":"Mozilla/5.0 \"deed\":\"open 0000000000000000\"","network":%q%s,"verdict":"anon"}`+"\n",
		logsBegin.Add(after).Format("2006-01-02T15:04:05.000Z0700"), strings.TrimSuffix(network, "/32"), network, deed)
}

func deed(did, pseudonym string) string { return fmt.Sprintf(`,"deed":"%s %s"`, did, pseudonym) }

const linkOne, linkTwo = "1111111111111111", "2222222222222222"

func write(t *testing.T, path, text string) {
	t.Helper()
	content := []byte(text)
	if strings.HasSuffix(path, ".gz") {
		var packed bytes.Buffer
		packer := gzip.NewWriter(&packed)
		_, _ = packer.Write(content)
		_ = packer.Close()
		content = packed.Bytes()
	}
	if err := os.WriteFile(path, content, 0o640); err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, file, logs string, names *pseudonyms) *summary {
	t.Helper()
	counted := readSummary(file, names)
	if err := counted.add(logs); err != nil {
		t.Error(err)
	}
	if err := counted.write(file); err != nil {
		t.Fatal(err)
	}
	return counted
}

func TestAThousandOpensOfOneLinkAreOneRowAndOneNotice(t *testing.T) {
	names, logs, file := testPseudonyms(t), t.TempDir(), filepath.Join(t.TempDir(), "summary")
	var text strings.Builder
	for number := range 1000 {
		text.WriteString(logLine(time.Duration(number)*time.Second, fmt.Sprintf("203.0.%d.%d/32", number/250, number%250), deed("open", linkOne)))
	}
	write(t, filepath.Join(logs, "access.log"), text.String())
	counted := sumOf(t, file, logs, names)
	if len(counted.news) != 1 || len(counted.Links) != 1 || counted.Links[linkOne].Opens != 1000 {
		t.Errorf("%v, %v", counted.news, counted.Links[linkOne])
	}
	if again := sumOf(t, file, logs, names); len(again.news) != 0 || again.Links[linkOne].Opens != 1000 {
		t.Errorf("again: %v, %v", again.news, again.Links[linkOne])
	}
	kept, _ := os.ReadFile(file)
	if bytes.Contains(kept, []byte("203.0.")) {
		t.Error("the address of a visitor is kept")
	}
}

func TestWhatCountsAsOneVisit(t *testing.T) {
	names, logs, file := testPseudonyms(t), t.TempDir(), filepath.Join(t.TempDir(), "summary")
	const here, there = "203.0.113.1/32", "203.0.113.2/32"
	text := ""
	for _, line := range []struct {
		minutes       int
		from, did, of string
	}{
		{0, here, "open", linkOne}, {10, here, "open", linkOne}, {35, here, "open", linkOne}, // one visit that goes on
		{35, there, "open", linkOne}, {36, here, "open", linkTwo}, {66, here, "open", linkOne}, // idle for longer
		{67, here, "download", linkOne}, {68, here, "download", linkOne}, {69, here, "upload", linkOne}, {69, here, "upload", linkOne},
		{70, here, "nonsense", linkOne}, {70, here, "", "4444444444444444"}, {70, here, "open", "short"},
	} {
		text += logLine(time.Duration(line.minutes)*time.Minute, line.from, deed(line.did, line.of))
	}
	// Lines from before the key was made, without a deed, and with a client's text.
	text += logLine(-100_000*time.Hour, here, deed("open", "3333333333333333")) + logLine(time.Hour, here, "")
	write(t, filepath.Join(logs, "access.log"), text+`{"broken":`)
	counted := sumOf(t, file, logs, names)
	want := opened{Opens: 3, Downloads: 1, Uploads: 2, First: logsBegin.Unix(), Last: logsBegin.Add(69 * time.Minute).Unix()}
	if !reflect.DeepEqual(*counted.Links[linkOne], want) || len(counted.Links) != 2 || counted.Links[linkTwo].Opens != 1 {
		t.Errorf("%+v of %d links", *counted.Links[linkOne], len(counted.Links))
	}
}

func TestNothingIsLostOrCountedTwiceWhenLogsRotate(t *testing.T) {
	names, logs, file := testPseudonyms(t), t.TempDir(), filepath.Join(t.TempDir(), "summary")
	line := func(number int) string {
		return logLine(time.Duration(number)*time.Hour, "203.0.113.1/32", deed("open", linkOne))
	}
	current := filepath.Join(logs, "access.log")
	write(t, current, line(1)+line(2))
	sumOf(t, file, logs, names)
	// More lines arrive, half a line is being written, and the file is rotated twice and compressed.
	write(t, current, line(1)+line(2)+line(3)+line(4)[:40])
	if opens := sumOf(t, file, logs, names).Links[linkOne].Opens; opens != 3 {
		t.Errorf("%d opens with half a line", opens)
	}
	write(t, filepath.Join(logs, "access-2026-11-02T00-00-00.000-size.log.gz"), line(1)+line(2)+line(3)+line(4))
	write(t, filepath.Join(logs, "access-2026-11-03T00-00-00.000-size.log"), line(5)+line(6))
	// Still being compressed.
	if err := os.WriteFile(filepath.Join(logs, "access-2026-11-03T00-00-00.000-size.log.gz"), []byte("\x1f\x8b"), 0o640); err != nil {
		t.Fatal(err)
	}
	write(t, current, line(7))
	write(t, filepath.Join(logs, "access-.log.gz.txt"), line(8))
	for range 2 {
		if opens := sumOf(t, file, logs, names).Links[linkOne].Opens; opens != 7 {
			t.Errorf("%d opens in all files", opens)
		}
	}
	// Everything that was read has been rotated away; the totals stay.
	for _, old := range []string{"access-2026-11-02T00-00-00.000-size.log.gz", "access-2026-11-03T00-00-00.000-size.log", "access-2026-11-03T00-00-00.000-size.log.gz"} {
		_ = os.Remove(filepath.Join(logs, old))
	}
	write(t, current, line(9))
	if opens := sumOf(t, file, logs, names).Links[linkOne].Opens; opens != 8 {
		t.Errorf("%d opens in the end", opens)
	}
}

func TestALineThatNamesNoLinkMakesNoRow(t *testing.T) {
	names, logs, file := testPseudonyms(t), t.TempDir(), filepath.Join(t.TempDir(), "summary")
	var text string
	for _, named := range []string{"", "111111111111111", "11111111111111112", "\x1b]0;x\x07\x1b[31mred!", "<b>1111111111</b"} {
		text += logLine(time.Minute, "203.0.113.1/32", deed("open", named))
	}
	write(t, filepath.Join(logs, "access.log"), text)
	if counted := sumOf(t, file, logs, names); len(counted.Links)+len(counted.news) != 0 {
		t.Errorf("%q, %v", counted.news, counted.Links)
	}
}

func TestADamagedLogCostsNoMoreThanItsLines(t *testing.T) {
	names, logs := testPseudonyms(t), t.TempDir()
	write(t, filepath.Join(logs, "access.log"), logLine(0, "203.0.113.1/32", deed("open", linkOne)))
	if err := os.WriteFile(filepath.Join(logs, "access-1.log.gz"), []byte("no gzip"), 0o640); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(logs, "access-2.log"), strings.Repeat("x", 2*mostOfALine)+"\n"+logLine(0, "203.0.113.2/32", deed("open", linkTwo)))
	// The edge's user puts something else in the place of a log.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	write(t, elsewhere, logLine(0, "203.0.113.3/32", deed("open", "5555555555555555")))
	if err := os.Symlink(elsewhere, filepath.Join(logs, "access-3.log")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(logs, "access-4.log"), 0o640); err != nil {
		t.Fatal(err)
	}
	counted := readSummary("/nowhere", names)
	if err := counted.add(logs); err == nil || counted.Links[linkOne].Opens != 1 || len(counted.Links) != 1 {
		t.Errorf("%v, %v", counted.Links, err)
	}
}

func TestASummaryThatIsNoneOrOfAnotherKeyBeginsAnew(t *testing.T) {
	names, file := testPseudonyms(t), filepath.Join(t.TempDir(), "summary")
	for _, text := range []string{"", "{", "null", `{"since":5,"links":{"a":{"opens":1}}}`, `{"since":1700000000,"links":{"a":null}}`} {
		write(t, file, text)
		counted := readSummary(file, names)
		if len(counted.Links) != 0 || counted.Since != names.since.Unix() || counted.Recent == nil {
			t.Errorf("%s: %+v", text, counted)
		}
	}
}

func TestWhatIsRememberedHasBounds(t *testing.T) {
	counted := readSummary("/nowhere", testPseudonyms(t))
	for number := range 3 * mostRecent {
		counted.takeDeed([]byte(logLine(time.Duration(number)*time.Millisecond, fmt.Sprintf("n%d", number), deed("open", fmt.Sprintf("%016x", number)))))
	}
	if len(counted.Links) > mostLinks || len(counted.Links) < mostLinks/2 || len(counted.Recent) > mostRecent || counted.Links[fmt.Sprintf("%016x", 3*mostRecent-1)] == nil {
		t.Errorf("%d links, %d visits", len(counted.Links), len(counted.Recent))
	}
	if text, err := json.Marshal(counted); err != nil || len(text) > mostOfASummary/4 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	counted.forget(logsBegin.Add(time.Hour), nil)
	if len(counted.Links) != 0 {
		t.Errorf("%d links are left", len(counted.Links))
	}
}

func TestADeviceIsSeenWhereItWasLast(t *testing.T) {
	logs := t.TempDir()
	line := func(hours int, address, device string) string {
		plain := logLine(time.Duration(hours)*time.Hour, address, `,"device":"`+device+`"`)
		return strings.Replace(plain, `"anon"`, `"device"`, 1)
	}
	write(t, filepath.Join(logs, "devices-1.log.gz"), line(1, "203.0.113.1/32", linkOne)+line(2, "203.0.113.2/32", linkTwo))
	write(t, filepath.Join(logs, "devices.log"), line(3, "203.0.113.3/32", linkOne)+line(4, "203.0.113.4/32", "9999999999999999"))
	counted := sumOf(t, filepath.Join(t.TempDir(), "summary"), logs, testPseudonyms(t))
	counted.forget(logsBegin, map[string]string{linkOne: "phone", linkTwo: "laptop"})
	if len(counted.Devices) != 2 || counted.Devices[linkOne] != (sighted{logsBegin.Add(3 * time.Hour).Unix(), "203.0.113.3"}) {
		t.Errorf("%+v", counted.Devices)
	}
}

// bigLogs writes 100,000 lines about 200 links to rotated files as large as the edge's.
func bigLogs(folder string) error {
	for file := range 10 {
		var text bytes.Buffer
		for number := range 10_000 {
			text.WriteString(logLine(time.Duration(file*10_000+number)*time.Second, fmt.Sprintf("203.0.%d.%d/32", number%50, number%250),
				deed("open", fmt.Sprintf("%016x", number%200))))
		}
		name, content := fmt.Sprintf("access-2026-11-%02d.log.gz", file+1), text.Bytes()
		if file == 9 {
			name = "access.log"
		} else {
			var packed bytes.Buffer
			packer := gzip.NewWriter(&packed)
			_, _ = packer.Write(content)
			_ = packer.Close()
			content = packed.Bytes()
		}
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o640); err != nil {
			return err
		}
	}
	return nil
}

func TestAHundredThousandLinesTakeLittleMemory(t *testing.T) {
	logs, names := t.TempDir(), testPseudonyms(t)
	if err := bigLogs(logs); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	counted := readSummary("/nowhere", names)
	if err := counted.add(logs); err != nil || len(counted.Links) != 200 {
		t.Fatalf("%d links, %v", len(counted.Links), err)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 100<<20 {
		t.Errorf("%d bytes", grown)
	}
}

func BenchmarkAHundredThousandLines(b *testing.B) {
	logs := b.TempDir()
	if err := bigLogs(logs); err != nil {
		b.Fatal(err)
	}
	names := &pseudonyms{key: make([]byte, 32), since: time.Unix(0, 0)}
	for b.Loop() {
		counted := readSummary("/nowhere", names)
		if err := counted.add(logs); err != nil || len(counted.Links) != 200 {
			b.Fatal(len(counted.Links), err)
		}
	}
}
