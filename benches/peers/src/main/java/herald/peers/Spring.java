package herald.peers;

import java.sql.SQLException;
import java.util.List;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.listener.BatchMessageListener;
import org.springframework.kafka.listener.ConcurrentMessageListenerContainer;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.MessageListener;

/** Spring Kafka with its defaults: a thread for each partition, offsets committed when all records of a poll have been handled. */
final class Spring {
    private Spring() {}

    /** Record by record, each with two statements of its own. */
    static double records(Job job, Ledger ledger, Work work, int partitions) throws InterruptedException {
        return run(job, partitions, (MessageListener<String, byte[]>) record -> {
            job.begun();
            Order order = Order.of(record);
            try {
                if (ledger.claim(order)) {
                    work.on(order);
                    ledger.settle(order);
                }
            } catch (SQLException error) {
                throw new IllegalStateException(error);
            }
            job.ended(1);
        });
    }

    /** A poll at a time: all rows before, all notifications, all rows after. */
    static double batches(Job job, Ledger ledger, Work work, int partitions) throws InterruptedException {
        return run(job, partitions, (BatchMessageListener<String, byte[]>) records -> {
            job.begun();
            try {
                List<Order> claimed = ledger.claim(orders(records));
                claimed.forEach(work::on);
                ledger.settle(claimed);
            } catch (SQLException error) {
                throw new IllegalStateException(error);
            }
            job.ended(records.size());
        });
    }

    /** A poll at a time, and rows before the notifications alone: what a crash finds between the two is never notified. */
    static double rowsBefore(Job job, Ledger ledger, Work work, int partitions) throws InterruptedException {
        return run(job, partitions, (BatchMessageListener<String, byte[]>) records -> {
            job.begun();
            try {
                ledger.record(orders(records)).forEach(work::on);
            } catch (SQLException error) {
                throw new IllegalStateException(error);
            }
            job.ended(records.size());
        });
    }

    private static List<Order> orders(List<ConsumerRecord<String, byte[]>> records) {
        return records.stream().map(Order::of).toList();
    }

    private static double run(Job job, int partitions, Object listener) throws InterruptedException {
        ContainerProperties properties = new ContainerProperties(job.topic);
        properties.setMessageListener(listener);
        var factory = new DefaultKafkaConsumerFactory<String, byte[]>(job.consumer());
        var container = new ConcurrentMessageListenerContainer<>(factory, properties);
        container.setConcurrency(partitions);
        container.start();
        double seconds = job.seconds();
        container.stop();
        return seconds;
    }
}
