package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// The arguments of `who`.
const (
	askSum   = "sum"
	askTable = "table"
	askPage  = "page"
	askLinks = "links"
	askWords = "words"
)

// mostNews is how many first opens are reported one by one.
const mostNews = 20

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "who",
		Usage: "--ask sum|table|page|links|words [--state <folder>] [--logs <folder>] [--immich <address>] [--days <number>]",
		Short: "Says who opened which shared link, which device came when, and what Immich's links allow",
		Long: `
Adds up what the edge's logs have got since the last time, and asks Immich for its links where a key of its API is there.

sum    prints a line for each link that was opened for the first time ("first PSEUDONYM", or "more NUMBER"), and how much
       was counted ("links NUMBER opens NUMBER")
table  who opened what, and what Immich's links allow, for a terminal of 80 columns
page   the same as one page of HTML
links  what Immich's links allow
words  the same as sentences without names, a line each`,
		Flags: func() *flag.FlagSet {
			flags := flag.NewFlagSet("who", flag.ExitOnError)
			flags.String("ask", askTable, "what to say: sum, table, page, links or words")
			flags.String("state", "/var/lib/immich-exposure", "`folder` of the exposure")
			flags.String("logs", "/var/log/immich-edge", "`folder` of the edge's logs")
			flags.String("immich", "", "`address` and port of Immich; without it nobody asks Immich")
			flags.String("key", "", "`file` with a key of Immich's API; without it the one in the exposure's folder")
			flags.Int("days", 90, "`number` of days after which a link that nobody uses is forgotten")
			return flags
		}(),
		Func: sayWho,
	})
}

func sayWho(flags caddycmd.Flags) (int, error) {
	w := &whoSays{
		state: flags.String("state"), logs: flags.String("logs"), immich: flags.String("immich"), key: flags.String("key"),
		days: flags.Int("days"), now: time.Now(),
	}
	if w.key == "" {
		w.key = filepath.Join(w.state, "who", "api-key")
	}
	out := bufio.NewWriter(os.Stdout)
	err := errors.Join(w.say(flags.String("ask"), out), out.Flush())
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// whoSays is one run of `who`.
type whoSays struct {
	state, logs, immich, key string
	days                     int
	now                      time.Time
}

func (w *whoSays) say(ask string, to io.Writer) error {
	names, err := readPseudonyms(filepath.Join(w.state, "who", "key"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if ask == askWords {
		report := w.report(names)
		for _, sentence := range []string{report.trouble, report.leftOut(), report.tooMuch(), report.words(w.now)} {
			if sentence != "" {
				fmt.Fprintln(to, sentence)
			}
		}
		return nil
	}
	var report *linkReport
	if _, err := os.Stat(w.key); err == nil && w.immich != "" && ask != askSum {
		found := w.report(names)
		report = &found
	}
	if ask == askLinks {
		viewOf(nil, report, nil, w.now).printLinks(to)
		return nil
	}
	devices := devicesIn(filepath.Join(w.state, "devices"))
	var counted *summary
	if names != nil {
		counted = w.count(names, devices)
		if ask == askSum {
			// No other run writes it: what is new in it must still be reported.
			if err := counted.write(w.summary()); err != nil {
				return fmt.Errorf("what was counted cannot be saved; make room on its disk: %w", err)
			}
		}
	}
	return w.show(ask, to, counted, viewOf(counted, report, devices, w.now))
}

func (w *whoSays) report(names *pseudonyms) linkReport {
	return askImmich(w.immich, w.key, names)
}

func (w *whoSays) summary() string { return filepath.Join(w.state, "who", "summary") }

// count returns the summary, up to date. A log that cannot be read to its end is reported, and only its unread lines are lost.
func (w *whoSays) count(names *pseudonyms, devices map[string]string) *summary {
	counted := readSummary(w.summary(), names)
	counted.countryOf = countriesOf(w.state, w.now)
	if err := counted.add(w.logs); err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintln(os.Stderr, "A log of the edge cannot be read:", plainText(err.Error()))
	}
	counted.forget(w.now.AddDate(0, 0, -w.days), devices)
	return counted
}

func (w *whoSays) show(ask string, to io.Writer, counted *summary, seen view) error {
	switch ask {
	case askSum:
		if counted != nil {
			printSum(to, counted)
		}
	case askTable:
		if seen.Counted {
			seen.printOpened(to)
		}
		if seen.Counted && (seen.Reported || len(seen.Troubles) > 0) {
			fmt.Fprintln(to)
		}
		seen.printLinks(to)
	case askPage:
		return seen.printPage(to)
	default:
		return fmt.Errorf("who says sum, table, page, links or words, not %q", ask)
	}
	return nil
}

func printSum(to io.Writer, counted *summary) {
	news := counted.news
	for _, pseudonym := range news[:min(len(news), mostNews)] {
		fmt.Fprintln(to, "first", pseudonym)
	}
	if len(news) > mostNews {
		fmt.Fprintln(to, "more", len(news)-mostNews)
	}
	opens := 0
	for _, row := range counted.Links {
		opens += row.Opens
	}
	fmt.Fprintln(to, "links", len(counted.Links), "opens", opens)
}

// devicesIn returns the names of the devices that may come in, by the beginning of their fingerprint as it is in the log.
func devicesIn(folder string) map[string]string {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	devices := map[string]string{}
	for _, entry := range entries {
		text, err := readPlain(filepath.Join(folder, entry.Name()), 1<<10)
		if err != nil || len(entry.Name()) < 16 {
			continue
		}
		name, _, _ := strings.Cut(string(text), "\n")
		devices[entry.Name()[:16]] = plainText(name)
	}
	return devices
}
