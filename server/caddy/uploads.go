package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	caddy.RegisterModule(new(GuestUploads))
	caddy.RegisterModule(uploadsAPI{})
	httpcaddyfile.RegisterHandlerDirective("guest_uploads", parseGuestUploads)
	httpcaddyfile.RegisterDirectiveOrder("guest_uploads", httpcaddyfile.Before, "reverse_proxy")
}

// GuestUploads lets a stranger's upload through within budgets, and only as a form with a photo or a video in it:
//
//	guest_uploads {
//		surface FILE
//		each    SIZE
//		link    SIZE FILES  of one link, in any hour
//		all     SIZE FILES  of all links together, in any hour
//		room    FILE SIZE   how much must stay free where Immich puts uploads; the file says how much is free now
//	}
//
// It comes after the gate, which lets uploads through only if the owner has switched them on, and after key_guesses, which
// gives the verdict: Immich's own refusals count as always, and refusals by this handler are no offence. It asks Immich for the
// link first; only a link that takes uploads has a budget of its own.
type GuestUploads struct {
	Surface string      `json:"surface"`
	Each    int64       `json:"each"`
	Link    UploadLimit `json:"link"`
	All     UploadLimit `json:"all"`
	Room    string      `json:"room"`
	Floor   int64       `json:"floor"`

	types uploadTypes
}

// uploadCall is the call with which Immich's page uploads; [uploads] of surface.toml describes its form.
const uploadCall = "/api/assets"

// CaddyModule returns the Caddy module information.
func (*GuestUploads) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.guest_uploads", New: func() caddy.Module { return new(GuestUploads) }}
}

func parseGuestUploads(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(GuestUploads)
	h.Next()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	for h.NextBlock(0) {
		if err := handler.parseLine(h.Val(), h.RemainingArgs(), filepath.Dir(h.File())); err != nil {
			return nil, h.WrapErr(err)
		}
	}
	return handler, nil
}

// parseLine reads a line of the block. `folder` is where the Caddyfile is.
func (g *GuestUploads) parseLine(field string, values []string, folder string) (err error) {
	switch {
	case field == "surface" && len(values) == 1:
		g.Surface, err = filepath.Abs(filepath.Join(folder, values[0]))
	case field == "each" && len(values) == 1:
		g.Each, err = sizeOf(values[0])
	case field == "link" && len(values) == 2:
		g.Link, err = parseUploadLimit(values)
	case field == "all" && len(values) == 2:
		g.All, err = parseUploadLimit(values)
	case field == "room" && len(values) == 2:
		g.Room = values[0]
		g.Floor, err = sizeOf(values[1])
	default:
		err = fmt.Errorf("guest_uploads has no line %q with %d values", field, len(values))
	}
	return err
}

func parseUploadLimit(values []string) (limit UploadLimit, err error) {
	if limit.Bytes, err = sizeOf(values[0]); err == nil {
		limit.Files, err = strconv.ParseInt(values[1], 10, 64)
	}
	return limit, err
}

func sizeOf(text string) (int64, error) {
	size, err := humanize.ParseBytes(text)
	return int64(size), err
}

// Provision reads what an upload may hold.
func (g *GuestUploads) Provision(caddy.Context) (err error) {
	g.types, err = readUploadTypes(g.Surface)
	return err
}

// Validate rejects budgets that are not positive.
func (g *GuestUploads) Validate() error {
	for name, number := range map[string]int64{
		"each": g.Each, "link": min(g.Link.Bytes, g.Link.Files), "all": min(g.All.Bytes, g.All.Files), "room": g.Floor,
	} {
		if number < 1 {
			return fmt.Errorf("guest_uploads: %s needs numbers from 1 on", name)
		}
	}
	if g.Room == "" {
		return errors.New("guest_uploads: room needs a file that says how much is free")
	}
	return nil
}

// uploadRefusal is why an upload is refused, as a sentence that Immich's page can show.
type uploadRefusal struct {
	status   int
	sentence string
	wait     time.Duration
}

func (r *uploadRefusal) Error() string { return r.sentence }

var (
	refusedSilent   = &uploadRefusal{http.StatusServiceUnavailable, "Immich does not answer, so nothing can be uploaded; try again later.", time.Minute}
	refusedPassword = &uploadRefusal{http.StatusUnauthorized, "Password required", 0}
	refusedRight    = &uploadRefusal{http.StatusUnauthorized, "This link takes no uploads.", 0}
	refusedForm     = &uploadRefusal{http.StatusUnsupportedMediaType, errForm.Error(), 0}
	refusedType     = &uploadRefusal{http.StatusUnsupportedMediaType, errType.Error(), 0}
	refusedSize     = &uploadRefusal{http.StatusRequestEntityTooLarge, "This file is bigger than an upload through a link may be.", 0}
	refusedFull     = &uploadRefusal{http.StatusInsufficientStorage, "The disk of this server is nearly full, so nothing can be uploaded through links.", 10 * time.Minute}
	refusedUnknown  = &uploadRefusal{http.StatusInsufficientStorage, "It is not known how much space this server has left, so nothing can be uploaded through links; try again in a minute.", time.Minute}
)

