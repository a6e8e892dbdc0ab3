package herald.peers;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/** What a record says that has to be known to keep it apart from others. */
record Order(long id, String eventType, int partition, long offset) {
    private static final ObjectMapper JSON = new ObjectMapper();

    static Order of(ConsumerRecord<String, byte[]> record) {
        try {
            JsonNode event = JSON.readTree(record.value());
            long id = event.get("order").get("order_id").asLong();
            return new Order(id, event.get("event_type").asText(), record.partition(), record.offset());
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
