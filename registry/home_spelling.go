package registry

import (
	"bytes"
	"encoding/json"
	"strings"
)

// fields are those of an object, as the image specification spells them, and
// what those have that are objects, or lists of such.
type fields map[string]fields

// They decide what is pulled. Go's decoder takes them in any case, others do not.
var (
	descriptorFields = fields{"mediaType": nil, "digest": nil, "size": nil, "urls": nil, "data": nil, "annotations": nil, "artifactType": nil, "platform": nil}
	manifestFields   = fields{"schemaVersion": nil, "mediaType": nil, "artifactType": nil, "annotations": nil,
		"config": descriptorFields, "layers": descriptorFields, "manifests": descriptorFields, "subject": descriptorFields}
)

// spelledOnce refuses a document that parsers read in different ways: with a
// field that is there twice, of which some take the first and some the last, or
// with one that only those see that do not mind its case. So there could be two
// images by one digest, as in CVE-2021-41190. The content is valid JSON.
func spelledOnce(content []byte) error {
	s := speller{json.NewDecoder(bytes.NewReader(content))}
	s.UseNumber()
	return s.value(manifestFields)
}

type speller struct{ *json.Decoder }

// value reads one value; known are the fields of an object there. It calls
// itself no deeper than the 10,000 levels that encoding/json allows.
func (s speller) value(known fields) error {
	t, err := s.Token()
	if err != nil {
		return notJSON(err)
	}
	switch t {
	case json.Delim('{'):
		err = s.object(known)
	case json.Delim('['):
		for err == nil && s.More() {
			err = s.value(known)
		}
	default:
		return nil
	}
	if err == nil {
		_, err = s.Token() // the end
	}
	return err
}

func (s speller) object(known fields) error {
	seen := map[string]bool{}
	for s.More() {
		t, err := s.Token()
		if err != nil {
			return notJSON(err)
		}
		name, _ := t.(string)
		if seen[name] {
			return invalid("the manifest has the field %s twice", quoted(name))
		}
		seen[name] = true
		if right := known.spelling(name); right != name {
			return invalid("the manifest has the field %s, which is spelled %q", quoted(name), right)
		}
		if err := s.value(known[name]); err != nil {
			return err
		}
	}
	return nil
}

// spelling is how a field is spelled that a name may be taken for, else the name.
func (f fields) spelling(name string) string {
	if _, known := f[name]; known {
		return name
	}
	for right := range f {
		if strings.EqualFold(right, name) {
			return right
		}
	}
	return name
}