func refusedBudget(ofLink bool, wait time.Duration) *uploadRefusal {
	sentence := "Enough was uploaded through links for now; try again later."
	if ofLink {
		sentence = "Enough was uploaded through this link for now; try again later."
	}
	return &uploadRefusal{http.StatusTooManyRequests, sentence, wait}
}

// answer writes the refusal in the form of Immich's own.
func (r *uploadRefusal) answer(w http.ResponseWriter) error {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if r.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(r.wait/time.Second)+1))
	}
	w.WriteHeader(r.status)
	return json.NewEncoder(w).Encode(struct {
		Message string `json:"message"`
		Error   string `json:"error"`
		Status  int    `json:"statusCode"`
	}{r.sentence, http.StatusText(r.status), r.status})
}

// ServeHTTP passes on uploads that are allowed, and everything that is not an upload.
func (g *GuestUploads) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method != http.MethodPost || r.URL.Path != uploadCall {
		return next.ServeHTTP(w, r)
	}
	found, err := asker{next, r}.about(linkOfQuery(r))
	switch {
	case err != nil || found.status >= http.StatusInternalServerError:
		return refusedSilent.answer(w)
	case found.status == http.StatusUnauthorized && wantsPassword(found.refusal):
		return refusedPassword.answer(w)
	case found.status != http.StatusOK:
		// Immich says in its own words that it does not know the link, without having received any of the upload.
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
		r.Header.Del("Content-Length")
		return next.ServeHTTP(w, r)
	case !found.uploads:
		return refusedRight.answer(w)
	}
	body, refusal := g.admit(r, linkHash(found.id), time.Now())
	if refusal != nil {
		return refusal.answer(w)
	}
	defer body.end()
	defer trust(r)()
	if err := body.prime(); err != nil {
		if problem := body.refusal(); problem != nil {
			return problem.answer(w)
		}
		return caddyhttp.Error(http.StatusBadRequest, err) // not our fault
	}
	r.Body = body
	answered := &uploadAnswer{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	err = next.ServeHTTP(answered, r)
	if problem := body.refusal(); problem != nil && !answered.written {
		return problem.answer(w)
	}
	if err != nil {
		return err
	}
	return answered.finish()
}

// linkOfQuery returns the link in the query; the gate has checked that there is exactly one.
func linkOfQuery(r *http.Request) link {
	query := r.URL.Query()
	if key := query.Get("key"); key != "" {
		return link{"key", key}
	}
	return link{"slug", query.Get("slug")}
}

// admit decides about an upload by what is known before its first byte.
func (g *GuestUploads) admit(r *http.Request, link uint64, now time.Time) (*guestBody, *uploadRefusal) {
	boundary := boundaryOf(r.Header["Content-Type"])
	announced := max(r.ContentLength, 0)
	switch {
	case boundary == "" || r.ContentLength == 0:
		return nil, refusedForm
	case announced > min(g.Each, g.Link.Bytes, g.All.Bytes):
		return nil, refusedSize
	}
	_, coming := uploads.lately(now)
	if refusal := g.roomFor(coming.Bytes+announced, now); refusal != nil {
		return nil, refusal
	}
	admitted, wait, ofLink := uploads.admit(link, announced, g.Link, g.All, now)
	if admitted == nil {
		return nil, refusedBudget(ofLink, wait)
	}
	body := &guestBody{handler: g, source: r.Body, upload: admitted}
	body.form = newForm(arriving{body}, boundary, g.types, func() { admitted.begin(time.Now()) })
	return body, nil
}

func (g *GuestUploads) roomFor(bytes int64, now time.Time) *uploadRefusal {
	switch enough, known := roomForUploads.has(g.Room, bytes, g.Floor, now); {
	case !known:
		return refusedUnknown
	case !enough:
		return refusedFull
	}
	return nil
}

// guestBody is the body of an upload on its way to Immich: counted as it arrives, checked, and cut off when it may not go on.
// The proxy may still read from it when the request is over.
type guestBody struct {
	handler *GuestUploads
	source  io.ReadCloser
	upload  *upload
	form    *form

	mutex   sync.Mutex
	problem *uploadRefusal
}

// Read returns what has been parsed.
func (b *guestBody) Read(into []byte) (int, error) {
	count, err := b.form.Read(into)
	if err != nil && err != io.EOF {
		b.note(err)
	}
	return count, err
}

