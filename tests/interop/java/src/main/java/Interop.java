import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.avro.message.BinaryMessageEncoder;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** A platform and a CRM with Apache Kafka's own client and Apache Avro. See ../README.md for the arguments. */
public final class Interop {
  private static final String[] COUNTRIES = {"US", "IN", "NA", "Côte d'Ivoire"};

  public static void main(String[] args) throws Exception {
    Path schemas = Path.of(System.getenv("SCHEMAS"));
    if (args[0].equals("platform")) {
      produce(schemas, args[1], args[2], Integer.parseInt(args[3]), args[4], args[5]);
    } else {
      consume(schemas, args[1], args[2], Integer.parseInt(args[3]));
    }
  }

  private static void produce(
      Path schemas, String servers, String topic, int count, String codec, String mode) throws Exception {
    Schema schema = new Schema.Parser().parse(schemas.resolve("engagement_event.avsc").toFile());
    BinaryMessageEncoder<GenericRecord> encoder = new BinaryMessageEncoder<>(new GenericData(), schema);
    boolean transactional = mode.equals("transactional");
    Map<String, Object> config = new java.util.HashMap<>();
    config.put("bootstrap.servers", servers);
    config.put("enable.idempotence", true);
    config.put("compression.type", codec);
    if (transactional) {
      config.put("transactional.id", "java-" + UUID.randomUUID());
    }
    try (KafkaProducer<byte[], byte[]> producer =
        new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
      if (transactional) {
        producer.initTransactions();
      }
      for (int start = 0; start < count; start += 50) {
        if (transactional) {
          producer.beginTransaction();
          for (int i = 0; i < 10; i++) {
            producer.send(event(schema, encoder, topic, "aborted-" + i, i));
          }
          producer.flush();
          producer.abortTransaction();
          producer.beginTransaction();
        }
        for (int i = start; i < Math.min(start + 50, count); i++) {
          producer.send(event(schema, encoder, topic, "java-" + i, i));
        }
        if (transactional) {
          producer.commitTransaction();
        }
      }
      producer.flush();
    }
  }

  private static ProducerRecord<byte[], byte[]> event(
      Schema schema, BinaryMessageEncoder<GenericRecord> encoder, String topic, String id, int i)
      throws Exception {
    GenericRecord event = new GenericData.Record(schema);
    event.put("event_id", id);
    event.put("student_id", "student-" + i % 97);
    event.put("occurred_at", 1_790_000_000_000L + i);
    event.put("student_country", COUNTRIES[i % 4]);
    event.put("days_on_platform", (long) (i % 400));
    event.put("minutes_watched", i * 0.25);
    event.put("courses_started", (long) (i % 7));
    event.put("practice_exams_started", (long) (i % 5));
    event.put("practice_exams_passed", (long) (i % 5 / 2));
    event.put("minutes_spent_on_exams", i % 90 * 1.5);
    ByteArrayOutputStream value = new ByteArrayOutputStream();
    encoder.encode(event, value);
    byte[] key = i % 10 == 9 ? null : ("student-" + i % 97).getBytes(StandardCharsets.UTF_8);
    ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, key, value.toByteArray());
    if (i % 3 == 0) {
      record.headers().add("traceparent", ("00-" + i).getBytes(StandardCharsets.UTF_8));
      record.headers().add("odd €", null).add("odd €", new byte[] {0, (byte) 0xff});
    }
    return record;
  }

  private static void consume(Path schemas, String servers, String topic, int count) throws Exception {
    Schema schema = new Schema.Parser().parse(schemas.resolve("purchase_prediction.avsc").toFile());
    BinaryMessageDecoder<GenericRecord> decoder = new BinaryMessageDecoder<>(new GenericData(), schema);
    Map<String, Object> config =
        Map.of(
            "bootstrap.servers", servers,
            "isolation.level", "read_committed", // Java's default shows aborted predictions, too
            "auto.offset.reset", "earliest");
    try (KafkaConsumer<byte[], byte[]> consumer =
        new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      List<TopicPartition> partitions = new ArrayList<>();
      consumer.partitionsFor(topic).forEach(p -> partitions.add(new TopicPartition(topic, p.partition())));
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      for (int found = 0; found < count; ) {
        for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
          System.out.println(decoder.decode(ByteBuffer.wrap(record.value()).array(), null));
          found++;
        }
      }
    }
  }
}
