package registry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

const (
	saltSize = 32 // bytes, as many as the hash has
	// grantsInMemory spares a pull the look into the file for each layer.
	grantsInMemory = 4096
	// sweepStep is how many rows each write looks at for old ones, so that the
	// file does not grow though nothing ever reads it through.
	sweepStep = 8
)

// grants remembers who has shown a right to which repository, and when. Of the
// credential it keeps a hash with a salt of this store's own.
type grants struct {
	db   *boltfile.File
	salt []byte
	now  func() time.Time
	most time.Duration // the longest that a grant is of use

	recent *lru.Cache[string, time.Time] // what rows say, or shall say; the zero time: there is none
	hand   []byte                        // the row to sweep next; for writers, of whom bolt lets one at a time
}

// grantRow is when upstream last accepted a credential for a repository.
type grantRow struct {
	Proven time.Time `json:"proven"`
}

func newGrants(db *boltfile.File, now func() time.Time, most time.Duration) (*grants, error) {
	recent, err := lru.New[string, time.Time](grantsInMemory)
	if err != nil {
		return nil, err
	}
	g := &grants{db: db, now: now, most: most, recent: recent}
	err = db.View(func(tx *bolt.Tx) error {
		g.salt = append([]byte(nil), tx.Bucket(bucketMeta).Get(keySalt)...)
		return nil
	})
	return g, err
}

// prepareGrants makes the bucket, and the salt where there is none.
func prepareGrants(tx *bolt.Tx) error {
	if _, err := tx.CreateBucketIfNotExists(bucketGrants); err != nil {
		return err
	}
	meta := tx.Bucket(bucketMeta)
	if len(meta.Get(keySalt)) == saltSize {
		return nil
	}
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	return meta.Put(keySalt, salt)
}

// id names a caller at an upstream. An upstream that moved to another address
// is another one: the credential has not been shown there.
func (g *grants) id(u *upstream, c Caller) (string, error) {
	login := c.login()
	told, err := json.Marshal([]string{u.name, u.base.String(), login.Username, login.Password, login.RegistryToken})
	if err != nil {
		return "", err
	}
	hash := hmac.New(sha256.New, g.salt)
	hash.Write(told)
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func grantKey(id string, in Repository) string { return id + " " + in.String() }

// proven is when the caller last showed a right to a repository, zero for never.
func (g *grants) proven(id string, in Repository) (at time.Time, err error) {
	key := grantKey(id, in)
	if at, ok := g.recent.Get(key); ok {
		return at, nil
	}
	err = g.db.View(func(tx *bolt.Tx) error {
		var row grantRow
		if value := tx.Bucket(bucketGrants).Get([]byte(key)); value != nil {
			if err := json.Unmarshal(value, &row); err != nil {
				return err
			}
		}
		at = row.Proven
		return nil
	})
	if err != nil {
		return at, err
	}
	if newer, ok, _ := g.recent.PeekOrAdd(key, at); ok {
		return newer, nil
	}
	return at, nil
}

// put notes that a right was shown now.
func (g *grants) put(id string, in Repository) error {
	key, now := grantKey(id, in), g.now()
	g.recent.Add(key, now)
	return g.write(key, now)
}

// drop takes a grant back. It says whether there was one.
func (g *grants) drop(id string, in Repository) (bool, error) {
	if at, err := g.proven(id, in); err == nil && at.IsZero() {
		return false, nil // nothing to write, however often somebody guesses
	}
	key := grantKey(id, in)
	g.recent.Add(key, time.Time{})
	return true, g.write(key, time.Time{})
}

// write makes a row say what is known in memory by then, so that of two
// writes the later one counts, in whichever order they come to the file.
func (g *grants) write(key string, at time.Time) error {
	return g.db.Batch(func(tx *bolt.Tx) error {
		if now, ok := g.recent.Peek(key); ok {
			at = now
		}
		if at.IsZero() {
			return tx.Bucket(bucketGrants).Delete([]byte(key))
		}
		if err := g.sweep(tx); err != nil {
			return err
		}
		return put(tx, bucketGrants, key, grantRow{Proven: at})
	})
}

// sweep looks at some rows, going on where the last sweep ended, and removes
// those that are of no use any more.
func (g *grants) sweep(tx *bolt.Tx) error {
	rows := tx.Bucket(bucketGrants).Cursor()
	var key, value []byte
	if g.hand == nil {
		key, value = rows.First()
	} else {
		key, value = rows.Seek(g.hand)
	}
	var old [][]byte
	for range sweepStep {
		if key == nil {
			break
		}
		var row grantRow
		if json.Unmarshal(value, &row) != nil || g.now().Sub(row.Proven) > g.most {
			old = append(old, append([]byte(nil), key...))
		}
		key, value = rows.Next()
	}
	g.hand = append([]byte(nil), key...)
	for _, key := range old {
		if err := tx.Bucket(bucketGrants).Delete(key); err != nil {
			return err
		}
		g.recent.Remove(string(key))
	}
	return nil
}
