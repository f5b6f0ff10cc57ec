import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** A CRM: read committed predictions and act on the likely buyers. */
public final class Predictions {
  public static void main(String[] args) throws Exception {
    Path schemas = Path.of(setting("SCHEMAS", "../../schemas"));
    Schema schema = new Schema.Parser().parse(schemas.resolve("purchase_prediction.avsc").toFile());
    BinaryMessageDecoder<GenericRecord> decoder = new BinaryMessageDecoder<>(new GenericData(), schema);
    Map<String, Object> config =
        Map.of(
            "bootstrap.servers", setting("BOOTSTRAP_SERVERS", "localhost:9092"),
            "group.id", setting("GROUP_ID", "crm"),
            "isolation.level", "read_committed", // Java's default shows aborted predictions, too
            "auto.offset.reset", "earliest");
    int remaining = Integer.parseInt(setting("COUNT", "-1"));
    try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      consumer.subscribe(List.of(setting("TOPIC", "purchase-predictions")));
      while (remaining != 0) {
        for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
          GenericRecord prediction = decoder.decode(record.value(), null);
          if (prediction.get("predicted_purchase").equals(1)) {
            System.out.printf(
                "%s %.4f%n", prediction.get("student_id"), prediction.get("predicted_purchase_probability"));
          }
          remaining--;
        }
      }
    }
  }

  private static String setting(String name, String otherwise) {
    return System.getenv().getOrDefault(name, otherwise);
  }
}
