package herald.peers;

import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.sql.SQLException;
import java.util.List;
import org.apache.kafka.clients.consumer.KafkaConsumer;

/** Confluent Parallel Consumer: one record of a key at a time, 100 at once. */
final class Parallel {
    static final int CONCURRENCY = 100;

    private Parallel() {}

    static double withLedger(Job job, Ledger ledger, Work work) throws InterruptedException {
        return run(job, order -> {
            try {
                if (ledger.claim(order)) {
                    work.on(order);
                    ledger.settle(order);
                }
            } catch (SQLException error) {
                throw new IllegalStateException(error);
            }
        });
    }

    static double withoutLedger(Job job, Work work) throws InterruptedException {
        return run(job, work::on);
    }

    private interface Handler {
        void on(Order order);
    }

    private static double run(Job job, Handler handler) throws InterruptedException {
        var options = ParallelConsumerOptions.<String, byte[]>builder()
                .ordering(ProcessingOrder.KEY)
                .maxConcurrency(CONCURRENCY)
                .consumer(new KafkaConsumer<>(job.consumer()))
                .build();
        try (var processor = ParallelStreamProcessor.createEosStreamProcessor(options)) {
            processor.subscribe(List.of(job.topic));
            processor.poll(context -> {
                job.begun();
                handler.on(Order.of(context.getSingleConsumerRecord()));
                job.ended(1);
            });
            return job.seconds();
        }
    }
}
