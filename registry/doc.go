// Package registry answers for references: which upstream a registry name
// means, which digest a tag means today, what a pin says instead, and who may
// see a repository. The bytes themselves are layerstore's.
//
// # A tag
//
// A tag is a row: the digest that upstream last gave, and when. Pinned: the
// pin answers. Fresh (younger than the upstream's TagTTL): the row answers.
// Old: upstream is asked by HEAD; where the digest has moved, the new manifest
// is fetched first and then the row is moved. Where upstream fails, refuses,
// limits, or is slower than StaleWait, the old row answers and the [Answer]
// says so. One question to upstream for a tag, however many ask.
//
// # A pin
//
// A pin is a row and a root of the store. It is written once the manifest is
// durable, so that from then on the reference answers with its digest; what it
// needs besides is fetched then, and by the converge loop for as long as
// something lacks.
//
// # Rights
//
// A right is held for a repository, never for a digest. Where the operator
// opened an upstream, who reaches us may see what it gives us. Elsewhere the
// upstream is asked without a credential, and what it gives to nobody in
// particular is given to everybody.
//
// # The state
//
// registry.db is a bbolt file:
//
//	meta
//	└─ schema                     1, as decimal text
//	tags
//	└─ <repository>:<tag>         JSON: digest, media type, size, when it moved here, whether public
//	pins
//	└─ <reference>                JSON: digest, media type, size, platforms, when
//	holds
//	└─ <repository>@<digest>      "public" or "private": upstream has this blob in this repository
//
// go-containerregistry's types stay inside this package.
package registry
