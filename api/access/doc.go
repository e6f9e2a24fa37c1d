// Package access says who a caller is and what it may do.
//
// # Who
//
// A caller shows a password that is in the htpasswd file, a token of an OpenID
// Connect issuer (as a bearer token, or as a password, for clients that know
// nothing else), a token that this package gave it, or a client certificate.
// Who shows nothing is anonymous, and what it may everybody may. Who shows what
// cannot be true is refused, and never taken for anonymous.
//
// Passwords cost much to check: those that were right are remembered as salted
// hashes, others wait for their turn, by address (turns.go), until the address
// is locked out (guess.go). Tokens cost little, and their issuer is asked for
// its keys seldom (keys.go).
//
// # What
//
// Rules name callers, verbs and repositories. Without any rule everybody may do
// what the daemon's address allows. With one, what no rule allows is refused.
//
// # How many
//
// Requests are bounded by caller, if the settings say so, and connections by how
// many files there may be ([Crowd]).
//
// # Tokens
//
// Docker's token flow: who is refused is told where to get a token
// ([Gate.Challenge]), gets one there for its password, or for nothing
// ([Gate.Token]), and shows it. A token tells who its bearer is, not what it
// may do: rules are looked at each time. It ends with what was shown for it. The
// key is made at the start, so that tokens end with the process; clients get new
// ones by themselves.
package access
