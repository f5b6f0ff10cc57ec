//! A platform and a CRM with rdkafka and apache-avro. See ../README.md for the arguments.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apache_avro::types::{Record, Value};
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::{GenericSingleObjectWriter, Schema};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const COUNTRIES: [&str; 4] = ["US", "IN", "NA", "Côte d'Ivoire"];
const HEADER_BYTES: usize = 10;
const TIMEOUT: Duration = Duration::from_secs(30);

fn schema(name: &str) -> Schema {
    let path = Path::new(&env::var("SCHEMAS").unwrap()).join(format!("{name}.avsc"));
    Schema::parse_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn event<'a>(schema: &'a Schema, id: &str, i: i64) -> Record<'a> {
    let mut event = Record::new(schema).unwrap();
    event.put("event_id", id);
    event.put("student_id", format!("student-{}", i % 97));
    event.put("occurred_at", Value::TimestampMillis(1_790_000_000_000 + i));
    event.put("student_country", COUNTRIES[(i % 4) as usize]);
    event.put("days_on_platform", i % 400);
    event.put("minutes_watched", i as f64 * 0.25);
    event.put("courses_started", i % 7);
    event.put("practice_exams_started", i % 5);
    event.put("practice_exams_passed", i % 5 / 2);
    event.put("minutes_spent_on_exams", (i % 90) as f64 * 1.5);
    event
}

fn send(producer: &BaseProducer, topic: &str, writer: &mut GenericSingleObjectWriter, event: Record, i: i64) {
    let mut value = Vec::new();
    writer.write_value(event.into(), &mut value).unwrap();
    let key = format!("student-{}", i % 97);
    let mut record = BaseRecord::<str, [u8]>::to(topic).payload(&value);
    if i % 10 != 9 {
        record = record.key(&key);
    }
    if i % 3 == 0 {
        let parent = format!("00-{i}");
        record = record.headers(
            OwnedHeaders::new()
                .insert(Header { key: "traceparent", value: Some(&parent) })
                .insert(Header { key: "odd €", value: None::<&[u8]> })
                .insert(Header { key: "odd €", value: Some(&[0u8, 0xff][..]) }),
        );
    }
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

fn produce(servers: &str, topic: &str, count: i64, codec: &str, mode: &str) {
    let schema = schema("engagement_event");
    let mut writer = GenericSingleObjectWriter::new_with_capacity(&schema, 1024).unwrap();
    let transactional = mode == "transactional";
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers);
    config.set("enable.idempotence", "true");
    config.set("compression.type", codec);
    if transactional {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        config.set("transactional.id", format!("rust-{now}"));
    }
    let producer: BaseProducer = config.create().unwrap();
    if transactional {
        producer.init_transactions(TIMEOUT).unwrap();
    }
    for start in (0..count).step_by(50) {
        if transactional {
            producer.begin_transaction().unwrap();
            for i in 0..10 {
                send(&producer, topic, &mut writer, event(&schema, &format!("aborted-{i}"), i), i);
            }
            producer.flush(TIMEOUT).unwrap();
            producer.abort_transaction(TIMEOUT).unwrap();
            producer.begin_transaction().unwrap();
        }
        for i in start..(start + 50).min(count) {
            send(&producer, topic, &mut writer, event(&schema, &format!("rust-{i}"), i), i);
        }
        producer.flush(TIMEOUT).unwrap();
        if transactional {
            producer.commit_transaction(TIMEOUT).unwrap();
        }
    }
}

/// Decode the record behind the frame's header. `GenericSingleObjectReader` computes another fingerprint than
/// the specification for a schema with logical types, and refuses the frame.
fn consume(servers: &str, topic: &str, count: usize) {
    let schema = schema("purchase_prediction");
    let fingerprint = u64::from_str_radix(&env::var("PREDICTION_FINGERPRINT").unwrap(), 16).unwrap();
    let header = [&[0xc3, 0x01][..], &fingerprint.to_le_bytes()[..]].concat();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "rust-crm")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let mut found = 0;
    while found < count {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message.unwrap();
        let value = message.payload().unwrap();
        assert_eq!(value[..HEADER_BYTES], header[..], "another schema");
        let mut rest = &value[HEADER_BYTES..];
        let prediction = reader.read_value(&mut rest).unwrap();
        assert!(rest.is_empty(), "bytes follow the record");
        println!("{}", serde_json::to_string(&json_of(prediction)).unwrap());
        found += 1;
    }
}

fn json_of(value: Value) -> serde_json::Value {
    match value {
        Value::Record(fields) => {
            let fields: HashMap<_, _> = fields.into_iter().map(|(name, value)| (name, json_of(value))).collect();
            serde_json::to_value(fields).unwrap()
        }
        Value::TimestampMillis(ms) => ms.into(),
        Value::Long(number) => number.into(),
        Value::Int(number) => number.into(),
        Value::Double(number) => number.into(),
        Value::String(text) => text.into(),
        other => panic!("no prediction has {other:?}"),
    }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args[0].as_str() {
        "platform" => produce(&args[1], &args[2], args[3].parse().unwrap(), &args[4], &args[5]),
        _ => consume(&args[1], &args[2], args[3].parse().unwrap()),
    }
}
