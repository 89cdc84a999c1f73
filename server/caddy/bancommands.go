package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// These commands of the edge's program write and query the ban lists. The module's units and the scripts run them.
func init() {
	settings := [2]string{"settings", "`file` that says what is banned by lists"}
	folder := [2]string{"folder", "`folder` of the lists"}
	reports := [2]string{"reports", "`folder` for what became of each"}
	address := [2]string{"address", "`address` of a visitor"}
	registerBanCommand("ban-lists-write", "Writes the lists of countries and networks", writeLists, settings, folder, reports)
	registerBanCommand("ban-lists-follow", "Keeps the list of CrowdSec's decisions; its key is on standard input", followCrowdsec,
		settings, folder, reports)
	registerBanCommand("ban-lists-check", "Prints what is wrong with the sources of lists, LIST SENTENCE a line", checkLists, settings)
	registerBanCommand("ban-lists-find", "Prints LIST NETWORK WORDS for each line that bans an address", findInLists, folder, address)
	registerBanCommand("ban-lists-count", "Prints LIST COUNT WORDS for what most of each list is banned by", countLists, folder)
	registerBanCommand("ban-lists-visit", "Asks the edge on this machine as a visitor from an address, and prints what that gets",
		visitFrom, address, [2]string{"port", "`port` of the edge"}, [2]string{"name", "the exposure's `name`"})
}

func registerBanCommand(name, does string, run caddycmd.CommandFunc, takes ...[2]string) {
	var usage []string
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	for _, one := range takes {
		flags.String(one[0], "", one[1])
		usage = append(usage, "--"+one[0]+" <"+one[0]+">")
	}
	caddycmd.RegisterCommand(caddycmd.Command{
		Name: name, Usage: strings.Join(usage, " "), Short: does, Flags: flags, Func: run,
	})
}

func writerOf(flags caddycmd.Flags) (banWriter, error) {
	sources, err := readBanSources(flags.String("settings"))
	return banWriter{sources, flags.String("folder"), flags.String("reports"), time.Now()}, err
}

func writeLists(flags caddycmd.Flags) (int, error) {
	writer, err := writerOf(flags)
	if err == nil {
		err = writer.write()
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

func followCrowdsec(flags caddycmd.Flags) (int, error) {
	writer, err := writerOf(flags)
	if err != nil {
		return 1, err
	}
	if writer.sources.crowdsec == "" {
		return 0, nil
	}
	key, err := io.ReadAll(io.LimitReader(os.Stdin, 4<<10))
	if err != nil {
		return 1, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := newCrowdsecReader(writer, string(key)).follow(ctx, crowdsecPause); err != nil {
		return 1, err
	}
	return 0, nil
}

func checkLists(flags caddycmd.Flags) (int, error) {
	sources, err := readBanSources(flags.String("settings"))
	if err != nil {
		return 1, err
	}
	for _, said := range sources.problems(time.Now()) {
		fmt.Println(said)
	}
	return 0, nil
}

func findInLists(flags caddycmd.Flags) (int, error) {
	address, err := netip.ParseAddr(flags.String("address"))
	if err != nil {
		return 1, err
	}
	address = address.Unmap().WithZone("")
	if isProtected(address) {
		return 0, nil
	}
	return 0, eachList(flags.String("folder"), func(list string, entry listEntry) {
		if entry.network.Contains(address) {
			fmt.Println(list, entry.network, entry.words)
		}
	})
}

// eachList iterates over the complete lists.
func eachList(folder string, take func(list string, entry listEntry)) error {
	names, err := listNames(folder)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := readList(filepath.Join(folder, name), func(entry listEntry) { take(name, entry) }); err != nil {
			fmt.Fprintf(os.Stderr, "The list %s %v.\n", name, err)
		}
	}
	return nil
}

// mostReasons is how many entries of each list are printed.
const mostReasons = 5

func countLists(flags caddycmd.Flags) (int, error) {
	type reason struct{ list, words string }
	counts := map[reason]int{}
	err := eachList(flags.String("folder"), func(list string, entry listEntry) {
		words := entry.words
		if list == listOfCrowdsec {
			_, words, _ = strings.Cut(words, " ")
		}
		counts[reason{list, words}]++
	})
	if err != nil {
		return 1, err
	}
	byList := map[string][]reason{}
	for one := range counts {
		byList[one.list] = append(byList[one.list], one)
	}
	for _, reasons := range byList {
		slices.SortFunc(reasons, func(a, b reason) int {
			return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a.words, b.words))
		})
		for _, one := range reasons[:min(len(reasons), mostReasons)] {
			fmt.Println(one.list, counts[one], one.words)
		}
	}
	return 0, nil
}

// visitFrom reports how the edge would treat a visitor, by sending what the funnel would send in the PROXY line.
func visitFrom(flags caddycmd.Flags) (int, error) {
	address, err := netip.ParseAddr(flags.String("address"))
	if err != nil {
		return 1, err
	}
	answer, err := visitAs(net.JoinHostPort("127.0.0.1", flags.String("port")), flags.String("name"), address.Unmap())
	if err != nil {
		return 1, err
	}
	fmt.Println(answer)
	return 0, nil
}

// visitAs returns "hung up" for a banned visitor, and the status of the answer for any other.
func visitAs(edge, name string, from netip.Addr) (string, error) {
	connection, err := net.DialTimeout("tcp", edge, answerTimeout)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(answerTimeout))
	family, to := "TCP4", "127.0.0.1"
	if from.Is6() {
		family, to = "TCP6", "::1"
	}
	fmt.Fprintf(connection, "PROXY %s %s %s 40000 443\r\n", family, from.WithZone(""), to)
	// This only asks what answers on a port of this machine, so the certificate is not checked.
	secure := tls.Client(connection, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := secure.Handshake(); err != nil {
		return "", fmt.Errorf("the edge does not take the connection: %w", err)
	}
	fmt.Fprintf(secure, "HEAD / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name)
	response, err := http.ReadResponse(bufio.NewReader(secure), &http.Request{Method: http.MethodHead})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", errors.New("the edge does not answer in time")
	}
	if err != nil {
		return "hung up", nil
	}
	_ = response.Body.Close()
	return fmt.Sprint(response.StatusCode), nil
}
