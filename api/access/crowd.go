package access

import (
	"container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// CrowdOptions bound how many connections there are. The zero value bounds nothing.
type CrowdOptions struct {
	// Files is how many files all of them may take: each connection takes one, and
	// each request that is being answered another. 0: no limit.
	Files int
	// OfOne is how many connections one address may have, 0: no limit. Behind a
	// proxy, or a router, are many callers at one address.
	OfOne int
	Log   *slog.Logger     // default: discarded
	Now   func() time.Time // default: time.Now
}

// Crowd is all connections of some servers together. When there are too many,
// the address that takes most gives one up: the one that has been idle for longest,
// or has not said for longest what it wants; without any of those its newest,
// which loses least. So whoever floods us floods itself out, and while there is
// room nobody is refused anything.
type Crowd struct {
	options CrowdOptions

	mu        sync.Mutex // guards what follows
	guests    map[net.Conn]*guest
	addresses map[string]*party
	files     int
	warned    time.Time
}

// guest is one connection.
type guest struct {
	conn   net.Conn
	of     *party
	place  *list.Element // in idle, or in active, of its address
	active bool
}

// party is all connections of one address.
type party struct {
	address      string
	idle, active *list.List // of *guest, by when they became so
	requests     int
}

func (p *party) connections() int { return p.idle.Len() + p.active.Len() }

// warnEvery is how often the log tells that there are too many connections.
const warnEvery = time.Minute

// NewCrowd makes an empty one.
func NewCrowd(o CrowdOptions) *Crowd {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Crowd{options: o, guests: map[net.Conn]*guest{}, addresses: map[string]*party{}}
}

// Watch bounds the connections of a server that has not begun, besides those of
// others that were given to it.
func (c *Crowd) Watch(server *http.Server) {
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, guestKey{}, c.come(bare(conn)))
	}
	server.ConnState = c.note
	server.Handler = c.counted(server.Handler)
}

type guestKey struct{}

// bare is the connection that takes the file. To close it needs no word with the
// other end.
func bare(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// counted counts the requests that are being answered, of which a connection of
// HTTP/2 has many.
func (c *Crowd) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g, ok := r.Context().Value(guestKey{}).(*guest); ok {
			c.begin(g)
			defer c.end(g)
		}
		h.ServeHTTP(w, r)
	})
}

func (c *Crowd) begin(g *guest) {
	c.mu.Lock()
	g.of.requests++
	c.files++
	lost := c.tooMany(nil)
	c.mu.Unlock()
	c.letGo(lost)
}

func (c *Crowd) end(g *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g.of.requests--
	c.files--
	c.forget(g.of)
}

func (c *Crowd) come(conn net.Conn) *guest {
	address := networkOf(conn.RemoteAddr().String())
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.addresses[address]
	if p == nil {
		p = &party{address: address, idle: list.New(), active: list.New()}
		c.addresses[address] = p
	}
	g := &guest{conn: conn, of: p}
	g.place = p.idle.PushBack(g)
	c.guests[conn] = g
	c.files++
	return g
}

// note is for http.Server.ConnState.
func (c *Crowd) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	g := c.guests[bare(conn)]
	var lost losses
	switch {
	case g == nil: // it was given up
	case state == http.StateNew:
		lost = c.tooMany(g.of)
	case state == http.StateActive || state == http.StateIdle:
		c.turn(g, state == http.StateActive)
	default:
		c.leave(g)
	}
	c.mu.Unlock()
	c.letGo(lost)
}

// losses are connections that are to be closed when c.mu is free again.
type losses struct {
	conns   []net.Conn
	address string // of the last one
	ofIt    int    // how many it had, of ofAll
	ofAll   int
	warn    bool // the log is to tell
}

func (c *Crowd) letGo(l losses) {
	if l.warn {
		c.options.Log.Warn("there are too many connections: the address that has most loses some", "address", l.address, "of_it", l.ofIt, "of_all", l.ofAll)
	}
	for _, conn := range l.conns {
		_ = conn.Close() // whoever serves it finds out
	}
}

// turn notes that a connection is being answered, or is not any more.
func (c *Crowd) turn(g *guest, active bool) {
	if g.active == active {
		return
	}
	from, to := g.of.idle, g.of.active
	if !active {
		from, to = to, from
	}
	from.Remove(g.place)
	g.active, g.place = active, to.PushBack(g)
}

func (c *Crowd) leave(g *guest) {
	c.turn(g, false)
	g.of.idle.Remove(g.place)
	delete(c.guests, g.conn)
	c.files--
	c.forget(g.of)
}

// forget drops an address of which nothing is left.
func (c *Crowd) forget(p *party) {
	if p.connections() == 0 && p.requests == 0 {
		delete(c.addresses, p.address)
	}
}

// tooMany takes the connections that are to be closed; p is the address of a new
// one, nil where none came.
func (c *Crowd) tooMany(p *party) (lost losses) {
	if p != nil && c.options.OfOne > 0 && p.connections() > c.options.OfOne {
		c.giveUp(p, &lost)
	}
	for c.options.Files > 0 && c.files > c.options.Files && len(c.guests) > 0 {
		c.giveUp(c.largest(), &lost)
	}
	if len(lost.conns) == 0 {
		return lost
	}
	if now := c.options.Now(); now.Sub(c.warned) >= warnEvery {
		c.warned, lost.warn = now, true
	}
	return lost
}

// giveUp takes one of the connections of an address, which has some.
func (c *Crowd) giveUp(p *party, lost *losses) {
	lost.address, lost.ofIt, lost.ofAll = p.address, p.connections(), len(c.guests)
	place := p.idle.Front()
	if place == nil {
		place = p.active.Back()
	}
	g := place.Value.(*guest)
	c.leave(g)
	lost.conns = append(lost.conns, g.conn)
}

// largest is the address that takes most, of those that have connections; there are some.
func (c *Crowd) largest() (most *party) {
	for _, p := range c.addresses {
		if p.connections() > 0 && (most == nil || p.connections()+p.requests > most.connections()+most.requests) {
			most = p
		}
	}
	return most
}
