package main

import (
	"bufio"
	"fmt"
	"net"
	"sort"
	"sync"
	"time"
)

// watch is an ordinary visitor while others attack: so many requests a second at fixed moments, whatever the answers take, so
// that a slow answer hides no other. Each is timed from the moment at which it was due. Every tenth has a connection of its
// own, as a newcomer's first has; the others share four.
func watch(chosen options) report {
	count := int(chosen.duration.Seconds() * float64(chosen.pace))
	const kept = 4
	type due struct{ at time.Time }
	result := report{Statuses: map[string]int{}}
	var mutex sync.Mutex
	var times []float64
	var all sync.WaitGroup
	request := requestFor(chosen)
	note := func(at time.Time, status string, failed bool) {
		mutex.Lock()
		defer mutex.Unlock()
		times = append(times, float64(time.Since(at))/float64(time.Millisecond))
		if failed {
			result.Errors++
		} else {
			result.Statuses[status]++
		}
	}
	queues := make([]chan due, kept)
	for number := range queues {
		queues[number] = make(chan due, count)
		all.Go(func() {
			var connection net.Conn
			var reader *bufio.Reader
			for each := range queues[number] {
				var err error
				if connection == nil {
					if connection, err = dial(chosen); err == nil {
						reader = bufio.NewReader(connection)
					}
				}
				status := 0
				if err == nil {
					status, err = ask(connection, reader, request)
				}
				if err != nil && connection != nil {
					_ = connection.Close()
					connection = nil
				}
				note(each.at, fmt.Sprint(status), err != nil)
			}
			if connection != nil {
				_ = connection.Close()
			}
		})
	}
	start := time.Now()
	for number := range count {
		at := start.Add(time.Duration(number) * time.Second / time.Duration(chosen.pace))
		time.Sleep(time.Until(at))
		if number%10 != 0 {
			queues[number%kept] <- due{at}
			continue
		}
		all.Go(func() {
			connection, err := dial(chosen)
			status := 0
			if err == nil {
				status, err = ask(connection, bufio.NewReader(connection), request)
				_ = connection.Close()
			}
			note(at, fmt.Sprint(status), err != nil)
		})
	}
	for _, queue := range queues {
		close(queue)
	}
	all.Wait()
	result.Seconds = time.Since(start).Seconds()
	sort.Float64s(times)
	result.Requests = len(times)
	result.Median, result.P99 = times[len(times)/2], times[len(times)*99/100]
	return result
}
