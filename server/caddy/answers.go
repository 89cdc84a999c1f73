package main

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(new(Answers))
	httpcaddyfile.RegisterHandlerDirective("answers", parseAnswers)
	httpcaddyfile.RegisterDirectiveOrder("answers", httpcaddyfile.Before, "header")
}

// Answers does what every answer needs, whichever handler gives it. It sets the headers that all answers have, so that they
// override what Immich sets, and writes a line to the access log (accesslog.go):
//
//	answers {
//		log     FOLDER [MEGABYTES]
//		visitor BITS
//		who     on|off FILE
//	}
//
// The log is three files in the folder (logfiles.go). `visitor` says what a ban would cover: an IPv4 address, or this many bits
// of an IPv6 address [64]. With `who on`, a line about what a visitor did with a link names the link by a pseudonym made with
// the key in the file (deeds.go), and a line about a device has the beginning of its certificate's fingerprint. If the file
// cannot be read, the lines have neither, and the journal says why.
//
// It comes first, also in the error routes, so that failures are logged as well. It does the work of Caddy's own `header` with
// `defer` and of its access log at a fraction of the cost: one wrapper around the answer, and one line built in a single pass.
type Answers struct {
	Log     ByVerdict `json:"log"`
	Bits    int       `json:"bits,omitempty"`
	KeyFile string    `json:"key_file,omitempty"`

	log accessLog
}

// everyAnswer are the headers of every answer. The values are never changed in place.
var everyAnswer = map[string][]string{
	"Strict-Transport-Security": {"max-age=31536000"},
	"X-Content-Type-Options":    {"nosniff"},
	"X-Robots-Tag":              {"noindex, nofollow"},
	"Referrer-Policy":           {"no-referrer"},
}

// noFrames is added to any policy that an answer has.
const noFrames = "frame-ancestors 'none'"

// logs are the open files of the access logs, which survive a configuration reload.
var logs = caddy.NewUsagePool()

// CaddyModule returns the Caddy module information.
func (*Answers) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.answers", New: func() caddy.Module { return new(Answers) }}
}

func parseAnswers(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	answers := &Answers{Bits: networkBits}
	h.Next()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	for h.NextBlock(0) {
		var err error
		switch field, values := h.Val(), h.RemainingArgs(); {
		case field == "log" && len(values) > 0:
			answers.Log, err = parseByVerdict(values)
		case field == "visitor" && len(values) == 1:
			answers.Bits, err = strconv.Atoi(values[0])
			if err != nil || answers.Bits < wideBits || answers.Bits > 128 {
				return nil, h.Errf("a visitor is a number of bits from %d to 128, not %q", wideBits, values[0])
			}
		case field == "who" && len(values) == 2 && values[0] == "off":
		case field == "who" && len(values) == 2 && values[0] == "on":
			answers.KeyFile = values[1]
		default:
			return nil, h.Errf("answers has no line %q with the values %q", field, values)
		}
		if err != nil {
			return nil, h.WrapErr(err)
		}
	}
	if answers.Log.Folder == "" {
		return nil, h.Err("answers needs a folder for its log")
	}
	return answers, nil
}

// Provision opens the log.
func (a *Answers) Provision(caddy.Context) error {
	files, _, err := logs.LoadOrNew(a.Log.Key(), func() (caddy.Destructor, error) { return a.Log.Open() })
	if err != nil {
		return err
	}
	a.log = accessLog{bits: a.Bits, to: files.(*verdictFiles)}
	if a.KeyFile == "" {
		return nil
	}
	names, err := readPseudonyms(a.KeyFile)
	if err != nil {
		caddy.Log().Named("who").Warn("who opened what is not recorded", zap.Error(err))
		return nil
	}
	a.log.names = names
	return nil
}

// Cleanup closes the log, unless another configuration still writes to it.
func (a *Answers) Cleanup() error {
	if a.log.to == nil {
		return nil
	}
	_, err := logs.Delete(a.Log.Key())
	return err
}

// answeredVar is where a failed request keeps its answer for the error routes.
const answeredVar = "immich_exposure_answered"

// ServeHTTP passes the request on.
func (a *Answers) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	_, again := r.Context().Value(caddyhttp.ErrorCtxKey).(error)
	answer, kept := caddyhttp.GetVar(r.Context(), answeredVar).(*answered)
	if again && kept {
		answer.ResponseWriter, answer.headed = w, false
	} else {
		answer = newAnswered(w, r)
	}
	isOver := true // also when a handler panics, which is how a connection is ended
	defer func() {
		if isOver {
			a.log.write(answer, r)
		}
	}()
	err := next.ServeHTTP(answer, r)
	if err == nil {
		answer.head() // an answer that no handler wrote is an empty 200
		return nil
	}
	if !again {
		isOver = false
		caddyhttp.SetVar(r.Context(), answeredVar, answer)
		return err
	}
	var problem caddyhttp.HandlerError
	if errors.As(err, &problem) && answer.status == 0 {
		answer.status = problem.StatusCode // which is what Caddy answers with
	}
	return err
}

// answered is an answer, what the log says of it, and the request as it arrived.
type answered struct {
	caddyhttp.ResponseWriterWrapper
	headed bool
	status int
	size   int64
	began  time.Time
	body   countedBody

	method, host, target, agent string
}

func newAnswered(w http.ResponseWriter, r *http.Request) *answered {
	made := &answered{
		began: time.Now(), method: r.Method, host: r.Host, target: r.RequestURI, agent: r.Header.Get("User-Agent"),
	}
	made.ResponseWriter = w
	if r.Body != nil && hasBody(r) {
		made.body.ReadCloser = r.Body
		r.Body = &made.body
	}
	return made
}

func (a *answered) head() {
	if a.headed {
		return
	}
	a.headed = true
	header := a.Header()
	delete(header, "Server") // first, to make room for the others
	delete(header, "Via")
	for name, value := range everyAnswer {
		header[name] = value
	}
	header["Content-Security-Policy"] = append(header["Content-Security-Policy"], noFrames)
}

// WriteHeader starts counting the body, unless the status is informational (1xx).
func (a *answered) WriteHeader(status int) {
	if status > 199 || status == http.StatusSwitchingProtocols {
		a.head()
	}
	if a.status < 200 {
		a.status = status
	}
	a.ResponseWriterWrapper.WriteHeader(status)
}

func (a *answered) Write(body []byte) (int, error) {
	a.begin()
	count, err := a.ResponseWriterWrapper.Write(body)
	a.size += int64(count)
	return count, err
}

func (a *answered) ReadFrom(body io.Reader) (int64, error) {
	a.begin()
	count, err := a.ResponseWriterWrapper.ReadFrom(body)
	a.size += count
	return count, err
}

// begin handles an answer whose status was never written.
func (a *answered) begin() {
	a.head()
	if a.status < 200 {
		a.status = http.StatusOK
	}
}

// countedBody counts the bytes read from a request's body.
type countedBody struct {
	io.ReadCloser
	count int64
}

func (b *countedBody) Read(buffer []byte) (int, error) {
	count, err := b.ReadCloser.Read(buffer)
	b.count += int64(count)
	return count, err
}

var (
	_ caddy.Provisioner           = (*Answers)(nil)
	_ caddy.CleanerUpper          = (*Answers)(nil)
	_ caddyhttp.MiddlewareHandler = (*Answers)(nil)
	_ http.ResponseWriter         = (*answered)(nil)
)
