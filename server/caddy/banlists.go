package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// banLists holds the networks in the files of a folder, each file as a table in memory. The kernel reports a file that is
// added, removed or replaced, and it is read outside of any request; until then requests use the previous table. An incomplete
// file changes nothing. Neither does a missing folder: a visitor cannot be recognized by its absence.
type banLists struct {
	folder string
	tables atomic.Pointer[[]*banTable]
	read   map[string]readBanList
	logger *zap.Logger
}

type readBanList struct {
	seen  fileSeen
	table *banTable
}

// fileSeen distinguishes files of the same name.
type fileSeen struct {
	inode   uint64
	size    int64
	changed int64
}

const (
	listNews = syscall.IN_CLOSE_WRITE | syscall.IN_DELETE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO | syscall.IN_DELETE_SELF |
		syscall.IN_MOVE_SELF | syscall.IN_ATTRIB | syscall.IN_ONLYDIR

	// listCheck is how often to check that the path still leads to the watched folder, or whether a missing folder has
	// appeared.
	listCheck = 5 * time.Second
	listRetry = time.Second / 2
)

// sharedLists survive a configuration reload, and all sites share them.
var sharedLists struct {
	mutex sync.Mutex
	known map[string]*banLists
}

func banListsIn(folder string) *banLists {
	sharedLists.mutex.Lock()
	defer sharedLists.mutex.Unlock()
	if found := sharedLists.known[folder]; found != nil {
		return found
	}
	made := newBanLists(folder)
	if sharedLists.known == nil {
		sharedLists.known = map[string]*banLists{}
	}
	sharedLists.known[folder] = made
	go made.follow()
	return made
}

// newBanLists reads the existing lists before it returns, so no request is served without them.
func newBanLists(folder string) *banLists {
	made := &banLists{folder: folder, read: map[string]readBanList{}, logger: caddy.Log().Named("ban_lists")}
	made.load()
	return made
}

// has reports whether a list bans an address, which is unmapped and without a zone.
func (b *banLists) has(address netip.Addr) bool {
	tables := b.tables.Load()
	if tables == nil {
		return false
	}
	for _, table := range *tables {
		if table.has(address) {
			return !isProtected(address)
		}
	}
	return false
}

// load applies what has changed in the folder.
func (b *banLists) load() {
	names, err := listNames(b.folder)
	if err != nil {
		return
	}
	found := map[string]readBanList{}
	var tables []*banTable
	for _, name := range names {
		before, known := b.read[name]
		one, err := before.refreshed(filepath.Join(b.folder, name))
		if errors.Is(err, syscall.ENOENT) {
			continue // removed at this very moment
		}
		if err != nil {
			b.logger.Error("a list of bans changes nothing, because it "+err.Error(), zap.String("list", name), zap.Bool("in_force", known))
		}
		found[name] = one
		if one.table != nil {
			tables = append(tables, one.table)
		}
	}
	b.read = found
	if len(tables) == 0 {
		b.tables.Store(nil)
		return
	}
	b.tables.Store(&tables)
}

// refreshed returns the current list, or the previous one if the file cannot be read.
func (l readBanList) refreshed(path string) (readBanList, error) {
	var info syscall.Stat_t
	if err := syscall.Lstat(path, &info); err != nil {
		return l, err
	}
	seen := fileSeen{info.Ino, info.Size, info.Mtim.Nano()}
	if seen == l.seen {
		return l, nil
	}
	table, err := readTable(path)
	if err != nil {
		return readBanList{seen, l.table}, err
	}
	return readBanList{seen, table}, nil
}

// follow waits for changes in the folder, or for the folder to appear. It never returns.
func (b *banLists) follow() {
	for {
		if queue, err := watchLists(b.folder); err == nil {
			b.load()
			b.untilItMoves(queue)
			_ = queue.Close()
		}
		time.Sleep(listRetry)
	}
}

// watchLists returns a file that delivers the kernel's events for a folder.
func watchLists(folder string) (*os.File, error) {
	queue, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := syscall.InotifyAddWatch(queue, folder, listNews); err != nil {
		_ = syscall.Close(queue)
		return nil, err
	}
	return os.NewFile(uintptr(queue), "inotify"), nil
}

// untilItMoves reloads at each event until the path leads to another folder.
func (b *banLists) untilItMoves(queue *os.File) {
	var began, now syscall.Stat_t
	if syscall.Stat(b.folder, &began) != nil {
		return
	}
	var buffer [4096]byte
	for {
		_ = queue.SetReadDeadline(time.Now().Add(listCheck))
		_, err := queue.Read(buffer[:])
		if syscall.Stat(b.folder, &now) != nil || now.Dev != began.Dev || now.Ino != began.Ino {
			return
		}
		switch {
		case err == nil:
			b.load()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			b.logger.Error("no news of the lists of bans", zap.Error(err))
			return
		}
	}
}