// prime checks the beginning before Immich gets anything.
func (b *guestBody) prime() error {
	err := b.form.prime()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		b.note(err)
	}
	return err
}

// Close closes the visitor's body.
func (b *guestBody) Close() error { return b.source.Close() }

func (b *guestBody) end() { b.upload.end() }

// note remembers why the upload was cut off; connection errors are not our fault.
func (b *guestBody) note(err error) {
	var refusal *uploadRefusal
	var problem caddyhttp.HandlerError
	switch {
	case errors.As(err, &refusal):
	case errors.Is(err, errForm):
		refusal = refusedForm
	case errors.Is(err, errType):
		refusal = refusedType
	case errors.As(err, &problem) && problem.StatusCode == http.StatusRequestEntityTooLarge:
		refusal = refusedSize
	default:
		return
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.problem == nil {
		b.problem = refusal
	}
}

func (b *guestBody) refusal() *uploadRefusal {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.problem
}

// arriving is the body as it comes in.
type arriving struct{ body *guestBody }

// Read counts what has arrived. It withholds what has no room, on the disk or in a budget.
func (a arriving) Read(into []byte) (int, error) {
	count, err := a.body.source.Read(into)
	if count == 0 {
		return 0, err
	}
	now := time.Now()
	if refusal := a.body.handler.roomFor(int64(count), now); refusal != nil {
		return 0, refusal
	}
	if !a.body.upload.take(int64(count), now) {
		return 0, refusedBudget(true, slotSpan)
	}
	roomForUploads.let(int64(count))
	return count, err
}

// uploadAnswer is Immich's answer to an upload. Immich reveals whether the owner already has the same file. A client that only
// has a link must not learn that, so both answers become the same.
type uploadAnswer struct {
	*caddyhttp.ResponseWriterWrapper
	written bool // the visitor has received the beginning of an answer
	held    bool
	said    []byte
}

// mostOfUploadAnswer is more than an id and a word take, in bytes.
const mostOfUploadAnswer = 4_096

func (a *uploadAnswer) WriteHeader(status int) {
	if status == http.StatusOK || status == http.StatusCreated {
		a.held = true
		return
	}
	a.written = a.written || status >= http.StatusOK
	a.ResponseWriterWrapper.WriteHeader(status)
}

func (a *uploadAnswer) Write(said []byte) (int, error) {
	if !a.held && !a.written {
		a.held = true // an answer without an explicit status is a 200
	}
	if !a.held {
		return a.ResponseWriterWrapper.Write(said)
	}
	a.said = append(a.said, said[:min(len(said), mostOfUploadAnswer-len(a.said))]...)
	return len(said), nil
}

// ReadFrom keeps the wrapper's own ReadFrom from bypassing Write.
func (a *uploadAnswer) ReadFrom(source io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{a}, source)
}

// FlushError sends nothing while the answer is held.
func (a *uploadAnswer) FlushError() error {
	if a.held {
		return nil
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// finish sends an answer in place of one that was held.
func (a *uploadAnswer) finish() error {
	if !a.held {
		return nil
	}
	var made struct {
		ID     string `json:"id,omitempty"`
		Status string `json:"status"`
	}
	if err := json.Unmarshal(a.said, &made); err != nil {
		made.ID = ""
	}
	made.Status = "created"
	text, err := json.Marshal(made)
	if err != nil {
		return err
	}
	header := a.Header()
	for _, name := range []string{"Etag", "Content-Encoding", "Transfer-Encoding", "Last-Modified"} {
		header.Del(name)
	}
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(text)))
	a.ResponseWriterWrapper.WriteHeader(http.StatusCreated)
	_, err = a.ResponseWriterWrapper.Write(text)
	return err
}

// uploadsAPI reports what was uploaded within the last hour, as a line "BYTES FILES", to clients of Caddy's admin socket, which
// only root can use.
type uploadsAPI struct{}

// CaddyModule returns the Caddy module information.
func (uploadsAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.uploads", New: func() caddy.Module { return uploadsAPI{} }}
}

// Routes returns the single route.
func (uploadsAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/uploads", Handler: caddy.AdminHandlerFunc(tellUploads)}}
}

func tellUploads(w http.ResponseWriter, _ *http.Request) error {
	used, _ := uploads.lately(time.Now())
	_, err := fmt.Fprintln(w, used.Bytes, used.Files)
	return err
}

var (
	_ caddyhttp.MiddlewareHandler = (*GuestUploads)(nil)
	_ caddy.Provisioner           = (*GuestUploads)(nil)
	_ caddy.Validator             = (*GuestUploads)(nil)
	_ caddy.AdminRouter           = uploadsAPI{}
)
