package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/imagecache/imagecache/registry"
)

// TestEveryFieldIsDescribed, those too that few answers have.
func TestEveryFieldIsDescribed(t *testing.T) {
	schemas := description(t).Components.Schemas
	walk := fieldWalk{t: t, seen: map[reflect.Type]bool{}}
	for name, answer := range map[string]any{
		"Status": fullStatus{}, "DiskUsage": registry.DiskUsage{}, "Image": registry.Image{}, "Inspection": registry.Inspection{},
		"Removed": registry.Removed{}, "Pin": registry.Pin{}, "Lock": registry.Lock{}, "Applied": registry.Applied{}, "Drilled": registry.Drilled{},
		"Collection": registry.Collection{}, "Scrubbed": Scrubbed{}, "Sought": registry.Sought{}, "Imported": registry.Imported{},
		"Rootfs": Rootfs{}, "Verdict": Verdict{}, "Error": errorBody{}, "Progress": registry.Progress{},
	} {
		if schemas[name] == nil {
			t.Errorf("there is no schema %s", name)
			continue
		}
		walk.compare(name, reflect.TypeOf(answer), schemas[name].Value)
	}
}

type fieldWalk struct {
	t    *testing.T
	seen map[reflect.Type]bool
}

// compare finds fields of a type that its schema lacks, and properties of the
// schema that the type lacks.
func (w fieldWalk) compare(at string, of reflect.Type, schema *openapi3.Schema) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice && schema.Items != nil {
		if of.Kind() == reflect.Slice {
			schema = schema.Items.Value
		}
		of = of.Elem()
	}
	marshals := of.Implements(reflect.TypeFor[json.Marshaler]())
	if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() || marshals || w.seen[of] {
		return
	}
	w.seen[of] = true
	fields := map[string]reflect.Type{}
	fieldsOf(of, fields)
	for name, field := range fields {
		said := schema.Properties[name]
		if said == nil {
			w.t.Errorf("%s.%s (of %s) is not described", at, name, of)
			continue
		}
		w.compare(at+"."+name, field, said.Value)
	}
	for name := range schema.Properties {
		if fields[name] == nil {
			w.t.Errorf("%s.%s is described, and %s has no such field", at, name, of)
		}
	}
}

func fieldsOf(of reflect.Type, into map[string]reflect.Type) {
	for _, field := range reflect.VisibleFields(of) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || name == "-" || field.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = field.Name
		}
		into[name] = field.Type
	}
}
