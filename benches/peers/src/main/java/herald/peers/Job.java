package herald.peers;

import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** One topic to be consumed from its beginning to its last order, and the time that took. */
final class Job {
    private final String bootstrapServers;
    final String topic;
    private final long orders;
    private final AtomicLong startedAt = new AtomicLong();
    private final AtomicLong finished = new AtomicLong();
    private final CountDownLatch done = new CountDownLatch(1);
    private volatile long endedAt;

    Job(String bootstrapServers, String topic, long orders) {
        this.bootstrapServers = bootstrapServers;
        this.topic = topic;
        this.orders = orders;
    }

    Map<String, Object> consumer() {
        Map<String, Object> config = new HashMap<>();
        config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrapServers);
        config.put(ConsumerConfig.GROUP_ID_CONFIG, topic + "-peer");
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        config.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        config.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, StringDeserializer.class);
        config.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        return config;
    }

    /** A record is in hand. */
    void begun() {
        if (startedAt.get() == 0) {
            startedAt.compareAndSet(0, System.nanoTime());
        }
    }

    /** As many orders have ended, with all that is promised of them. */
    void ended(long count) {
        if (finished.addAndGet(count) >= orders) {
            endedAt = System.nanoTime();
            done.countDown();
        }
    }

    double seconds() throws InterruptedException {
        done.await();
        return (endedAt - startedAt.get()) / 1e9;
    }
}
