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
// something lacks. Digests that a pin had before are kept as its history, so
// that it can be rolled back to those whose bytes are still here; the history
// has no roots, and nothing of it is promised. Pins can be read from a
// lockfile and written to one ([Lock]). What upstream says of a pinned tag,
// and which signatures and SBOMs refer to a pinned image, is looked at
// now and then; these referrers are kept by an edge from the image to each,
// because they go with it.
//
// # What passes
//
// When a client has got an image's manifest, or a pull or a pin is done, the image
// passes: its config and layers begin to flow before they are asked for, unless
// that is turned off, and once its config is here an index knows it by the chain
// ID of each of its layers ([Registry.Chain]). So a [RootFS] can be made of it
// without asking anybody.
//
// Layers that lie here unpacked (Options.Unpacked) need not be kept compressed, as
// Options.DropLayers says. One that was dropped is a blob that is not here, and an
// image is complete without it as long as its form is here.
//
// # Rights
//
// A right is held for a repository, never for a digest, and is looked at
// before anything is joined, read or asked for. Where the operator opened an
// upstream, who reaches us may see what it gives us, and what callers show us
// is ignored. Elsewhere the upstream is asked without a credential, and what it
// gives to nobody in particular is given to everybody. What it refuses so, it
// is asked for with the credential that the caller sent us ([Caller]), if it
// sent one; when upstream accepts it, that is a grant: this caller may see all
// that upstream has shown to be in this repository, to whomever, for
// GrantTTL, and for GrantGrace while upstream cannot be asked. A refusal of the
// upstream ends a grant at once. Errors are the same for what is here and
// what is not.
//
// # The state
//
// registry.db is a bbolt file:
//
//	meta
//	├─ schema                     1, as decimal text
//	└─ salt                       32 random bytes of this store, for grants
//	tags
//	└─ <repository>:<tag>         JSON: digest, media type, size, when it moved here, whether public
//	pins
//	└─ <reference>                JSON: digest, media type, size, platforms, when, whether from the lockfile
//	history
//	└─ <reference>                JSON: the digests that the pin had before, oldest first, from when until when
//	holds
//	└─ <repository>@<digest>      "public" or "private": upstream itself has shown this manifest or blob in this
//	                              repository: it sent it, or answered a HEAD for it; to be named by a manifest is not enough.
//	                              "private" too: the operator imported it, or it was pushed
//	                              "mirror": only a mirror has shown it, which lets nobody see it whom upstream has to let in
//	home
//	└─ <repository>@<digest>      JSON of what was pushed: media type ("": a blob), size, when, what it refers to as which artifact
//	referrers
//	└─ <repository>@<subject> <digest>  the artifact type of a manifest in home that refers to the subject; it follows from home
//	chains
//	└─ <chain ID> <manifest>      empty: the image has a layer with this chain ID. It follows from manifest and config:
//	                              rows of what is here no more are dropped, and a file without any gets them (meta: chained)
//	rootfs
//	└─ <manifest>                 JSON: a repository that has it, its chain IDs
//	grants
//	└─ <who> <repository>         JSON: when upstream last accepted the caller's credential; who is the HMAC-SHA256,
//	                              under the salt, of the upstream's name and address and the credential, in hex
//
// Tags and pins are in index.json of the image layout too, with their rows as
// annotations, and pins are roots of the store: when registry.db is damaged,
// it is set aside (registry.db.damaged-<unix time>) and begins with those. A pin
// is acknowledged when it is in index.json, a tag gets there within a second or two,
// later where so much is listed that writing it takes long (indexShare).
// What was pushed is found again by its roots in the store, and manifests that
// were pushed, with the blobs that they name, by index.json too.
// What only registry.db knew (holds, grants, histories of pins) is found again by
// asking, or forgotten.
//
// go-containerregistry's types stay inside this package.
package registry
