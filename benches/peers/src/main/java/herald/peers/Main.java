package herald.peers;

import java.util.Arrays;
import java.util.Locale;

/**
 * Runs one peer over topics that are full, one after the other in this process, and prints for each the seconds from its first
 * record to its last.
 *
 * <p>Arguments: the peer, and TOPIC:ORDERS for each topic. The rest comes from the environment: BOOTSTRAP_SERVERS, JDBC_URL,
 * PARTITIONS, LONGEST_WORK_MILLIS.
 */
public final class Main {
    /** Hikari's advice is few; more than the threads that wait for one makes nothing faster. */
    private static final int CONNECTIONS = 16;

    private Main() {}

    public static void main(String[] arguments) throws Exception {
        String peer = arguments[0];
        int partitions = Integer.parseInt(System.getenv("PARTITIONS"));
        Work work = new Work(Long.parseLong(System.getenv("LONGEST_WORK_MILLIS")));
        try (Ledger ledger = new Ledger(System.getenv("JDBC_URL"), CONNECTIONS)) {
            for (String argument : Arrays.asList(arguments).subList(1, arguments.length)) {
                String[] parts = argument.split(":");
                Job job = new Job(System.getenv("BOOTSTRAP_SERVERS"), parts[0], Long.parseLong(parts[1]));
                double seconds = switch (peer) {
                    case "spring-records" -> Spring.records(job, ledger, work, partitions);
                    case "spring-batches" -> Spring.batches(job, ledger, work, partitions);
                    case "spring-rows-before" -> Spring.rowsBefore(job, ledger, work, partitions);
                    case "parallel-ledger" -> Parallel.withLedger(job, ledger, work);
                    case "parallel" -> Parallel.withoutLedger(job, work);
                    default -> throw new IllegalArgumentException("unknown peer " + peer);
                };
                System.out.printf(Locale.ROOT, "%s %.4f%n", parts[0], seconds);
            }
        }
        // Threads of a client that has been closed may linger.
        System.exit(0);
    }
}
