// Command load measures an edge on loopback: it speaks as tailscaled does (a PROXY line, then the visitor's
// TLS), which no usual load generator can.
//
//	load backend ADDRESS          answer everything with 1 KB, like an Immich that costs nothing
//	load album ADDRESS            answer like an Immich with one link to 500 photos
//	load run [flags]              ask, and print one JSON object with what was seen
//	load watch [flags]            ask now and then, as a visitor does, and print the same
//	load attack -kind KIND        attack, and print how often
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// bodySize is about what a page asks for most: small answers of the API and thumbnails in the cache.
const bodySize = 1024

// patience ends a request that hangs, so that a run is bounded whatever the edge does.
const patience = 5 * time.Second

type options struct {
	address     string
	host        string
	target      string // "%s" in it stands for the id of one of 500 photos, another each time; each 501st is the page
	page        string
	plain       bool // no PROXY line and no TLS
	connections int
	duration    time.Duration
	fresh       bool
	pace        int
	kind        string
	device      *tls.Certificate
}

// report is what a run saw; times in milliseconds.
type report struct {
	Requests int            `json:"requests"`
	Seconds  float64        `json:"seconds"`
	Median   float64        `json:"median"`
	P99      float64        `json:"p99"`
	Errors   int            `json:"errors"`
	Statuses map[string]int `json:"statuses"`
}

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func command(arguments []string) error {
	if len(arguments) == 2 && arguments[0] == "backend" {
		return backend(arguments[1])
	}
	if len(arguments) == 2 && arguments[0] == "album" {
		return albumBackend(arguments[1])
	}
	if len(arguments) == 0 {
		return errors.New("use: load backend ADDRESS, or load run|watch|attack [flags]")
	}
	chosen, err := parse(arguments[1:])
	if err != nil {
		return err
	}
	var seen any
	switch arguments[0] {
	case "run":
		seen = run(chosen)
	case "watch":
		seen = watch(chosen)
	case "attack":
		seen, err = attack(chosen)
	default:
		err = fmt.Errorf("there is no %q", arguments[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(seen)
}

func parse(arguments []string) (options, error) {
	var chosen options
	var certificate, key string
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.StringVar(&chosen.address, "address", "", "where the edge listens")
	flags.StringVar(&chosen.host, "host", "", "the name in the handshake and in Host")
	flags.StringVar(&chosen.target, "target", "/", "what to ask for")
	flags.StringVar(&chosen.page, "page", "/", "the page that photos belong to")
	flags.BoolVar(&chosen.plain, "plain", false, "without PROXY line and TLS")
	flags.IntVar(&chosen.connections, "connections", 16, "visitors at the same time, each from its own address")
	flags.DurationVar(&chosen.duration, "duration", time.Second, "how long")
	flags.BoolVar(&chosen.fresh, "fresh", false, "a new connection for each request")
	flags.IntVar(&chosen.pace, "pace", 50, "of watch: requests a second")
	flags.StringVar(&chosen.kind, "kind", "", "of attack: which one")
	flags.StringVar(&certificate, "certificate", "", "certificate of a device (PEM)")
	flags.StringVar(&key, "key", "", "its key (PEM)")
	if err := flags.Parse(arguments); err != nil {
		return chosen, err
	}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return chosen, err
		}
		chosen.device = &pair
	}
	return chosen, nil
}

func backend(address string) error {
	body := make([]byte, bodySize)
	server := &http.Server{
		Addr:              address,
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
			answer.Header().Set("Content-Type", "application/octet-stream")
			_, _ = answer.Write(body)
		}),
	}
	return server.ListenAndServe()
}

// visitor counts the connections ever made, so that each comes from an address of its own and no limit per
// address is what gets measured.
var visitor atomic.Uint32

func run(chosen options) report {
	var mutex sync.Mutex
	var times []float64
	result := report{Statuses: map[string]int{}}
	start := time.Now()
	end := start.Add(chosen.duration)
	var all sync.WaitGroup
	for range chosen.connections {
		all.Go(func() {
			mine := report{Statuses: map[string]int{}}
			seen := visit(chosen, end, &mine)
			mutex.Lock()
			defer mutex.Unlock()
			times = append(times, seen...)
			result.Errors += mine.Errors
			for status, count := range mine.Statuses {
				result.Statuses[status] += count
			}
		})
	}
	all.Wait()
	result.Seconds = time.Since(start).Seconds()
	result.Requests = len(times)
	sort.Float64s(times)
	if len(times) > 0 {
		result.Median = times[len(times)/2]
		result.P99 = times[len(times)*99/100]
	}
	return result
}

// visit asks until the end and returns the time of each answer; with fresh connections the handshake is in it.
func visit(chosen options, end time.Time, seen *report) []float64 {
	request := requestFor(chosen)
	var times []float64
	var connection net.Conn
	var reader *bufio.Reader
	drop := func() {
		if connection != nil {
			_ = connection.Close()
			connection = nil
		}
	}
	defer drop()
	for time.Now().Before(end) {
		begin := time.Now()
		if connection == nil {
			var err error
			if connection, err = dial(chosen); err != nil {
				seen.Errors++
				continue
			}
			reader = bufio.NewReader(connection)
		}
		if strings.Contains(chosen.target, "%s") {
			request = requestFor(photoOf(chosen, len(times)))
		}
		status, err := ask(connection, reader, request)
		if err != nil {
			seen.Errors++
			drop()
			continue
		}
		times = append(times, float64(time.Since(begin))/float64(time.Millisecond))
		seen.Statuses[fmt.Sprint(status)]++
		if chosen.fresh {
			drop()
		}
	}
	return times
}

func requestFor(chosen options) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: load\r\n\r\n", chosen.target, chosen.host)
}

// photoOf returns what to ask for next: the page first, then one photo after another.
func photoOf(chosen options, number int) options {
	if number %= albumPhotos + 1; number == 0 {
		chosen.target = chosen.page
	} else {
		chosen.target = fmt.Sprintf(chosen.target, photoID(number-1))
	}
	return chosen
}

func dial(chosen options) (net.Conn, error) {
	plain, err := net.DialTimeout("tcp", chosen.address, patience)
	if err != nil || chosen.plain {
		return plain, err
	}
	number := visitor.Add(1)
	line := fmt.Sprintf("PROXY TCP4 100.%d.%d.%d 203.0.113.1 40000 443\r\n", number>>16&255, number>>8&255, number&255)
	if _, err := io.WriteString(plain, line); err != nil {
		_ = plain.Close()
		return nil, err
	}
	// Whose certificate it is does not matter here: the edge's own cost is what counts.
	config := &tls.Config{ServerName: chosen.host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	if chosen.device != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return chosen.device, nil
		}
	}
	connection := tls.Client(plain, config)
	_ = connection.SetDeadline(time.Now().Add(patience))
	if err := connection.Handshake(); err != nil {
		_ = plain.Close()
		return nil, err
	}
	return connection, nil
}

func ask(connection net.Conn, reader *bufio.Reader, request []byte) (int, error) {
	_ = connection.SetDeadline(time.Now().Add(patience))
	if _, err := connection.Write(request); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}
