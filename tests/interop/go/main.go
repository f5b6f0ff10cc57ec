// A platform and a CRM with franz-go, and with goavro or hamba/avro. See ../README.md for the arguments.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	hamba "github.com/hamba/avro/v2"
	"github.com/hamba/avro/v2/soe"
	"github.com/linkedin/goavro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

const headerBytes = 10

var countries = []string{"US", "IN", "NA", "Côte d'Ivoire"}

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func schema(name string) string {
	return string(must(os.ReadFile(filepath.Join(os.Getenv("SCHEMAS"), name+".avsc"))))
}

func event(id string, i int) map[string]any {
	return map[string]any{
		"event_id":               id,
		"student_id":             fmt.Sprintf("student-%d", i%97),
		"occurred_at":            time.UnixMilli(1_790_000_000_000 + int64(i)).UTC(),
		"student_country":        countries[i%4],
		"days_on_platform":       int64(i % 400),
		"minutes_watched":        float64(i) * 0.25,
		"courses_started":        int64(i % 7),
		"practice_exams_started": int64(i % 5),
		"practice_exams_passed":  int64(i % 5 / 2),
		"minutes_spent_on_exams": float64(i%90) * 1.5,
	}
}

// encoder returns what frames one event, as each library does it by itself.
func encoder(library string) func(map[string]any) []byte {
	switch library {
	case "goavro":
		codec := must(goavro.NewCodec(schema("engagement_event")))
		return func(e map[string]any) []byte { return must(codec.SingleFromNative(nil, e)) }
	case "hamba":
		codec := must(soe.NewCodec(must(hamba.Parse(schema("engagement_event")))))
		return func(e map[string]any) []byte { return must(codec.Encode(e)) }
	}
	log.Fatalf("no library %q", library)
	return nil
}

func produce(library, servers, topic string, count int, codec, mode string) {
	ctx := context.Background()
	encode := encoder(library)
	options := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(servers, ",")...),
		kgo.ProducerBatchCompression(codecs[codec]),
	}
	transactional := mode == "transactional"
	if transactional {
		options = append(options, kgo.TransactionalID(fmt.Sprintf("%s-%d", library, time.Now().UnixNano())))
	}
	client := must(kgo.NewClient(options...))
	defer client.Close()
	record := func(id string, i int) *kgo.Record {
		r := &kgo.Record{Topic: topic, Value: encode(event(id, i))}
		if i%10 != 9 {
			r.Key = []byte(fmt.Sprintf("student-%d", i%97))
		}
		if i%3 == 0 {
			r.Headers = []kgo.RecordHeader{
				{Key: "traceparent", Value: []byte(fmt.Sprintf("00-%d", i))},
				{Key: "odd €", Value: nil},
				{Key: "odd €", Value: []byte{0, 0xff}},
			}
		}
		return r
	}
	for start := 0; start < count; start += 50 {
		if transactional {
			must(0, client.BeginTransaction())
			for i := range 10 {
				must(0, client.ProduceSync(ctx, record(fmt.Sprintf("aborted-%d", i), i)).FirstErr())
			}
			must(0, client.EndTransaction(ctx, kgo.TryAbort))
			must(0, client.BeginTransaction())
		}
		for i := start; i < min(start+50, count); i++ {
			client.Produce(ctx, record(fmt.Sprintf("%s-%d", library, i), i), func(_ *kgo.Record, err error) { must(0, err) })
		}
		must(0, client.Flush(ctx))
		if transactional {
			must(0, client.EndTransaction(ctx, kgo.TryCommit))
		}
	}
}

// decoder returns what reads one prediction. Both libraries compute another fingerprint than the
// specification for a schema with logical types, so both are given the record behind the frame's header.
func decoder(library string) func([]byte) map[string]any {
	text := schema("purchase_prediction")
	specification := []byte{0xc3, 0x01}
	specification = binary.LittleEndian.AppendUint64(specification, fingerprint())
	check := func(value []byte) []byte {
		if len(value) < headerBytes || string(value[:headerBytes]) != string(specification) {
			log.Fatal("another schema")
		}
		return value[headerBytes:]
	}
	switch library {
	case "goavro":
		codec := must(goavro.NewCodec(text))
		return func(value []byte) map[string]any {
			native, rest, err := codec.NativeFromBinary(check(value))
			if must(native, err); len(rest) > 0 {
				log.Fatal("bytes follow the record")
			}
			return native.(map[string]any)
		}
	case "hamba":
		parsed := must(hamba.Parse(text))
		return func(value []byte) map[string]any {
			var fields map[string]any
			must(0, hamba.Unmarshal(parsed, check(value), &fields))
			return fields
		}
	}
	log.Fatalf("no library %q", library)
	return nil
}

// fingerprint returns what `purchase-stream schemas fingerprint purchase_prediction` prints.
func fingerprint() uint64 {
	return must(strconv.ParseUint(os.Getenv("PREDICTION_FINGERPRINT"), 16, 64))
}

func consume(library, servers, topic string, count int) {
	decode := decoder(library)
	client := must(kgo.NewClient(
		kgo.SeedBrokers(strings.Split(servers, ",")...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	))
	defer client.Close()
	for found := 0; found < count; {
		fetches := client.PollFetches(context.Background())
		for _, err := range fetches.Errors() {
			log.Fatal(err.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			fields := decode(r.Value)
			for _, name := range []string{"occurred_at", "scored_at"} {
				fields[name] = fields[name].(time.Time).UnixMilli()
			}
			fmt.Println(string(must(json.Marshal(fields))))
			found++
		})
	}
}

func main() {
	library, a := os.Args[1], os.Args[2:]
	count := must(strconv.Atoi(a[3]))
	if a[0] == "platform" {
		produce(library, a[1], a[2], count, a[4], a[5])
	} else {
		consume(library, a[1], a[2], count)
	}
}
