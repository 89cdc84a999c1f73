package main

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A list of bans is a text file in the folder of lists:
//
//	NETWORK WORDS      what is banned, and by what: a country, the file of a list, a CrowdSec scenario
//	end COUNT          the last line; without it the file is incomplete
//
// A file whose name begins with a dot is not a list: it is still being written. A finished list is renamed into place.

const (
	listEnd = "end "

	// mostNetworks is per list: MaxMind's database of countries has 1.2 million networks.
	mostNetworks  = 2_000_000
	mostListBytes = 64 << 20
	mostListLine  = 1_000
)

// listEntry is a line of a list.
type listEntry struct {
	network netip.Prefix
	words   string
}

// readNetwork reads an address or a network in any notation. A mapped IPv4 address becomes the IPv4 address, and host bits are
// ignored.
func readNetwork(text string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(text)
	if !strings.Contains(text, "/") {
		var address netip.Addr
		if address, err = netip.ParseAddr(text); err == nil {
			network = netip.PrefixFrom(address.WithZone(""), address.BitLen())
		}
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network", clipped(text, 60))
	}
	if address := network.Addr(); address.Is4In6() {
		if network.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q is not a network", clipped(text, 60))
		}
		network = netip.PrefixFrom(address.Unmap(), network.Bits()-96)
	}
	return network.Masked(), nil
}

