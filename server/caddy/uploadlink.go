package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// linkOfUpload is what Immich says about the link that an upload names.
type linkOfUpload struct {
	status int
	// id is Immich's own, the same for the link's key and its slug.
	id      string
	uploads bool
	refusal []byte
}

// about asks Immich for a link's data as its page does, with the visitor's address and proof of the link's password. It returns
// an error if there is no usable answer.
func (a asker) about(l link) (linkOfUpload, error) {
	ctx, cancel := context.WithTimeout(a.request.Context(), askPatience)
	defer cancel()
	question := questionAbout(l, a.request.Clone(ctx))
	if cookies := a.request.Header["Cookie"]; len(cookies) > 0 {
		question.Header["Cookie"] = cookies
	}
	reader, writer := io.Pipe()
	said := &linkAnswer{discarded: discarded{header: http.Header{}}, body: writer}
	var found linkOfUpload
	read := make(chan error)
	go func() {
		problem := found.read(reader)
		_, _ = io.Copy(io.Discard, reader) // otherwise the proxy would block
		read <- problem
	}()
	err := a.ask(said, question)
	_ = writer.Close()
	if problem := <-read; err == nil && said.status == http.StatusOK {
		err = problem
	}
	found.status, found.refusal = said.status, said.said
	return found, err
}

func (a asker) ask(said http.ResponseWriter, question *http.Request) (err error) {
	defer func() {
		if recover() != nil { // the proxy's way of reporting a truncated answer
			err = errors.New("the answer broke off")
		}
	}()
	return a.next.ServeHTTP(said, question)
}

// read takes the id and the permissions from a link's data, and discards the rest: it may list thousands of photos.
func (l *linkOfUpload) read(from io.Reader) error {
	decoder := json.NewDecoder(from)
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return errors.New("a link's data is no object")
	}
	for decoder.More() {
		name, err := decoder.Token()
		switch {
		case err != nil:
		case name == "id":
			err = decoder.Decode(&l.id)
		case name == "allowUpload":
			err = decoder.Decode(&l.uploads)
		default:
			err = skip(decoder)
		}
		if err != nil {
			return err
		}
	}
	if l.id == "" {
		return errors.New("a link's data has no id")
	}
	return nil
}

// skip skips one value.
func skip(decoder *json.Decoder) error {
	for depth := 0; ; {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// linkAnswer passes a link's data on as it arrives, and keeps the beginning of a refusal.
type linkAnswer struct {
	discarded
	body *io.PipeWriter
}

func (a *linkAnswer) Write(said []byte) (int, error) {
	if a.status == http.StatusOK || a.status == 0 {
		return a.body.Write(said)
	}
	return a.discarded.Write(said)
}