// clipped truncates untrusted text for a message.
func clipped(text string, most int) string {
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// readList passes on each line of a list, and fails unless the list is complete.
func readList(path string, take func(listEntry)) error {
	// A FIFO put in its place must not block, and a symbolic link must not be followed.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > mostListBytes {
		return fmt.Errorf("is not a file of at most %d MB", mostListBytes>>20)
	}
	lines := bufio.NewScanner(bufio.NewReaderSize(file, 64<<10))
	lines.Buffer(make([]byte, 0, mostListLine), mostListLine)
	count := 0
	for lines.Scan() {
		line := lines.Text()
		if said, last := strings.CutPrefix(line, listEnd); last {
			if said != strconv.Itoa(count) || lines.Scan() {
				return fmt.Errorf("is damaged at its end")
			}
			return nil
		}
		if count++; count > mostNetworks {
			return fmt.Errorf("holds more than %d networks", mostNetworks)
		}
		text, words, _ := strings.Cut(line, " ")
		network, err := readNetwork(text)
		if err != nil {
			return fmt.Errorf("is damaged: line %d, %w", count, err)
		}
		take(listEntry{network, words})
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("is not whole")
}

// listWriter writes a list to a temporary file.
type listWriter struct {
	path   string
	file   *os.File
	buffer *bufio.Writer
	count  int
	size   int
}

var errLargeList = fmt.Errorf("would be larger than %d MB, which is more than the edge reads", mostListBytes>>20)

// besides returns the path of the temporary file for a list.
func besides(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
}

// newListWriter overwrites what a killed run left behind.
func newListWriter(path string) (*listWriter, error) {
	file, err := os.OpenFile(besides(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	return &listWriter{path: path, file: file, buffer: bufio.NewWriter(file)}, nil
}

func (w *listWriter) add(entry listEntry) error {
	if w.count++; w.count > mostNetworks {
		return fmt.Errorf("holds more than %d networks", mostNetworks)
	}
	size, err := fmt.Fprintf(w.buffer, "%s %s\n", entry.network, clipped(entry.words, mostListLine-100))
	if w.size += size; err == nil && w.size > mostListBytes-mostListLine {
		err = errLargeList
	}
	return err
}

// place renames the list into place. The edge reads it under another account; the folder keeps all others out.
func (w *listWriter) place() error {
	_, err := fmt.Fprintf(w.buffer, "%s%d\n", listEnd, w.count)
	err = cmp.Or(err, w.buffer.Flush(), w.file.Chmod(0o644), w.file.Sync(), w.file.Close())
	if err == nil {
		err = os.Rename(w.file.Name(), w.path)
	}
	if err != nil {
		w.drop()
	}
	return err
}

// drop discards what was written.
func (w *listWriter) drop() {
	_ = w.file.Close()
	_ = os.Remove(w.file.Name())
}

// banTable holds a list in memory: 8 bytes for each IPv4 range and 32 for each IPv6 range.
type banTable struct {
	ranges4 []addressRange[uint32]
	ranges6 []addressRange[wideAddress]
}

type addressRange[A any] struct{ from, to A }

// wideAddress is an IPv6 address.
type wideAddress struct{ high, low uint64 }

func (a wideAddress) compare(b wideAddress) int {
	return cmp.Or(cmp.Compare(a.high, b.high), cmp.Compare(a.low, b.low))
}

func (a wideAddress) next() wideAddress {
	if a.low++; a.low == 0 {
		a.high++
	}
	return a
}

func after4(a uint32) uint32 { return a + 1 }

func wide(address netip.Addr) wideAddress {
	bytes := address.As16()
	return wideAddress{binary.BigEndian.Uint64(bytes[:8]), binary.BigEndian.Uint64(bytes[8:])}
}

func narrow(address netip.Addr) uint32 {
	bytes := address.As4()
	return binary.BigEndian.Uint32(bytes[:])
}

// readTable reads a list. It leaves out what no list may ban.
func readTable(path string) (*banTable, error) {
	table := &banTable{}
	if err := readList(path, table.add); err != nil {
		return nil, err
	}
	table.ranges4 = merged(table.ranges4, cmp.Compare[uint32], after4)
	table.ranges6 = merged(table.ranges6, wideAddress.compare, wideAddress.next)
	return table, nil
}

func (t *banTable) add(entry listEntry) {
	first, bits := entry.network.Addr(), entry.network.Bits()
	if first.Is4() {
		from := narrow(first)
		t.ranges4 = extended(t.ranges4, addressRange[uint32]{from, from | uint32(1<<(32-bits)-1)}, after4)
		return
	}
	from := wide(first)
	to := from
	if bits < 64 {
		to = wideAddress{from.high | (1<<(64-bits) - 1), ^uint64(0)}
	} else if bits < 128 {
		to.low |= 1<<(128-bits) - 1
	}
	t.ranges6 = extended(t.ranges6, addressRange[wideAddress]{from, to}, wideAddress.next)
}

// extended appends a range, or merges it with the last one if the two meet. Most lists are sorted, so the result is then
// minimal.
func extended[A comparable](ranges []addressRange[A], one addressRange[A], next func(A) A) []addressRange[A] {
	var first A // the successor of the last address
	if last := len(ranges) - 1; last >= 0 && one.from != first && next(ranges[last].to) == one.from {
		ranges[last].to = one.to
		return ranges
	}
	return append(ranges, one)
}

// merged sorts ranges and joins those that meet.
func merged[A comparable](ranges []addressRange[A], compare func(a, b A) int, next func(A) A) []addressRange[A] {
	slices.SortFunc(ranges, func(a, b addressRange[A]) int { return compare(a.from, b.from) })
	kept := ranges[:0]
	for _, one := range ranges {
		if last := len(kept) - 1; last >= 0 && (compare(one.from, kept[last].to) <= 0 || one.from == next(kept[last].to)) {
			if compare(one.to, kept[last].to) > 0 {
				kept[last].to = one.to
			}
			continue
		}
		kept = append(kept, one)
	}
	return slices.Clone(kept)
}

// has reports whether an address, unmapped and without a zone, is in the table.
func (t *banTable) has(address netip.Addr) bool {
	if address.Is4() {
		return within(t.ranges4, narrow(address), cmp.Compare[uint32])
	}
	return within(t.ranges6, wide(address), wideAddress.compare)
}

func within[A any](ranges []addressRange[A], address A, compare func(a, b A) int) bool {
	at, exact := slices.BinarySearchFunc(ranges, address, func(one addressRange[A], wanted A) int {
		return compare(one.from, wanted)
	})
	return exact || at > 0 && compare(address, ranges[at-1].to) <= 0
}

// listNames returns the names of the lists in a folder.
func listNames(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// mostSourceBytes is the most that is read of one of the owner's files.
const mostSourceBytes = 128 << 20

// readSource reads one of the owner's files completely before it is used, so truncating it meanwhile does no harm.
func readSource(path string) ([]byte, os.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil, errors.New("is not on the server")
	case errors.Is(err, os.ErrPermission):
		return nil, nil, errUnreadable
	case err != nil:
		return nil, nil, errors.Unwrap(err)
	case !info.Mode().IsRegular():
		return nil, nil, errors.New("is not a file")
	case info.Size() > mostSourceBytes:
		return nil, nil, fmt.Errorf("is larger than %d MB", mostSourceBytes>>20)
	}
	file, err := os.Open(path)
	if errors.Is(err, os.ErrPermission) {
		return nil, nil, errUnreadable
	}
	if err != nil {
		return nil, nil, errors.Unwrap(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, mostSourceBytes))
	return content, info, err
}

var errUnreadable = errors.New("cannot be read by the account immich-bans; make it readable for everybody (chmod a+r, and a+x on its folders), outside home folders")
